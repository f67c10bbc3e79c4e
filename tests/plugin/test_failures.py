"""A failure explains itself: whose line it shows, what it says once, and what it leaves out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CONFTEST = """
import pytest
import pytest_containers as pc

broken = pc.container_fixture("host:", ["sh", "-c", "echo why; exit 3"], ports=[80])

@pc.container_fixture(scope="module")
def described(tmp_path_factory):
    return pc.ContainerSpec("host:", ["nosuch"])

image = pc.image_fixture("oci:/nowhere")
wide = pc.container_fixture("host:", ["sleep", "9"], scope="function", name="narrow")

@pytest.fixture(scope="session")
def uses_narrow(narrow): pass
"""
TESTS = """
def test_broken(broken): pass
def test_described(described): pass
def test_described_again(described): pass
def test_image(image): pass
def test_scope(uses_narrow): pass
"""


def line_of(text: str, code: str) -> int:
    return next(n for n, line in enumerate(code.splitlines(), 1) if text in line)


@pytest.mark.long
def test_tracebacks_name_the_lines_of_the_user(run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = run(TESTS)
    result.assert_outcomes(errors=5)
    output = result.stdout.str()
    place = f"conftest.py:{line_of('broken =', CONFTEST.strip())}"
    assert re.search(rf"{re.escape(place)}: (in broken|ExitedError)", output), output
    assert f"conftest.py:{line_of('@pc.container', CONFTEST.strip())}:" in output
    assert f"conftest.py:{line_of('image =', CONFTEST.strip())}:" in output
    # pytest names the fixture of another scope: the line of its declaration, too.
    assert f"conftest.py:{line_of('wide =', CONFTEST.strip())}:  def narrow(" in output
    path = "test_tracebacks_name_the_lines_of_the_user.py"
    for number, name in enumerate(("test_broken", "test_described"), 4):
        assert f"{path}:{number}: {name}" in output
    # The second test of a fixture of a wider scope refers to the first.
    assert f"see the report of {path}::test_described" in output
    reports, _, _ = output.partition("short test summary info")  # which CI services see whole
    assert reports.count("command 'nosuch' was not found") == 2  # report and pointer
    assert "pytest_containers/" not in output.replace("see the report", "")
    for stranger in ("pytest_asyncio/plugin.py", "traceback entries are hidden", "_pytest/"):
        assert stranger not in output


def test_fixtures_are_listed_with_the_files_of_the_user(run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    (pytester.path / "pytest.ini").write_text(
        "[pytest]\ncontainers_services = ini_db = redis@host:\n"
    )
    output = run(TESTS, "--fixtures").stdout.str()
    assert re.search(r"^broken -- conftest\.py:\d+$", output, re.MULTILINE)
    assert re.search(r"^described \[module scope\] -- conftest\.py:\d+$", output, re.MULTILINE)
    assert re.search(r"^ini_db \[session scope\] -- pytest\.ini:[23]", output, re.MULTILINE)


def test_a_setting_that_is_not_usable_names_the_test(run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncontainers_log_lines = many\n")
    result = run("def test_it(containers): pass")
    output = result.stdout.str()
    assert "test_a_setting_that_is_not_usable_names_the_test.py:3: test_it" in output
    assert "E   SettingsError: containers_log_lines: 'many' is not usable" in output
    assert "pytest_containers/" not in output and "entries are hidden" not in output


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_seed_tells_its_story_once(
    run, pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: str
) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "store"))
    result = run(
        """
def load(box):
    box.exec(["sh", "-c", "echo '::error::first words' > /proc/1/fd/1"])
    raise KeyError("lost")

box = pc.container_fixture("host:", ["sleep", "100"], seed=load)

@pytest.mark.parametrize("number", range(4))
def test_it(box, number): pass
""",
        "-n",
        workers,
        "-rN",
    )
    result.assert_outcomes(errors=4)
    output = result.stdout.str()
    assert output.count('raise KeyError("lost")') == 1
    assert output.count(": :error::first words") == 1 and "E       ::error" not in output
    first = re.findall(r"see the report of (\S+)", output)
    assert len(first) == 3 and len(set(first)) == 1
    name = first[0].partition("::")[2]
    story = output[output.index(f"at setup of {name} ") + 20 :]
    assert 'raise KeyError("lost")' in story.partition("ERROR at setup of")[0]


NAMES = """
database = pc.container_fixture("host:", ["sleep", "100"])
def test_it(containers): containers.run("host:", ["true"], name="cache")
"""


@pytest.mark.parametrize(
    "source", ["option", "ini", "environment", pytest.param("worker", marks=pytest.mark.slow)]
)
def test_an_image_for_a_name_that_nothing_has(
    run, pytester, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    options: list[str] = []
    names = {"option": "--containers-image", "worker": "--containers-image"}
    if source == "ini":
        names["ini"] = "containers_image"
        pytester.makeini("[pytest]\ncontainers_image = databse=host:\n")
    elif source == "environment":
        names["environment"] = "PYTEST_CONTAINERS_IMAGE"
        monkeypatch.setenv("PYTEST_CONTAINERS_IMAGE", "databse=host:")
    else:
        options = ["--containers-image=databse=host:"]
    result = run(NAMES, *options, *(["-n", "1"] if source == "worker" else []))
    message = (
        f"{names[source]}: no fixture or container is called 'databse'; did you mean 'database'?"
    )
    if source == "worker":
        result.assert_outcomes(errors=1)
        assert message in result.stdout.str()
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {message}"])


@pytest.mark.long
def test_images_for_names_that_something_has(run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncontainers_image = elsewhere=host:\n")
    options = ["--containers-image=database=host:", "--containers-image=cache=host:"]
    path = "test_images_for_names_that_something_has.py"
    # Settings of a project may be meant for tests that are not collected now.
    run(NAMES, *options, path).assert_outcomes(passed=1)
    result = run(NAMES)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: containers_image: no fixture * 'elsewhere'; there are *database*"]
    )


def test_without_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\ncontainers_keep = failed\n")
    pytester.makepyfile("def test_other(): pass\ndef test_it(broken): pass")
    result = pytester.runpytest_subprocess("-p", "no:containers")
    result.assert_outcomes(passed=1, errors=1)
    assert "-p no:containers" in result.stdout.str()


LOST_CONFTEST = """
import pytest_containers as pc

class Web(pc.services.Service):
    reference, number, scheme, clean = "host:", 8000, "http", False
    programs, packages = ("python3",), "python3"

    def serve(self, image):
        return self.spec(["python3", "-m", "http.server"], pc.wait.port(8000))

web = pc.session_service(Web, endpoint="WEB_URL")
"""
LOST = """
import os, signal, urllib.request

wide = pc.container_fixture("host:", ["sleep", "100"], scope="session")
shared = pc.container_fixture("host:", ["sleep", "100"], isolation="none")

def kill():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, stat = open(f"/proc/{pid}/comm").read(), open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        if name == "pc-launcher\\n" and int(stat.rsplit(")", 1)[1].split()[1]) == RUNNER:
            os.kill(int(pid), signal.SIGKILL)
    return int(pid)

RUNNER = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()

def test_before(wide, shared): pass
def test_kills(wide, shared):
    kill()
    while wide.status: pass
def test_after(wide, shared, web):
    with urllib.request.urlopen(os.environ["WEB_URL"]) as answer:
        assert answer.status == 200
    assert web.container.status == "running"
    assert wide.exec(["true"]).returncode == shared.exec(["true"]).returncode == 0
def test_kills_unnoticed(wide):
    kill()
    import time
    time.sleep(0.5)
def test_last(wide, shared):
    assert wide.exec(["true"]).returncode == 0
"""


@pytest.mark.parametrize(
    "workers", [[], pytest.param(["-n", "1"], marks=pytest.mark.long)], ids=["plain", "xdist"]
)
@pytest.mark.long
def test_a_lost_run_is_told_once_and_replaced(run, pytester, workers: list[str]) -> None:
    pytester.makeconftest(LOST_CONFTEST)
    result = run(LOST, *workers, "-rN")
    result.assert_outcomes(passed=4, failed=1, errors=1)
    output = result.stdout.str()
    assert len(re.findall(r"^E +pytest_containers\.RunLostError: the run of", output, re.M)) == 1
    assert "ERROR at teardown of test_kills_unnoticed" in output


@pytest.mark.slow
@pytest.mark.long
def test_slow_starts_seeds_and_live_lines(run, pytester, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "store"))
    result = run(
        """
import time
def load(box):
    time.sleep(2.8)

slow = pc.container_fixture(
    "host:", ["sh", "-c", "printf '::set \\033[31m'; sleep 2.8; echo up; sleep 100"],
    ready=pc.wait.log("up"),
)
box = pc.container_fixture("host:", ["sleep", "100"], seed=load)
def test_it(slow, box): pass
""",
        "-v",
        "--containers-logs=live",
    )
    result.assert_outcomes(passed=1)
    output = result.stdout.str()
    assert re.search(
        r"containers: after 2 s: container 'slow' \(host:\) for \S+::test_it is not ready: it waits "
        r"for log\('up'\), at most 60 s",
        output,
    )
    assert re.search(r"containers: after 2 s: seed load for 'box' is run once", output)
    assert "slow | : :set \\x1b[31mup" in output
    assert re.search(
        r"::test_it: slow \(host:\): image \d+ ms, start \d+ ms, ready 2\.\d+ s, teardown \d+ ms",
        output,
    )
