"""Fixtures: forms, scopes, names, networks, volumes."""

from __future__ import annotations

import pytest


def test_ad_hoc(run) -> None:
    result = run(
        """
def test_it(containers):
    c = containers.run("host:", ["sh", "-c", "echo hi; hostname"], name="somebody")
    assert c.wait(60) == 0
    assert c.logs().stdout == "hi\\nsomebody\\n"
"""
    )
    result.assert_outcomes(passed=1)


@pytest.mark.needs("redis")
@pytest.mark.long
def test_an_ad_hoc_service_has_a_seed_with_inputs(run) -> None:
    result = run(
        """
from pathlib import Path
Path("data").write_text("1")

def load(redis):
    redis.command("INCR", "n")

def test_it(containers):
    for inputs in (Path("data"), "data", ["data"]):
        redis = containers.service("redis", image="host:", seed=load, inputs=inputs,
                                   seed_timeout_s=30, name="own")
        assert redis.command("GET", "n") == "1" and redis.name == "own"
        redis.container.remove()
    with pytest.raises(pc.SpecError, match="there is nothing at"):
        containers.service("redis", image="host:", inputs="none")
    with pytest.raises(pc.SpecError, match="no option 'input', did you mean 'inputs'"):
        containers.service("redis", image="host:", input="none")
"""
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.long
def test_marks_of_seeds_that_nothing_would_look_at(run, pytester, workers: str) -> None:
    pytester.makeini("[pytest]\naddopts = --strict-markers\npythonpath = site-packages\n")
    plugin = pytester.mkdir("site-packages") / "their_plugin.py"  # for every test, as Django's
    plugin.write_text(
        "import pytest\n@pytest.fixture(autouse=True)\ndef theirs(request): request.node\n"
    )
    pytester.makeconftest("pytest_plugins = ['their_plugin']")
    result = run(
        """
box = pc.container_fixture("host:", ["sleep", "1000"])
wide = pc.container_fixture("host:", ["sleep", "1000"], scope="module")
widest = pc.container_fixture("host:", ["sleep", "1000"], scope="session")
klass = pc.container_fixture("host:", ["sleep", "1000"], scope="class")
seeded = pytest.mark.containers_seed

def touch(box):
    box.write_text("/srv/seeded", "")

@pytest.fixture
def plain(): pass

@seeded("bx", touch)
def test_typo(box): pass

@seeded("plain", touch)
def test_foreign(plain): pass

@seeded("box", touch)
def test_unused(): pass

@seeded("wide", touch)
def test_module(wide): pass

@seeded("widest", touch)
def test_session(widest): pass

@seeded("box")
def test_nothing(box): pass

class TestClass:
    @seeded("klass", touch)
    def test_class(self, klass): pass

@seeded("klass", touch)
def test_no_class(klass):
    assert klass.read_text("/srv/seeded") == ""

@seeded("box", touch)
def test_dynamic(request):
    assert request.getfixturevalue("box").read_text("/srv/seeded") == ""
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=2, errors=7)
    output = result.stdout.str()
    for message in (
        "test_typo: @pytest.mark.containers_seed('bx', …): there is no fixture 'bx', did you mean 'box'?",
        "fixture 'plain' is not a container fixture",
        "the test does not use fixture 'box'",
        "fixture 'wide' is made once for each module, so a mark on a function has no effect",
        "fixture 'widest' is made once for all tests (scope='session')",
        "test_nothing: @pytest.mark.containers_seed('box') adds nothing; seeds come after",
        "fixture 'klass' is made once for each class, so a mark on a function has no effect",
    ):
        assert message in output
    assert "plugin/marks.py" not in output and "plugin/hooks.py" not in output


@pytest.mark.long
def test_a_mark_of_a_module_is_for_those_of_its_tests_that_use_the_fixture(run) -> None:
    result = run(
        """
box = pc.container_fixture("host:", ["sleep", "1000"], scope="module")
pytestmark = pytest.mark.containers_seed("box", lambda box: box.write_text("/srv/seeded", ""))

def test_without(): pass
def test_with(box):
    assert box.read_text("/srv/seeded") == ""
"""
    )
    result.assert_outcomes(passed=2)


def test_both_forms_are_a_container_per_test(run) -> None:
    result = run(
        """
first = pc.container_fixture("host:", ["sleep", "100"])

@pc.container_fixture
def second(first, tmp_path):
    '''With a docstring.'''
    yield pc.ContainerSpec("host:", ["sleep", "100"], env={"FIRST": first.ip})
    (tmp_path / "after").write_text("")

@pytest.mark.parametrize("n", range(3))
def test_it(first, second, n):
    assert first.name == "first" and second.name == "second"
    assert second.exec(["getent", "hosts", "first"], text=True).stdout
    assert first.exec(["sh", "-c", "test ! -e /srv/used && touch /srv/used"]).returncode == 0

class TestInClass:
    @pc.container_fixture
    def own(self, first):
        return pc.ContainerSpec("host:", ["sleep", "100"])

    def test_method(self, own, request):
        assert own.status == "running"

@pc.container_fixture(name="renamed", params=["a", "b"])
def parametrized(request):
    return pc.ContainerSpec("host:", ["sleep", "100"], hostname=request.param)

def test_params(renamed):
    assert renamed.exec(["hostname"], text=True).stdout in ("a\\n", "b\\n")
"""
    )
    result.assert_outcomes(passed=6)


@pytest.mark.parametrize(
    ("scope", "distinct"),
    [("function", 4), ("class", 2), ("module", 1), ("package", 1), ("session", 1)],
)
def test_scopes(run, scope: str, distinct: int) -> None:
    result = run(
        f"""
SEEN = set()
db = pc.container_fixture("host:", ["sleep", "100"], scope={scope!r})

class TestA:
    def test_1(self, db): SEEN.add(db.id)
    def test_2(self, db): SEEN.add(db.id)

class TestB:
    def test_1(self, db): SEEN.add(db.id)
    def test_2(self, db): SEEN.add(db.id); assert len(SEEN) == {distinct}
"""
    )
    result.assert_outcomes(passed=4)


def test_a_dynamic_scope(run) -> None:
    result = run(
        """
db = pc.container_fixture("host:", ["sleep", "100"], scope=lambda fixture_name, config: "module")
SEEN = set()
def test_1(db): SEEN.add(db.id)
def test_2(db): SEEN.add(db.id); assert len(SEEN) == 1
"""
    )
    result.assert_outcomes(passed=2)


def test_tests_find_wider_containers_by_name_but_not_each_others(run) -> None:
    result = run(
        """
shared = pc.container_fixture("host:", ["python3", "-m", "http.server", "8000"], ports=[8000], scope="module")
own = pc.container_fixture("host:", ["python3", "-m", "http.server", "8000"], ports=[8000])
ADDRESSES = []

def can(c, host):
    script = f"import socket; socket.create_connection(({host!r}, 8000), 1)"
    return c.exec(["python3", "-c", script]).returncode == 0

@pytest.mark.parametrize("n", range(2))
def test_it(shared, own, n):
    assert can(own, "shared") and can(own, "own")
    assert not any(can(own, address) for address in ADDRESSES if address != own.ip)
    ADDRESSES.append(own.ip)
"""
    )
    result.assert_outcomes(passed=2)


@pytest.mark.long
def test_containers_are_gone_after_their_scope(run) -> None:
    result = run(
        """
KEPT = []
def test_1(containers):
    KEPT.append(containers.run("host:", ["sleep", "100"]))
def test_2():
    assert KEPT[0].status == "removed"
"""
    )
    result.assert_outcomes(passed=2)


def test_volumes_live_as_long_as_their_fixture(run) -> None:
    result = run(
        """
data = pc.volume_fixture(scope="module")

def write(containers, volume, script):
    mount = pc.VolumeMount(volume, "/data")
    c = containers.run("host:", ["sh", "-c", script], mounts=[mount], wait_ready=False)
    assert c.wait(60) == 0, c.logs()

def test_1(containers, data): write(containers, data, "echo kept > /data/x")
def test_2(containers, data): write(containers, data, "grep kept /data/x")
def test_3(containers): write(containers, containers.volume(), "test ! -e /data/x")
"""
    )
    result.assert_outcomes(passed=3)


def test_what_a_fixture_function_must_return(run) -> None:
    result = run(
        """
@pc.container_fixture
def wrong(): return "host:"

def test_it(wrong): pass
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*container fixture 'wrong' must return a ContainerSpec*"])


def test_fixtures_have_docstrings(run) -> None:
    result = run('db = pc.container_fixture("host:", ["true"])', "--fixtures")
    for name in ("containers", "module_containers", "session_containers"):
        result.stdout.fnmatch_lines([f"{name}*"])
    result.stdout.fnmatch_lines(["*A container of host:, for each function.*"])
    assert "no docstring available" not in str(result.stdout).split("containers")[1]


def test_beside_async_tests_and_forks(run) -> None:
    result = run(
        """
import asyncio, os

def test_asyncio(containers):
    async def work():
        c = await asyncio.to_thread(containers.run, "host:", ["echo", "hi"])
        return await asyncio.to_thread(c.wait, 10)
    assert asyncio.run(work()) == 0

def test_fork(containers):
    c = containers.run("host:", ["sleep", "100"])
    pid = os.fork()
    if pid == 0:
        try:
            c.exec(["true"])
        except pc.ContainersError as error:
            os._exit(5 if "forked" in str(error) else 6)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert c.status == "running"
""",
        "-W", "ignore::DeprecationWarning",
    )  # fmt: skip
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_beside_plugins_for_async_tests(run, plugin: str) -> None:
    pytest.importorskip("pytest_asyncio" if plugin == "asyncio" else plugin)
    result = run(
        """
db = pc.container_fixture("host:", ["sleep", "100"])

@pytest.mark.MARK
async def test_async(db):
    import asyncio
    await asyncio.sleep(0)
    assert db.exec(["true"]).returncode == 0

@pytest.fixture
def anyio_backend(): return "asyncio"
""".replace("MARK", plugin),
        "-p", plugin,
    )  # fmt: skip
    result.assert_outcomes(passed=1)
