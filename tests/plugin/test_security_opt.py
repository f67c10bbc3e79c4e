"""`security_opt` in fixtures, tests, the ini file, the environment and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TESTS = """
import sys

CODE = "import os, sys\\ntry: os.getsid(0)\\nexcept OSError as error: sys.exit(error.errno)"
db = pc.container_fixture("host:", ["sleep", "100"]{argument})

@pc.container_fixture
def made():
    return pc.ContainerSpec("host:", ["sleep", "100"]{argument})

def seed(container):
    print("SEED", container.exec([sys.executable, "-c", CODE]).returncode)

seeded = pc.container_fixture("host:", ["sleep", "100"], seed=seed{argument})
service = pc.services.Memcached.fixture(image="host:"{argument})

def test_it({fixtures}, containers):
    for container in ({fixtures},):
        print("CODE", container.exec([sys.executable, "-c", CODE]).returncode)
    done = containers.run("host:", [sys.executable, "-c", CODE]{argument})
    print("CODE", done.wait(60))
"""
IN_FOLDER = ', security_opt=["seccomp=profiles/own.json"]'


def write(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rule = {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": number}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))


def codes(result: pytest.RunResult) -> set[str]:
    result.assert_outcomes(passed=1)
    return {line.split()[-1] for line in result.outlines if line.startswith(("CODE", "SEED"))}


@pytest.fixture
def show(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run tests from another directory than theirs; returns what a call's errno is."""

    def show(*options: str, argument: str = "", fixtures: str = "db, made, seeded") -> set[str]:
        folder = pytester.path / "elsewhere"
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        text = TESTS.replace("{argument}", argument).replace("{fixtures}", fixtures)
        return codes(run(text, "-s", "--containers-fresh", *options, str(pytester.path)))

    return show


@pytest.mark.long
def test_a_profile_is_relative_to_the_test_file(show, pytester: pytest.Pytester) -> None:
    write(pytester.path / "profiles/own.json", 71)
    assert show() == {"0"}
    assert show(argument=IN_FOLDER) == {"71"}


@pytest.mark.needs("memcached")
@pytest.mark.long
def test_services_take_it(show, pytester: pytest.Pytester) -> None:
    write(pytester.path / "profiles/own.json", 71)
    assert show(argument=IN_FOLDER, fixtures="service") == {"71"}


@pytest.mark.long
def test_precedence(show, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pytester.path / "profiles/own.json", 71)
    write(pytester.path / "ini/ini.json", 72)
    write(pytester.path / "elsewhere/here.json", 73)
    pytester.makeini("[pytest]\ncontainers_security_opt = seccomp=ini/ini.json\n")
    assert show() == {"72"}
    assert show(argument=IN_FOLDER) == {"71"}
    monkeypatch.setenv("PYTEST_CONTAINERS_SECURITY_OPT", "seccomp=here.json")
    assert show(argument=IN_FOLDER) == {"73"}
    option = "--containers-security-opt=seccomp=unconfined"
    assert show(option, argument=IN_FOLDER) == {"0"}


@pytest.mark.parametrize("value", ["seccomp=", "apparmor=unconfined", "unconfined"])
def test_a_wrong_option_is_told_at_once(run, value: str) -> None:
    result = run("def test_it(): pass", f"--containers-security-opt={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --containers-security-opt: {value!r} is not usable; it must be seccomp=unconf*"]
    )


def test_a_profile_that_is_not_there_fails_the_test(run) -> None:
    result = run(
        'db = pc.container_fixture("host:", ["true"], security_opt=["seccomp=none.json"])\n'
        "def test_it(db): pass\n"
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*SpecError: seccomp profile */none.json: no such file or dir*"])
