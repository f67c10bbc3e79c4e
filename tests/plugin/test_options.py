"""Options, ini, environment, header; and that nothing starts that is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_containers.model import settings

ECHO = """
db = pc.container_fixture("host:", ["sleep", "100"], {argument})

def test_it(db):
    print("IMAGE", db.image.name, "TIMEOUT", db.spec.ready_timeout_s)
"""


def shown(result: pytest.RunResult) -> list[str]:
    line = next(line for line in result.outlines if "IMAGE" in line)
    return line[line.index("IMAGE") :].split()


@pytest.mark.long
def test_precedence(run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\ncontainers_ready_timeout = 11\n")
    assert shown(run(ECHO.format(argument=""), "-s"))[3] == "11.0"
    assert shown(run(ECHO.format(argument="ready_timeout_s=22"), "-s"))[3] == "22"
    monkeypatch.setenv("PYTEST_CONTAINERS_READY_TIMEOUT", "33")
    assert shown(run(ECHO.format(argument="ready_timeout_s=22"), "-s"))[3] == "33.0"
    option = "--containers-ready-timeout=44"
    assert shown(run(ECHO.format(argument="ready_timeout_s=22"), "-s", option))[3] == "44.0"


@pytest.mark.long
def test_another_image_for_one_fixture(run, tmp_path: Path) -> None:
    image = f"host:?path={tmp_path}"
    assert shown(run(ECHO.format(argument=""), "-s", f"--containers-image=db={image}"))[1] == image
    both = ECHO.format(argument="") + "\nother = pc.container_fixture('host:', ['true'])\n"
    assert shown(run(both, "-s", f"--containers-image=other={image}"))[1] == "host:"


@pytest.mark.parametrize("option", ["--containers-image=db", "--containers-ready-timeout=soon",
                                    "--containers-identity=nobody"])  # fmt: skip
def test_a_wrong_option_is_told_at_once(run, option: str) -> None:
    result = run("def test_it(): pass", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: {option.partition('=')[0]}: * is not usable; it must be *"]
    )


def test_a_wrong_ini_value_fails_the_test_that_needs_it(run, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ncontainers_log_lines = many\n")
    result = run("def test_it(containers): pass\ndef test_other(): pass")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*containers_log_lines: 'many' is not usable*"])


def test_help_comes_from_the_table(run) -> None:
    output = " ".join(run("", "--help").stdout.str().split())
    for setting in settings.ALL:
        assert output.count(setting.help_text) == (1 if setting.ini_only else 2), setting.name
        assert f"{setting.ini} (" in output
        assert (f"{setting.option}" in output) != setting.ini_only


@pytest.mark.long
def test_one_header_line(run) -> None:
    result = run("def test_it(): pass")
    lines = [line for line in result.outlines if line.startswith("containers:")]
    assert len(lines) == 1
    assert "containers:" not in str(run("def test_it(): pass", "-q").stdout)


@pytest.mark.parametrize("option", ["", "--collect-only", "--setup-plan", "--fixtures"])
def test_nothing_starts_that_is_not_needed(run, pytester: pytest.Pytester, option: str) -> None:
    pytester.makeconftest(
        """
import sys, os
def pytest_unconfigure(config):
    heavy = [m for m in sys.modules if m.startswith("pytest_containers.")]
    print("LOADED", [m for m in heavy if ".engines.native" in m or ".runtime" in m or ".images" in m])
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    print("CHILDREN", children)
"""
    )
    uses = (
        "def test_it(): pass" if not option else "def test_it(containers): containers.run('host:')"
    )
    result = run(uses, *([option] if option else []), "-s")
    result.stdout.fnmatch_lines(["*LOADED []*", "*CHILDREN []*"])


def test_hooks(run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import dataclasses
def pytest_containers_spec(config, name, spec):
    return dataclasses.replace(spec, env={**spec.env, "ADDED": name})
def pytest_containers_started(config, container):
    print("STARTED", container.name)
"""
    )
    result = run(
        """
db = pc.container_fixture("host:", ["sleep", "100"])
def test_it(db): assert db.exec(["sh", "-c", "echo $ADDED"], text=True).stdout == "db\\n"
""",
        "-s",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*STARTED db*"])
