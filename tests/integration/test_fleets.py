"""Fleets: machines that share seeded states and steps of builds through a registry."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.ports import free_port
from helpers.registry import Proxy, Rule

import pytest_containers as pc
from pytest_containers.cli.main import main
from pytest_containers.engines.choose import prune_shared
from pytest_containers.images.shared import repository
from pytest_containers.images.store.layers import Layers
from pytest_containers.model.build import StreamBuildDisplay
from pytest_containers.model.engine_options import registry_settings
from pytest_containers.model.sharing import SharedPlace, Sharing
from pytest_containers.state import warm
from pytest_containers.state.facts import Inputs
from pytest_containers.state.warm import Outcome, Stage, WarmStates

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry")]

SPEC = pc.ContainerSpec("host:", ["sleep", "1000"])


class Shard:
    """A machine of a fleet: a store of its own, and a place that it shares with others."""

    def __init__(self, home: Path, root: Path, place: str, **options: Any) -> None:
        self.root, self.calls = root, 0
        self.during: Callable[[], object] = lambda: None
        self.warnings: list[str] = []
        self.outcomes: list[Outcome] = []
        sharing = {name: options.pop(name) for name in ("key_file", "run") if name in options}
        shared = SharedPlace(place, **options)
        self.engine = pc.Engine(
            home=home, sharing=Sharing(states=shared, warn=self.warnings.append, **sharing)
        )

    def stage(self, word: str, *, reads: bool = False) -> Stage:
        def act(container: pc.Container) -> None:
            self.calls += 1
            self.during()
            text = (self.root / word).read_text() if reads else word
            container.write_text("/srv/text", f"{text}\n")

        inputs = Inputs([word] if reads else (), self.root)
        return Stage("seed", SPEC, act, {"the seed": word}, inputs=inputs, traced=False)

    def image(self, *words: str, reads: bool = False, pushed: bool = True, **options: Any) -> Any:
        states = WarmStates(self.engine, self.root, tell=self.outcomes.append, **options)
        stages = [self.stage(word, reads=reads) for word in words or ("one",)]
        image = states.image("db", self.engine.image("host:"), stages, name="db")
        if pushed:
            self.engine.finish_sharing(60)
        return image

    def text(self, *words: str, **options: Any) -> str:
        with self.engine.run(self.image(*words, **options), ["cat", "/srv/text"]) as container:
            container.wait(60)
            return str(container.logs().stdout)

    def key_of(self, states: WarmStates, word: str) -> str:
        return warm._key(states._parts(self.stage(word), self.engine.image("host:")))


def shared_of(shard: Shard) -> Any:
    return shard.engine.states.shared


def repository_of(shard: Shard) -> Any:
    return shared_of(shard)._repository


def tags_of(repository: Any) -> list[str]:
    return list(repository._registry.tags(repository._repository, shown="test"))


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no registry that is down."""
    monkeypatch.setattr(repository, "_DOWN_S", 20.0)


Fleet = Callable[..., Shard]


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Makes machines."""
    shards: list[Shard] = []

    def make(place: str, **options: Any) -> Shard:
        checkout = tmp_path / f"checkout{len(shards)}"
        checkout.mkdir()
        shards.append(Shard(tmp_path / f"store{len(shards)}", checkout, place, **options))
        return shards[-1]

    yield make
    for shard in shards:
        shard.engine.close()


@pytest.fixture
def place(proxy: Proxy, request: pytest.FixtureRequest) -> str:
    """A repository for the test alone."""
    digits = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return f"{proxy.address}/ci/states-{digits}"


def test_a_state_is_made_by_one_machine_and_used_by_another(fleet: Fleet, place: str) -> None:
    first, second = fleet(place), fleet(place)
    image = first.image()
    assert second.image().id == image.id
    assert second.text() == "one\n"
    assert (first.calls, second.calls) == (1, 0)
    assert [outcome.reused for outcome in second.outcomes[:1]] == [True]
    assert first.warnings == second.warnings == []


@pytest.fixture
def late_pushes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is pushed before this event."""
    event, publish = threading.Event(), repository.SharedRepository.publish

    def late(self: Any, *args: Any, **options: Any) -> bool:
        event.wait(60)
        return publish(self, *args, **options)

    monkeypatch.setattr(repository.SharedRepository, "publish", late)
    yield event
    event.set()


@pytest.mark.long
def test_a_state_is_pushed_while_its_maker_goes_on(
    fleet: Fleet, place: str, late_pushes: threading.Event
) -> None:
    first, second = fleet(place), fleet(place)
    assert first.text(pushed=False) == "one\n"
    assert not [tag for tag in tags_of(repository_of(first)) if tag.startswith("state-")]
    late_pushes.set()
    first.engine.close()  # waits for it
    assert (second.text(), second.calls) == ("one\n", 0)
    assert first.warnings == second.warnings == []


@pytest.mark.long
def test_a_push_that_is_not_done_in_time_costs_a_warning(
    fleet: Fleet, place: str, late_pushes: threading.Event
) -> None:
    shard = fleet(place)
    shard.image("one", "two", pushed=False)
    shard.engine.finish_sharing(0.01)
    shard.engine.close()
    assert shard.warnings == [
        "2 of the results of this run were not pushed within 0.01 s, and are not shared"
    ]


@pytest.mark.long
def test_states_on_top_of_each_other_are_fetched_at_once(
    fleet: Fleet, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fleet(place), fleet(place)
    image = first.image("one", "two")
    both, thaw = threading.Barrier(2), Layers.thaw

    def meet(self: Layers, *args: Any) -> None:
        both.wait(60)
        thaw(self, *args)

    monkeypatch.setattr(Layers, "thaw", meet)
    assert second.image("one", "two").id == image.id
    assert (first.calls, second.calls) == (2, 0)
    assert [outcome.reused for outcome in second.outcomes] == [True, True]
    assert second.warnings == []


@pytest.mark.long
def test_of_states_on_top_of_each_other_one_can_be_made_anew(fleet: Fleet, place: str) -> None:
    first, second = fleet(place), fleet(place)
    for number, shard in enumerate((first, second)):
        (shard.root / "same").write_text("same")
        (shard.root / "other").write_text(f"{number}")
        shard.image("same", "other", reads=True)
    assert (first.calls, second.calls) == (2, 1)
    assert second.text("same", "other", reads=True) == "1\n"


SHARD = """
import sys, time
from pathlib import Path
import pytest_containers as pc
from pytest_containers.images.shared import repository
from pytest_containers.model.sharing import SharedPlace, Sharing
from pytest_containers.state.warm import Stage, WarmStates
home, root, place = sys.argv[1:]
warnings = []
repository._DOWN_S = 20.0  # eight of them keep the machine busy
def act(container):
    with open(Path(root, "calls"), "a") as file:
        file.write("x")
    time.sleep(0.5)
    container.write_text("/srv/text", "one")
sharing = Sharing(states=SharedPlace(place), warn=warnings.append)
with pc.Engine(home=home, sharing=sharing) as engine:
    base = engine.image("host:")
    stage = Stage("seed", pc.ContainerSpec("host:", ["sleep", "1000"]), act, {"the seed": "1"})
    print("ready", flush=True)
    sys.stdin.readline()
    image = WarmStates(engine, Path(root)).image("db", base, [stage], name="db")
    print(image.id, *warnings, sep="\\n")
"""


@pytest.mark.long
def test_of_eight_machines_at_once_one_makes_a_state(tmp_path: Path, place: str) -> None:
    shards = [
        subprocess.Popen(
            [sys.executable, "-c", SHARD, str(tmp_path / f"store{number}"), str(tmp_path), place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for shard in shards:
        assert shard.stdout is not None
        assert shard.stdout.readline() == "ready\n"
    for shard in shards:
        assert shard.stdin is not None
        shard.stdin.write("go\n")
        shard.stdin.flush()
    outputs = [shard.communicate(timeout=60)[0].splitlines() for shard in shards]
    assert [shard.returncode for shard in shards] == [0] * 8
    # A registry has no locks: on a busy machine a second one may have the turn as well.
    makers = len((tmp_path / "calls").read_text())
    assert makers in (1, 2)
    assert len({image for image, *_ in outputs}) <= makers
    assert [warning for _, *warnings in outputs for warning in warnings] == []


@pytest.mark.long
def test_two_that_push_a_state_at_once(fleet: Fleet, place: str) -> None:
    shards = [fleet(place, wait_s=0.001), fleet(place, wait_s=0.001)]
    both = threading.Barrier(2)
    for shard in shards:
        shard.during = lambda: both.wait(60)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(Shard.text, shards)) == ["one\n", "one\n"]
    assert [shard.calls for shard in shards] == [1, 1]
    assert [shard.warnings for shard in shards] == [[], []]
    third = fleet(place)
    assert (third.text(), third.calls) == ("one\n", 0)


@pytest.mark.long
def test_who_waits_makes_it_when_the_maker_has_failed(fleet: Fleet, place: str) -> None:
    maker, waiter = fleet(place), fleet(place)
    begun, failing = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        failing.wait(60)
        raise ValueError("no such table")

    maker.during = fail
    with ThreadPoolExecutor(2) as pool:
        made = pool.submit(maker.image)
        assert begun.wait(60)
        text = pool.submit(waiter.text)
        failing.set()
        with pytest.raises(pc.SeedError, match="no such table"):
            made.result()
        assert text.result() == "one\n"
    assert (waiter.calls, waiter.warnings) == (1, [])


@pytest.mark.long
def test_nobody_waits_longer_than_the_setting_for_a_maker_that_is_gone(
    fleet: Fleet, place: str
) -> None:
    gone, waiter = fleet(place), fleet(place, wait_s=0.3)
    shared = repository_of(gone)
    gone.during = lambda: shared.give_up("it is gone")  # it pushes nothing any more
    gone.image()
    assert (waiter.text(), waiter.calls) == ("one\n", 1)
    assert waiter.warnings == []


@pytest.mark.long
def test_states_with_other_inputs_are_side_by_side(fleet: Fleet, place: str) -> None:
    """As of two branches of a project, whose jobs run in turns."""
    for word in ("one", "two"):
        shard = fleet(place)
        (shard.root / "schema").write_text(word)
        assert (shard.text("schema", reads=True), shard.calls) == (f"{word}\n", 1)
    for word in ("one", "two"):
        shard = fleet(place)
        (shard.root / "schema").write_text(word)
        assert (shard.text("schema", reads=True), shard.calls) == (f"{word}\n", 0)


@pytest.mark.long
def test_fresh_states_replace_others(fleet: Fleet, place: str) -> None:
    first, second, third = fleet(place), fleet(place), fleet(place)
    first.image()
    renewed = second.image(fresh_since=time.time())
    assert second.calls == 1
    assert (third.image().id, third.calls) == (renewed.id, 0)


@pytest.mark.parametrize("status", [403, pytest.param(405, marks=pytest.mark.long)])
def test_without_permission_to_push_states_are_used_and_it_is_told_once(
    fleet: Fleet, place: str, proxy: Proxy, status: int
) -> None:
    trusted, untrusted = fleet(place), fleet(place)
    image = trusted.image()
    proxy.rules = [Rule("^(POST|PUT|PATCH) ", times=99, status=status)]
    assert untrusted.image().id == image.id
    assert untrusted.warnings == []
    assert [untrusted.text("two"), untrusted.text("three")] == ["two\n", "three\n"]
    assert len(untrusted.warnings) == 1
    assert f"({status})" in untrusted.warnings[0] or f"answered {status}" in untrusted.warnings[0]
    assert untrusted.warnings[0].endswith("this run uses what is there and pushes nothing")


@pytest.mark.parametrize("status", [pytest.param(400, marks=pytest.mark.long), 404])
def test_a_registry_that_sees_half_of_what_another_pushes(
    fleet: Fleet, place: str, proxy: Proxy, status: int
) -> None:
    """It says that a blob is unknown while another writes a note of the same one."""
    first, second = fleet(place), fleet(place)
    proxy.rules = [Rule("^PUT .*/manifests/state-", times=2, status=status)]
    assert first.image().id == second.image().id
    assert (first.calls, second.calls) == (1, 0)
    assert first.warnings == []
    proxy.rules = [Rule("^PUT .*/manifests/state-", times=99, status=status)]
    first.image("another")
    assert [f" answered {status} " in warning for warning in first.warnings] == [True]


@pytest.mark.long
def test_a_repository_that_the_first_push_creates(fleet: Fleet, place: str, proxy: Proxy) -> None:
    """Many registries do not say that it is missing, but that access is denied."""
    first, second = fleet(place), fleet(place)
    proxy.rules = [Rule("^GET .*/manifests/", times=2, status=403)]
    assert first.image().id == second.image().id
    assert (first.calls, second.calls) == (1, 0)
    assert first.warnings == second.warnings == []


def test_without_permission_to_read(fleet: Fleet, place: str, proxy: Proxy) -> None:
    shard = fleet(place)
    proxy.rules = [Rule("/manifests/|/blobs/", times=99, status=403)]
    assert [shard.text("one"), shard.text("two")] == ["one\n", "two\n"]
    assert shard.warnings[0].endswith("this run uses what is there and pushes nothing")
    assert shard.warnings[1].endswith("this run does without it")
    assert len(shard.warnings) == 2


def test_read_only_sends_nothing(fleet: Fleet, place: str, proxy: Proxy) -> None:
    untrusted = fleet(place, read_only=True)
    assert untrusted.text() == "one\n"
    assert {method for method, _, _ in proxy.requests} == {"GET"}
    assert untrusted.warnings == []


@pytest.mark.long
def test_a_registry_that_is_down_is_told_once_in_a_run(fleet: Fleet, tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}/ci/states"
    shard = fleet(place, run="a run")
    assert [shard.text("one"), shard.text("two")] == ["one\n", "two\n"]
    assert shard.calls == 2
    assert len(shard.warnings) == 1
    assert shard.warnings[0].startswith(f"states shared in {place}: registry 127.0.0.1:")
    assert "cannot be reached: Connection refused" in shard.warnings[0]
    other_process = Shard(tmp_path / "store0", tmp_path, place, run="a run")
    assert (other_process.text("three"), other_process.warnings) == ("three\n", [])
    other_process.engine.close()
    next_run = Shard(tmp_path / "store0", tmp_path, place, run="another run")
    assert (next_run.text("four"), len(next_run.warnings)) == ("four\n", 1)
    next_run.engine.close()


def test_a_registry_that_says_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "_DOWN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}/ci/states"
        shard = fleet(place)
        assert shard.text() == "one\n"
    assert shard.warnings == [
        f"states shared in {place}: no answer within a second; this run does without it"
    ]


@pytest.mark.long
def test_a_registry_that_fails_later(fleet: Fleet, place: str, proxy: Proxy) -> None:
    shard = fleet(place)
    shard.during = lambda: proxy.rules.append(Rule(".", times=99, status=500))
    assert [shard.text("one"), shard.text("two")] == ["one\n", "two\n"]
    assert len(shard.warnings) == 1
    assert "answered 500" in shard.warnings[0]


@pytest.mark.parametrize(
    "rule",
    [
        Rule("GET .*/blobs/", times=99, flip_at=20),
        Rule("GET .*/blobs/", times=99, cut_after=20),
        pytest.param(
            Rule("GET .*/manifests/sha256", times=99, body=lambda data: data[:-1] + b" "),
            marks=pytest.mark.long,
        ),
        pytest.param(Rule("GET .*/manifests/sha256", times=99, status=404), marks=pytest.mark.long),
    ],
    ids=["poisoned", "truncated", "another manifest", "no manifest"],
)
def test_a_damaged_state_costs_a_warning(
    fleet: Fleet, place: str, proxy: Proxy, rule: Rule
) -> None:
    first, second = fleet(place), fleet(place)
    first.image()
    proxy.rules = [rule]
    assert (second.text(), second.calls) == ("one\n", 1)
    assert len(second.warnings) == 1
    assert "is damaged and not used" in second.warnings[0]


@pytest.mark.long
def test_a_time_of_hundreds_of_digits_costs_a_warning(
    fleet: Fleet, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fleet(place), fleet(place)
    first.image()
    repository = repository_of(second)
    artifact = repository.artifact

    def changed(entry: Any) -> Any:
        found = artifact(entry)
        return found._replace(config={**found.config, "made_at": 10**400})

    monkeypatch.setattr(repository, "artifact", changed)
    assert (second.text(), second.calls) == ("one\n", 1)
    assert "is damaged and not used" in second.warnings[0]


@pytest.mark.long
def test_a_damaged_layer_costs_a_warning(fleet: Fleet, place: str, proxy: Proxy) -> None:
    first, second = fleet(place), fleet(place)
    first.image()
    proxy.rules = [Rule("GET .*/blobs/"), Rule("GET .*/blobs/", flip_at=100)]
    assert (second.text(), second.calls) == ("one\n", 1)
    assert len(second.warnings) == 1
    assert "is damaged and not used" in second.warnings[0]


@pytest.mark.long
def test_a_state_under_the_tag_of_another_key_is_not_used(fleet: Fleet, place: str) -> None:
    first, second = fleet(place), fleet(place)
    first.image("one")
    shared = repository_of(first)
    [tag] = [tag for tag in tags_of(shared) if re.fullmatch("state-[0-9a-f]{40}", tag)]
    index = shared._registry.manifest(shared._repository, tag, shown="test")
    states = WarmStates(second.engine, second.root)
    key = second.key_of(states, "two")
    other = shared_of(second)._tag(key)
    shared.put(other, index.media_type, index.data)
    assert (second.text("two"), second.calls) == ("two\n", 1)
    assert "state of another key" in second.warnings[0]


@pytest.mark.parametrize("data", [b'{"manifests": [{}]}', b"\xff"])
@pytest.mark.long
def test_what_is_no_index_costs_a_warning(
    fleet: Fleet, place: str, proxy: Proxy, data: bytes
) -> None:
    shard = fleet(place)
    fleet(place).image()
    proxy.rules = [Rule("GET .*/manifests/state", times=99, body=lambda body: data)]
    assert (shard.text(), shard.calls) == ("one\n", 1)
    assert shard.warnings != []


def test_signed_states(fleet: Fleet, place: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    (tmp_path / "other").write_text("another secret, as long")
    unsigned = fleet(place)
    unsigned.image()
    signing = fleet(place, key_file=str(tmp_path / "key"))
    assert (signing.text(), signing.calls) == ("one\n", 1)
    assert ["without a valid signature" in warning for warning in signing.warnings] == [True]
    reading = fleet(place, key_file=str(tmp_path / "key"))
    assert (reading.text(), reading.calls, reading.warnings) == ("one\n", 0, [])
    stranger = fleet(place, key_file=str(tmp_path / "other"), read_only=True)
    assert (stranger.text(), stranger.calls) == ("one\n", 1)


@pytest.mark.long
def test_old_states_are_ignored_and_pruned(
    fleet: Fleet, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fleet(place)
    first.image("one")
    first.image("two")
    late = fleet(place, max_age_s=0.001)
    assert (late.text("one"), late.calls) == ("one\n", 1)  # and there are two of it now
    done = prune_shared(place, registry_settings(), older_than_s=0.0, dry_run=True)
    assert (done.removed, done.kept) == (3, 0)
    assert prune_shared(place, registry_settings(), older_than_s=3600.0).removed == 0
    assert main(["states", "prune", "--older-than", "0s", place]) == 0
    assert capsys.readouterr().out == "3 states and steps removed, 0 kept\n"
    assert tags_of(repository_of(first)) == []
    again = fleet(place)
    assert (again.text("one"), again.calls, again.warnings) == ("one\n", 1, [])


def test_prune_where_deletion_is_off(fleet: Fleet, place: str, proxy: Proxy) -> None:
    shard = fleet(place)
    shard.image()
    proxy.rules = [Rule("^DELETE ", times=99, status=405)]
    with pytest.raises(pc.RegistryError, match="has deletion switched off"):
        prune_shared(place, registry_settings(), older_than_s=0.0)


@pytest.mark.long
def test_steps_of_builds(tmp_path: Path, place: str, plain_registry: str, published: Any) -> None:
    base = f"{plain_registry}/{published('fleet/base')}"
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {base}\nRUN echo $$ > /text\nCOPY f /f\nRUN : >/z\n")
    (folder / "f").write_text("file")
    ids, texts, logs = [], [], []
    for number in range(2):
        warnings: list[str] = []
        sharing = Sharing(build_cache=SharedPlace(place), warn=warnings.append)
        with pc.Engine(home=tmp_path / f"store{number}", sharing=sharing) as engine:
            log = io.StringIO()
            image = engine.build(folder, display=StreamBuildDisplay(log))
            ids.append([layer.diff_id for layer in image.layers])
            logs.append(log.getvalue())
            with engine.run(image, ["sh", "-c", "read x < /text; echo $x"]) as container:
                container.wait(60)
                texts.append(container.logs().stdout)
        assert warnings == []
    assert [log.count("CACHED") for log in logs] == [0, 2], logs
    assert texts[0] == texts[1] != ""
    assert ids[0] == ids[1]
