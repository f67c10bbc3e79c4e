"""States: made once, found again while nothing has changed, never half."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.images.image import Image
from pytest_containers.state import warm
from pytest_containers.state.facts import Inputs
from pytest_containers.state.seeds import seeds_of
from pytest_containers.state.warm import Outcome, Stage, WarmStates

pytestmark = pytest.mark.slow

SLEEPER = pc.ContainerSpec("host:", ["sleep", "1000"])
SERVER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: (open("/srv/ended", "w").close(), sys.exit(0)))
open("/srv/up", "w").close()
time.sleep(1000)
"""
SERVED = pc.ContainerSpec("host:", ["python3", "-c", SERVER], ready=pc.wait.file("/srv/up"))


def write(word: str) -> Callable[[pc.Container], None]:
    def seed(container: pc.Container) -> None:
        container.exec(["sh", "-c", f"echo {word} >> /srv/text"], check=True)

    return seed


class Project:
    """A project's states, as a test run would use them."""

    def __init__(self, engine: pc.Engine, root: Path) -> None:
        self.engine, self.root = engine, root
        self.outcomes: list[Outcome] = []
        self.new()

    def new(self, **options: object) -> WarmStates:
        self.warm = WarmStates(self.engine, self.root, tell=self.outcomes.append, **options)
        return self.warm

    def image(
        self, seed: object, spec: pc.ContainerSpec = SLEEPER, *, inputs: object = (),
        reference: str = "host:", limit_s: float | None = 20.0, clean: bool = False,
    ) -> Image:  # fmt: skip
        base = self.engine.image(reference)
        stages = [
            Stage(
                f"seed {item.title}", spec, item.apply, {"the seed": item.identity},
                inputs=Inputs(inputs, self.root), module=item.module, limit_s=limit_s, clean=clean,
            )
            for item in seeds_of(seed, self.root)
        ]  # fmt: skip
        return self.warm.image("db", base, stages, name="db")

    def text(self, image: Image) -> str:
        with self.engine.run(image, ["cat", "/srv/text"]) as container:
            container.wait()
            return container.logs().stdout

    def last(self) -> tuple[bool, str]:
        return self.outcomes[-1].reused, self.outcomes[-1].reason


@pytest.fixture
def project(own_engine, tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(own_engine(), tmp_path / "project")


def test_made_once_and_found_by_the_next_run(project: Project) -> None:
    seed = write("one")
    first = project.image(seed)
    assert project.text(first) == "one\n"
    assert project.last() == (False, "it is made for the first time")
    assert project.image(seed) is first
    project.new()
    assert project.image(seed).id == first.id
    assert project.last() == (True, "")


def test_steps_build_on_each_other_and_share_what_is_below(project: Project) -> None:
    first, second, third = write("one"), write("two"), write("three")
    assert project.text(project.image([first, second])) == "one\ntwo\n"
    project.new()
    assert project.text(project.image([first, third])) == "one\nthree\n"
    assert [outcome.reused for outcome in project.outcomes] == [False, False, True, False]


def test_what_a_script_and_a_directory_contain(project: Project) -> None:
    folder = project.root / "steps"
    folder.mkdir()
    (folder / "1.sh").write_text("echo one >> /srv/text\n")
    assert project.text(project.image("steps")) == "one\n"
    project.new()
    project.image("steps")
    assert project.last() == (True, "")
    (folder / "2.sh").write_text("echo two >> /srv/text\n")
    project.new()
    assert project.text(project.image("steps")) == "one\ntwo\n"
    assert project.last() == (False, "directory steps has other files")
    (folder / "2.sh").write_text("echo zwei >> /srv/text\n")
    project.new()
    assert project.text(project.image("steps")) == "one\nzwei\n"
    assert project.last() == (False, "steps/2.sh has changed")


def test_back_to_what_it_was(project: Project) -> None:
    """As with branches of a repository: the state of the other branch is still there."""
    script = project.root / "seed.sh"
    for word in ("one", "two", "one", "two"):
        script.write_text(f"echo {word} > /srv/text\n")
        project.new()
        assert project.text(project.image("seed.sh")) == f"{word}\n"
    assert [outcome.reused for outcome in project.outcomes] == [False, False, True, True]


def test_another_spec_another_image_another_seed(project: Project) -> None:
    seed = write("one")
    project.image(seed)
    project.image(seed, pc.ContainerSpec("host:", ["sleep", "1000"], env={"A": "1"}))
    assert project.last() == (False, "the spec has changed")
    # What starts with it changes nothing that is there already: no reason to make it anew.
    waiting = pc.ContainerSpec("host:", ["sleep", "1000"], ready=pc.wait.callable(lambda c: True))
    project.new()
    project.image(seed, waiting)
    assert project.last() == (True, "")


def test_the_servers_own_package_has_changed(own_engine, project: Project) -> None:
    server = project.root / "server"
    server.write_text("#!/bin/sh\necho 1\n")
    server.chmod(0o755)
    seed, reference = write("one"), f"host:?bin={server}"
    project.image(seed, reference=reference)
    server.write_text("#!/bin/sh\necho 22\n")
    again = Project(own_engine(), project.root)
    again.image(seed, reference=reference)
    assert again.last() == (False, "the image has changed")


def test_what_a_service_prepares_does_not_depend_on_modules_of_the_project(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.root / "module_of_project.py"
    monkeypatch.syspath_prepend(project.root)
    for line in ("X = 1", "X = 2"):
        path.write_text(line)
        __import__(path.stem)
        for traced in (True, False):
            parts = {"traced": str(traced)}
            stage = Stage("prepare", SLEEPER, write("once"), parts, traced=traced)
            project.new().image(str(traced), project.engine.image("host:"), [stage], name="db")
    sys.modules.pop(path.stem)
    assert [outcome.reused for outcome in project.outcomes] == [False, False, False, True]


@pytest.mark.long
def test_fresh(project: Project) -> None:
    seed = write("one")
    first = project.image(seed)
    began = time.time()
    project.new(fresh_since=began)
    assert project.image(seed).id != first.id
    assert project.last() == (False, "--containers-fresh")
    project.new(fresh_since=began)  # a worker of the same run
    project.image(seed)
    assert project.last() == (True, "")


def test_inputs_that_nobody_saw(project: Project) -> None:
    (project.root / "dump").write_bytes(b"1")
    seed = write("one")
    project.image(seed, inputs=["dump"])
    (project.root / "dump").write_bytes(b"2")
    project.new()
    project.image(seed, inputs=["dump"])
    assert project.last() == (False, "input dump has changed")


def test_a_server_is_ended_before_its_files_are_frozen(project: Project) -> None:
    image = project.image(write("one"), SERVED)
    with project.engine.run(image, ["ls", "/srv"]) as container:
        container.wait()
        assert container.logs().stdout.split() == ["ended", "text", "up"]


def test_a_seed_that_raises(project: Project) -> None:
    calls = itertools.count()  # not known by value: the same seed, however far it has counted

    def seed(container: pc.Container) -> None:
        next(calls)
        container.write_text("/srv/half", "")
        raise ValueError("no such column")

    for _ in range(3):
        with pytest.raises(
            pc.SeedError, match=r"seed seed failed: ValueError: no such column"
        ) as caught:
            project.image(seed)
        assert isinstance(caught.value.__cause__, ValueError)
    assert next(calls) == 1
    project.new()
    with pytest.raises(pc.SeedError):
        project.image(seed)
    assert next(calls) == 3  # another run tries again
    assert list((project.engine.images.library.store.home / "states").rglob("*.json")) == []


@pytest.mark.parametrize("error", [SystemExit(3), pytest.fail.Exception("no such row")])
def test_a_seed_that_raises_what_is_no_exception(project: Project, error: BaseException) -> None:
    calls: list[int] = []

    def seed(container: pc.Container) -> None:
        calls.append(1)
        raise error

    stage = Stage("seed", SLEEPER, seed, {"the seed": "1"})
    for _ in range(2):
        with pytest.raises(pc.SeedError, match=r"seed failed: (SystemExit: 3|Failed: no such row)"):
            project.warm.image("db", project.engine.image("host:"), [stage], name="db")
    assert calls == [1]


def test_a_seed_that_skips_is_no_failure(project: Project) -> None:
    def seed(container: pc.Container) -> None:
        pytest.skip("not today")

    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="not today"):
            project.image(seed)


def test_an_asynchronous_seed_and_a_generator(project: Project) -> None:
    async def load(container: pc.Container) -> None:
        container.write_text("/srv/text", "one\n")

    def never(container: pc.Container) -> Iterator[None]:
        container.write_text("/srv/text", "one\n")
        yield

    assert project.text(project.image(load)) == "one\n"
    with pytest.raises(pc.SeedError, match="is a generator, and nothing of it has run"):
        project.image(never)


def test_a_script_outside_of_the_project(project: Project) -> None:
    for name in ("../shared/out.sh", ".data/hidden.sh"):
        script = project.root / name
        script.parent.mkdir()
        for word in ("one", "two", "one"):
            script.write_text(f"echo {word} > /srv/text\n")
            project.new()
            assert project.text(project.image(name)) == f"{word}\n"
        assert project.last() == (True, "")


def test_scripts_of_one_name(project: Project) -> None:
    base = project.engine.image("host:")
    for name in ("a", "b"):
        folder = project.root / name
        folder.mkdir()
        (folder / "x.sh").write_text(f"echo {name} > /srv/text\n")
        (seed,) = seeds_of("x.sh", folder)
        stage = Stage("seed x.sh", SLEEPER, seed.apply, {"the seed": seed.identity})
        image = project.warm.image("db", base, [stage], name="db")
        assert project.text(image) == f"{name}\n"


def test_a_script_in_another_checkout(project: Project, tmp_path: Path) -> None:
    (project.root / "x.sh").write_text("echo one > /srv/text\n")
    project.image("x.sh")
    shutil.copytree(project.root, tmp_path / "other")
    other = Project(project.engine, tmp_path / "other")
    other.image("x.sh")
    assert other.last() == (True, "")


def test_a_seed_that_is_not_known_by_value(project: Project) -> None:
    def locked() -> Callable[[pc.Container], None]:
        lock = threading.Lock()

        def seed(container: pc.Container) -> None:
            with lock:
                container.write_text("/srv/text", "one\n")

        return seed

    project.image(locked())
    project.image(locked())
    reused, reason = project.last()
    assert not reused
    assert reason == "it holds _thread.lock, which has no comparable value, so no run can reuse it"


def test_passwords_are_not_kept(project: Project) -> None:
    stage = Stage("seed", SLEEPER, write("x"), {"the service": "very-secret"})
    project.warm.image("db", project.engine.image("host:"), [stage], name="db")
    for path in (project.engine.images.library.store.home / "states").rglob("*.json"):
        assert "very-secret" not in path.read_text()


@pytest.mark.long
def test_states_of_many_seeds_of_one_fixture_stay(project: Project) -> None:
    seeds = [write(str(number)) for number in range(9)]
    for _ in range(2):
        project.new()
        for seed in seeds:
            project.image(seed)
    assert [outcome.reused for outcome in project.outcomes] == [False] * 9 + [True] * 9


def test_old_seeds_of_a_fixture_go(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_KEPT_OTHERS", 1)
    states = project.engine.images.library.states
    for number in range(4):
        for path in (project.engine.images.library.store.home / "states").rglob("*.json"):
            os.utime(path, (time.time() - 8 * 24 * 3600.0 + number,) * 2)
        project.new()
        project.image(write(str(number)))
    assert len(states.all()) == 2


def test_what_a_failure_has_left_goes(project: Project) -> None:
    project.new(run="a run")

    def seed(container: pc.Container) -> None:
        raise ValueError

    with pytest.raises(pc.SeedError):
        project.image(seed)
    (note,) = (project.engine.images.library.store.home / "states").rglob("failed-*.json")
    project.engine.images.prune()
    assert note.exists()  # other workers may still be waiting for it
    os.utime(note, (1, 1))
    project.engine.images.prune()
    assert not note.exists()


def test_a_seed_that_leaves_the_server_dead(project: Project) -> None:
    script = "echo last words; until [ -e /srv/die ]; do sleep 0.01; done; exit 3"
    spec = pc.ContainerSpec("host:", ["sh", "-c", script])

    def seed(container: pc.Container) -> None:
        container.write_text("/srv/die", "")
        container.wait(60)

    with pytest.raises(pc.SeedError, match="ended with exit code 3 meanwhile") as caught:
        project.image(seed, spec)
    assert caught.value.exit_code == 3
    assert "last words" in caught.value.log_tail
    assert list((project.engine.images.library.store.home / "states").rglob("*.json")) == []


def test_a_server_that_does_not_end_cleanly(project: Project) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(4)); open('/srv/up', 'w'); time.sleep(99)"
    spec = pc.ContainerSpec("host:", ["python3", "-c", code], ready=pc.wait.file("/srv/up"))
    with pytest.raises(pc.SeedError, match="did not end cleanly afterwards, but with exit code 4"):
        project.image(write("x"), spec, clean=True)


@pytest.mark.parametrize("waits_for", ["container", "itself"])
def test_a_seed_that_hangs(project: Project, waits_for: str) -> None:
    def seed(container: pc.Container) -> None:
        if waits_for == "container":
            container.exec(["sleep", "100"], check=True)
        else:
            time.sleep(100)

    began = time.monotonic()
    with pytest.raises(pc.SeedError, match=r"did not end within 0.3 s and was interrupted"):
        project.image(seed, limit_s=0.3)
    assert time.monotonic() - began < 60


def test_a_plain_container_knows_no_sql(project: Project) -> None:
    (project.root / "a.sql").write_text("select 1;")
    with pytest.raises(pc.SeedError, match=r"a plain container can run .sh files only"):
        project.image("a.sql")


def test_old_ones_go(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "_KEPT", 2)
    script = project.root / "seed.sh"
    home = project.engine.images.library.store.home
    for number in range(5):
        script.write_text(f"echo {number} > /srv/text\n")
        project.new()
        project.image("seed.sh")
        assert len(list((home / "states").rglob("*.json"))) <= 2
    project.engine.close()
    # A layer that nobody uses any more goes with its record; the run has used none of them.
    assert len(list((home / "layers").glob("*/*/record.json"))) == 3  # and the host's skeleton


def test_prune_and_clear(own_engine, project: Project) -> None:
    project.image(write("one"))
    done = project.engine.images.prune(unused_for_s=3600)
    assert done.states == 0
    done = project.engine.images.prune(all_unused=True)
    assert done.states == 1
    project.new()
    project.image(write("one"))
    project.engine.close()
    engine = own_engine()
    engine.images.cache_clear()
    assert list((engine.images.library.store.home / "states").iterdir()) == []


def test_states_travel_in_a_file(own_engine, project: Project, tmp_path: Path) -> None:
    seeds = [write("one"), write("two")]
    image = project.image(seeds)
    with project.engine.run(image, ["sh", "-c", "rm -r /var/lib; mkdir /var/lib"]) as container:
        container.wait()
    exported = project.engine.images.cache_export(tmp_path / "cache.tar")
    assert exported == ["state: seed seed", "state: seed seed"]
    other = Project(own_engine(home=tmp_path / "other"), project.root)
    assert other.engine.images.cache_import(tmp_path / "cache.tar") == exported
    assert other.text(other.image(seeds)) == "one\ntwo\n"
    assert [outcome.reused for outcome in other.outcomes] == [True, True]
    # Once more is no harm.
    other.engine.images.cache_import(tmp_path / "cache.tar")


def test_a_file_of_states_keeps_their_order(
    own_engine: Callable[..., pc.Engine], project: Project, tmp_path: Path
) -> None:
    for number in range(3):
        project.image(write(str(number)))
    before = project.engine.images.library.states.all()
    project.engine.images.cache_export(tmp_path / "cache.tar")
    other = own_engine(home=tmp_path / "other")
    other.images.cache_import(tmp_path / "cache.tar")
    after = other.images.library.states.all()
    assert [state.key for state in after] == [state.key for state in before]
    assert [state.made_at for state in after] == [state.made_at for state in before]


@pytest.mark.alone
@pytest.mark.needs("root")
def test_a_disk_that_is_full_leaves_no_state(
    own_engine: Callable[..., pc.Engine], project: Project, tmp_path: Path
) -> None:
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", str(home)], check=True)
    try:
        engine = own_engine(home=home / "store")
        full = Project(engine, project.root)

        def seed(container: pc.Container) -> None:
            container.exec(["sh", "-c", "head -c 20M /dev/urandom > /srv/big"], check=True)

        for _ in range(2):
            with pytest.raises(pc.ImageError, match="freeze of /srv/big: No space left on device"):
                full.image(seed)
        assert engine.images.library.states.all() == []
        assert os.listdir(home / "store/tmp") == []
        assert full.text(full.image(write("small"))) == "small\n"
        engine.close()
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_layer_that_is_gone_is_made_again(project: Project) -> None:
    seed = write("one")
    image = project.image(seed)
    (image.layers[-1].path.parent / "record.json").unlink()
    project.new()
    assert project.text(project.image(seed)) == "one\n"
    assert not project.outcomes[-1].reused


def test_a_power_cut_before_it_was_on_the_disk(project: Project) -> None:
    seed = write("one")
    image = project.image(seed)
    record = image.layers[-1].path.parent / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot_id": "another"}))
    project.new()
    assert project.text(project.image(seed)) == "one\n"
    assert not project.outcomes[-1].reused


def test_one_builds_and_the_others_wait(own_engine, project: Project) -> None:
    """Threads with a run of their own each, as two test runs at once."""
    images, errors = [], []
    calls, call = os.pipe()  # the values that a seed uses count: a list would be another one soon

    def seed(container: pc.Container) -> None:
        os.write(call, b"1")
        time.sleep(0.3)
        container.write_text("/srv/text", "one\n")

    def use() -> None:
        try:
            other = Project(own_engine(), project.root)
            images.append(other.image(seed, limit_s=None).id)
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    os.close(call)
    with open(calls, "rb") as seen:
        assert seen.read() == b"1"
    assert len(set(images)) == 1


SEEDING = """
import sys, time
from pathlib import Path
import pytest_containers as pc
from pytest_containers.state.warm import Stage, WarmStates
def act(container):
    with open(Path(sys.argv[2], "calls"), "a") as file:
        file.write("x")
    time.sleep(0.5)
    container.write_text("/srv/text", "one")
with pc.Engine(home=sys.argv[1]) as engine:
    base = engine.image("host:")
    stage = Stage("seed", pc.ContainerSpec("host:", ["sleep", "1000"]), act, {"the seed": "1"})
    print("ready", flush=True)
    sys.stdin.readline()
    told = []
    image = WarmStates(engine, Path(sys.argv[2]), tell=told.append).image("db", base, [stage], name="db")
    print(image.id, told[0].reused)
"""


def test_processes_that_seed_the_same_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SEEDING, str(tmp_path / "store"), str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate()[0].split())
        assert process.returncode == 0
    assert (tmp_path / "calls").read_text() == "x"
    assert len({output[0] for output in outputs}) == 1
    assert sorted(output[1] for output in outputs) == ["False", "True", "True"]


KILLED = """
import sys, time
from pathlib import Path
import pytest_containers as pc
from pytest_containers.state.warm import Stage, WarmStates
def act(container):
    container.exec(["sh", "-c", "head -c 50M /dev/zero > /srv/big"], check=True)
    print("seeded", flush=True)
with pc.Engine(home=sys.argv[1]) as engine:
    stage = Stage("seed", pc.ContainerSpec("host:", ["sleep", "1000"]), act, {"the seed": "1"})
    image = WarmStates(engine, Path(sys.argv[2])).image("db", engine.image("host:"), [stage], name="db")
    print("kept", flush=True)
"""


@pytest.mark.long
def test_killed_at_any_instant_nothing_half_is_used(tmp_path: Path) -> None:
    home = tmp_path / "store"
    kept = 0
    for trial in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(home), str(tmp_path)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        time.sleep(trial * 0.004)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kept += line == "kept\n"
    with pc.Engine(home=home) as engine:
        for state in engine.images.library.states.all():
            layer = engine.images.library.states.image(engine.image("host:"), state)
            if layer is None:
                continue
            with engine.run(layer, ["stat", "-c", "%s", "/srv/big"]) as container:
                assert container.wait() == 0
                assert container.logs().stdout == f"{50 << 20}\n"
        engine.images.prune(all_unused=True)
        engine.images.library.states.all()
    assert os.path.isdir(home)
