"""Seeds as pytest users have them: made once, told with -v, failing once for each test."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

SEEDED = """
from seeds import load
box = pc.container_fixture("host:", ["sleep", "1000"], seed=load)

@pytest.mark.parametrize("n", range(4))
def test_it(box, n):
    assert box.read_text("/srv/text") == "one\\n"
    box.write_text("/srv/text", "changed")
"""
SEEDS = """
from pathlib import Path
def load(box):
    with open("seeded", "a") as file:
        file.write("x")
    box.write_text("/srv/text", Path(__file__).with_name("text.txt").read_text())
"""


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> pytest.Pytester:
    # States are shared by all projects with the same files, and compared with each other.
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "store"))
    pytester.makepyfile(seeds=f"{SEEDS}UNIQUE = {uuid.uuid4().hex!r}\n")
    (pytester.path / "text.txt").write_text("one\n")
    return pytester


def seeded(project: pytest.Pytester) -> int:
    return len((project.path / "seeded").read_text())


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "3"])
def test_once_for_all_tests_workers_and_runs(run, project, workers: str) -> None:
    for _ in range(2):
        run(SEEDED, "-n", workers).assert_outcomes(passed=4)
    assert seeded(project) == 1


@pytest.mark.long
def test_what_is_told_with_v(run, project) -> None:
    first = run(SEEDED, "-v").stdout.str()
    assert "states of containers" in first
    assert (
        "box: seed load (seeds.py): made in" in first and "it is made for the first time" in first
    )
    again = run(SEEDED, "-v", "-n", "2").stdout.str()
    assert again.count("box: seed load (seeds.py): reused, made") == 1
    code = (project.path / "seeds.py").read_text()
    (project.path / "seeds.py").write_text(code + "\nOTHER = 1\n")
    assert "s: seeds.py has changed" in run(SEEDED, "-v").stdout.str()
    assert "s: --containers-fresh" in run(SEEDED, "-v", "--containers-fresh").stdout.str()
    assert "states of containers" not in run(SEEDED).stdout.str()
    assert seeded(project) == 3


MODULE = """
import pytest

def more(box):
    with open("seeded", "a") as file:
        file.write("x")
    box.write_text("/srv/more", __name__)

pytestmark = pytest.mark.containers_seed("box", more)

def test_it(box):
    assert box.read_text("/srv/more") == __name__
"""


@pytest.mark.long
def test_every_module_with_a_seed_of_its_own(run, project) -> None:
    project.makeconftest(
        "import pytest_containers as pc\n"
        "from seeds import load\n"
        "box = pc.container_fixture('host:', ['sleep', '1000'], seed=load)\n"
    )
    for number in range(7):
        (project.path / f"test_{number}.py").write_text(MODULE)
    first = run("", "-v")
    first.assert_outcomes(passed=7)
    output = first.stdout.str()
    for number in range(7):
        assert f"box: seed more (test_{number}.py): made in" in output
    assert output.count("it is made for the first time") == 8
    assert seeded(project) == 8
    again = run("", "-v", "-n", "2")
    again.assert_outcomes(passed=7)
    assert again.stdout.str().count("): reused, made") == 8
    assert seeded(project) == 8


@pytest.mark.long
def test_partials_of_one_function(run, project) -> None:
    result = run(
        """
import functools
def load(box, n):
    box.write_text("/srv/n", str(n))

one = pc.container_fixture("host:", ["sleep", "1000"])

@pytest.mark.containers_seed("one", functools.partial(load, n=1))
def test_one(one):
    assert one.read_text("/srv/n") == "1"

@pytest.mark.containers_seed("one", functools.partial(load, n=2))
def test_two(one):
    assert one.read_text("/srv/n") == "2"
""",
        "-v",
    )
    result.assert_outcomes(passed=2)
    output = result.stdout.str()
    assert output.count("one: seed load (") == 2 and ") #2: made in" in output


@pytest.mark.parametrize("raised", ["pytest.fail('no row')", "sys.exit(3)"])
def test_a_seed_that_fails_by_what_is_no_exception(run, project, raised: str) -> None:
    test_code = SEEDED.replace(
        "from seeds import load",
        "import sys\ndef load(box):\n"
        f"    with open('seeded', 'a') as file: file.write('x')\n    {raised}",
    )
    result = run(test_code)
    result.assert_outcomes(errors=4)
    assert result.stdout.str().count("SeedError: seed load failed: ") >= 4
    assert seeded(project) == 1


def test_a_seed_that_skips(run, project) -> None:
    test_code = SEEDED.replace(
        "from seeds import load", "def load(box):\n    pytest.skip('not on this machine')"
    )
    run(test_code).assert_outcomes(skipped=4)


@pytest.mark.long
def test_tests_may_change_without_a_seed(run, project) -> None:
    test_code = SEEDED.replace("from seeds import load", (project.path / "seeds.py").read_text())
    run(test_code).assert_outcomes(passed=4)
    run(test_code + "\ndef test_more(box):\n    assert box.status\n").assert_outcomes(passed=5)
    assert seeded(project) == 1


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_failed_seed_fails_each_test_with_its_own_error(run, project, workers: str) -> None:
    code = (project.path / "seeds.py").read_text()
    code = code.replace("    box.write", "    raise KeyError('lost')\n    box.write")
    (project.path / "seeds.py").write_text(code)
    result = run(SEEDED, "-n", workers)
    result.assert_outcomes(errors=4)
    assert seeded(project) == 1
    output = result.stdout.str()
    assert output.count("SeedError: seed load failed: KeyError: 'lost'") >= 4
    assert "raise KeyError('lost')" in output
    run(SEEDED).assert_outcomes(errors=4)
    assert seeded(project) == 2  # another run tries again


@pytest.mark.long
def test_marks_add_steps_the_widest_first(run, pytester) -> None:
    for name in ("base", "module", "class_", "test"):
        (pytester.path / f"{name}.sh").write_text(f"echo {name} >> /srv/text\n")
    result = run(
        """
box = pc.container_fixture("host:", ["sleep", "1000"], seed="base.sh")
other = pc.container_fixture("host:", ["sleep", "1000"])
pytestmark = pytest.mark.containers_seed("box", "module.sh")

@pytest.mark.containers_seed("box", "class_.sh")
class TestIt:
    @pytest.mark.containers_seed("box", "test.sh")
    def test_all(self, box, other):
        assert box.read_text("/srv/text").split() == ["base", "module", "class_", "test"]
        assert other.exec(["test", "-e", "/srv/text"]).returncode

    def test_less(self, box):
        assert box.read_text("/srv/text").split() == ["base", "module", "class_"]

def test_least(box):
    assert box.read_text("/srv/text").split() == ["base", "module"]
""",
        "-v",
    )
    result.assert_outcomes(passed=3)


def test_a_mark_without_a_name(run) -> None:
    result = run(
        """
box = pc.container_fixture("host:", ["sleep", "1000"])

@pytest.mark.containers_seed(3)
def test_it(box):
    pass
"""
    )
    assert "the fixture's name comes first" in result.stdout.str()


@pytest.mark.long
def test_of_a_function_that_returns_a_spec(run, project) -> None:
    result = run(
        """
from seeds import load

@pc.container_fixture(seed=load, scope="module")
def box(tmp_path_factory):
    return pc.ContainerSpec("host:", ["sleep", "1000"])

def test_it(box):
    assert box.read_text("/srv/text") == "one\\n"
"""
    )
    result.assert_outcomes(passed=1)


def test_another_image_from_the_command_line(run, pytester, tmp_path) -> None:
    import subprocess

    subprocess.run(["mkdir", "-p", tmp_path / "root/bin"], check=True)
    from helpers.layouts import busybox

    for name, facts, data in busybox():
        target = tmp_path / "root" / name
        if data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            target.chmod(facts.get("mode", 0o755))
    result = run(
        """
def load(box):
    box.write_text("/text", box.image.name)

box = pc.container_fixture("host:", ["/bin/sh", "-c", "read x"], tty=True, seed=load)

def test_it(box):
    assert box.read_text("/text").startswith("rootfs:")
""",
        f"--containers-image=box=rootfs:{tmp_path / 'root'}",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.long
def test_services_by_name_and_from_plugins(run, pytester) -> None:
    pytester.makeconftest(
        """
import pytest_containers as pc
from pytest_containers.services import Service

class Cat(Service):
    reference = "host:"
    number = 7000
    clean = False
    def serve(self, image):
        code = "import socket; s = socket.create_server(('', 7000))\\nwhile 1: s.accept()[0].send(b'hi')"
        return self.spec(["python3", "-c", code], pc.wait.tcp(7000, b"", b"hi"))

def pytest_containers_services(config):
    return {"cat": Cat}
"""
    )
    result = run(
        """
def test_it(containers):
    cat = containers.service("cat", name="kitty")
    assert cat.name == "kitty" and cat.container.exec(["hostname"], text=True).stdout == "kitty\\n"

def test_seeded(containers):
    cat = containers.service("cat", seed=lambda cat: cat.container.write_text("/srv/x", "1"))
    assert cat.container.read_text("/srv/x") == "1"

def test_none(containers):
    with pytest.raises(pc.SpecError, match="there is no service 'dog'; there are .*cat, .*etcd, "):
        containers.service("dog")
"""
    )
    result.assert_outcomes(passed=3)


@pytest.mark.long
def test_a_seed_sees_the_server_behind_the_endpoint(run, pytester) -> None:
    """So it may use the settings of the code under test; its address is no part of the state."""
    output = """
import os, socket
pc.endpoint("box", 7000)
SERVER = '''
import socket
server = socket.create_server(("", 7000))
while True:
    sock, _ = server.accept()
    open("/srv/said", "ab").write(sock.recv(100))
    sock.close()
'''

def load(box):
    with open("seeded", "a") as file:
        file.write("x")
    with socket.create_connection((os.environ["BOX_HOST"], int(os.environ["BOX_PORT"]))) as sock:
        sock.sendall(b"seeded")
        assert sock.recv(1) == b""

box = pc.container_fixture("host:", ["python3", "-c", SERVER], ports=[7000], seed=load)

def test_it(box):
    assert box.read_bytes("/srv/said") == b"seeded"
"""
    for _ in range(2):
        run(output, "-v").assert_outcomes(passed=1)
    assert seeded(pytester) == 1


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures"])
def test_nothing_is_made_where_nothing_is_run(run, project, option: str) -> None:
    run(SEEDED, option)
    assert not (project.path / "seeded").exists()


@pytest.mark.needs("postgresql", "id range")
@pytest.mark.parametrize("order", [[], pytest.param(["-p", "randomly"], marks=pytest.mark.long)])
@pytest.mark.long
def test_a_database_for_each_test_whatever_they_do(run, order: list[str]) -> None:
    result = run(
        """
def load(db):
    db.sql("create table t (a int); insert into t values (1)")

db = pc.services.Postgres.fixture(image="host:", seed=load)

@pytest.mark.parametrize("n", range(4))
def test_it(db, n):
    assert db.sql("select count(*) from t") == [["1"]]
    db.sql("drop table t")

def test_killed(db):
    db.container.kill()
    db.container.wait()

def test_spoken_to_ahead(db):
    assert "FATAL" not in str(db.logs())
    assert db.sql("select count(*) from t") == [["1"]]

def test_port(db):
    assert db.port and db.host and db.version.startswith("postgres (PostgreSQL)")
""",
        *order,
    )
    result.assert_outcomes(passed=7)
