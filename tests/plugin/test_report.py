"""What the report of a failure says, on the terminal, under xdist and in JUnit files."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

FAILS = """
db = pc.container_fixture(
    "host:", ["sh", "-c", "echo first words; echo last words >&2; sleep 100"],
    env={"PASSWORD": "very secret"}, ready=pc.wait.log("last words"),
)
broken = pc.container_fixture("host:", ["sh", "-c", "echo why; exit 3"], ports=[80])

def test_fails(db): assert False
def test_setup_fails(db, broken): pass
def test_passes(db): pass
"""
DB = [
    "*Container db*",
    "command: sh -c *",
    "state: running",
    "output:",
    "*first words*",
    "*last words*",
]
BROKEN = ["*Container broken*", "state: exited with exit code 3, then removed", "*why*"]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_sections(run, pytester: pytest.Pytester, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    result = run(FAILS, *workers, "--junit-xml=out.xml")
    result.assert_outcomes(failed=1, errors=1, passed=1)
    result.stdout.fnmatch_lines(DB)
    result.stdout.fnmatch_lines(BROKEN)
    assert "very secret" not in str(result.stdout)
    cases = {
        case.get("name"): case
        for case in ElementTree.parse(pytester.path / "out.xml").iter("testcase")
    }
    failure = cases["test_fails"].find("failure")
    error = cases["test_setup_fails"].find("error")
    assert failure is not None and "last words" in (failure.text or "")
    assert error is not None and "exit code 3" in (error.text or "") and "why" in (error.text or "")
    assert "very secret" not in (pytester.path / "out.xml").read_text()
    assert len(cases["test_passes"]) == 0


def test_the_number_of_lines_is_a_setting(run) -> None:
    result = run(
        """
def test_it(containers):
    containers.run("host:", ["sh", "-c", "seq 1 50; echo done; sleep 9"], ready=pc.wait.log("done"))
    assert False
""",
        "--containers-log-lines=2",
    )
    result.stdout.fnmatch_lines(["output (the last 2 of 51 lines):", "    50", "    done"])
    assert "    49" not in str(result.stdout)


@pytest.mark.long
def test_an_error_is_one_sentence_and_the_next_test_runs(run) -> None:
    result = run(
        """
def test_it(containers): containers.run("host:", ["nosuch"])
def test_next(containers): assert containers.run("host:", ["true"]).wait(60) == 0
"""
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*StartError: start of container 'container-1': command 'nosuch' was not found*"]
    )
    result.stdout.no_fnmatch_line("*pytest_containers/*.py:*")


@pytest.mark.long
def test_xdist_workers_share_the_run(run) -> None:
    pytest.importorskip("xdist")
    result = run(
        """
import os
@pytest.mark.parametrize("n", range(4))
def test_it(containers, n):
    c = containers.run("host:", ["sleep", "100"])
    launchers = [p for p in os.listdir("/proc") if p.isdigit() and name(p) == "pc-launcher" and parent(p) == os.getppid()]
    own = [p for p in os.listdir("/proc") if p.isdigit() and name(p) == "pc-launcher" and parent(p) == os.getpid()]
    assert len(launchers) == 1 and own == []

def name(pid):
    try: return open(f"/proc/{pid}/comm").read().strip()
    except OSError: return ""

def parent(pid):
    try: return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
    except OSError: return 0
""",
        "-n", "2",
    )  # fmt: skip
    result.assert_outcomes(passed=4)


@pytest.mark.needs("cgroups")
def test_a_kill_for_memory(run) -> None:
    result = run(
        """
def test_it(containers):
    hog = "held = bytearray(300 << 20)"
    containers.run("host:", ["python3", "-c", hog], mem_limit="64m", wait_ready=False).wait(60)
    assert False
"""
    )
    result.stdout.fnmatch_lines(
        ["state: exited with exit code 137", "*killed: over its memory limit of 64 MB"]
    )


@pytest.mark.needs("cgroups")
def test_a_kill_for_memory_before_it_is_ready(run) -> None:
    result = run(
        """
hog = "held = bytearray(300 << 20)"
db = pc.container_fixture("host:", ["python3", "-c", hog], mem_limit="64m", ports=[80])
def test_it(db): pass
"""
    )
    result.stdout.fnmatch_lines(["*killed: over its memory limit of 64 MB"])
