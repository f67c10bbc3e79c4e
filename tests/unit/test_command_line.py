"""The command line without a container: usage, versions, JSON, and completion in shells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pytest_containers.cli import doctor, main
from pytest_containers.cli.completion import SHELLS, subcommands
from pytest_containers.cli.main import parser
from pytest_containers.model.machine import MachineFeature


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(arguments) == 0
    except SystemExit as ended:
        assert not ended.code
    assert capsys.readouterr().out == f"{version('pytest-containers')}\n"


def test_python_runs_it_as_a_module() -> None:
    command = [sys.executable, "-m", "pytest_containers", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{version('pytest-containers')}\n"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["pull", "--bogus", "x"], "pull"),
        (["pull"], "pull"),
        (["run", "--bogus", "host:"], "run"),
        (["cache", "export"], "cache export"),
        (["cache", "export", "x", "--bogus"], "cache export"),
        (["doctor", "more"], "doctor"),
    ],
)
def test_errors_show_the_usage_of_the_command(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"usage: pytest-containers {command} ")
    assert lines[-1].startswith(f"pytest-containers {command}: error: ")


@pytest.mark.parametrize("present", [True, False])
def test_doctor_in_json(
    present: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feature = MachineFeature(
        "user namespaces", present, True, "detail", fix="do it", commands=("x",)
    )
    monkeypatch.setattr(doctor, "_features", lambda: [feature])
    assert main(["doctor", "--format", "json"]) == (0 if present else 1)
    report = json.loads(capsys.readouterr().out)
    assert report["containers_run"] is present
    assert report["features"] == [
        {
            "name": "user namespaces", "present": present, "required": True, "detail": "detail",
            "fallback": "", "fix": "do it", "commands": ["x"],
        }
    ]  # fmt: skip


def test_every_command_and_option_is_in_every_script() -> None:
    scripts = {shell: write(parser()) for shell, write in SHELLS.items()}
    for names, command, _ in subcommands(parser()):
        for script in scripts.values():
            assert names[-1] in script
        for action in command._actions:
            for option in action.option_strings:
                assert option in scripts["bash"] and option in scripts["zsh"]
                assert f"option {option.lstrip('-')}" in scripts["fish"]


BASH = """
eval "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_pytest_containers
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(*words: str, cwd: Path | None = None) -> set[str]:
    """Return what bash offers for the last of those words."""
    script = SHELLS["bash"](parser())
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", script, "pytest-containers", *words],
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


def in_fish(*words: str, cwd: Path | None = None) -> set[str]:
    """Return what fish offers."""
    script = f"{SHELLS['fish'](parser())}complete --do-complete $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, " ".join(["pytest-containers", *words])],
        capture_output=True, text=True, check=True, cwd=cwd,
    )  # fmt: skip
    assert done.stderr == ""
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


ZSH = """
zmodload zsh/zpty
zpty shell 'PS1=; TERM=dumb zsh -f -i'
zpty -w shell 'PS1=; unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -D'
zpty -w shell 'source <(cat script)'
# Print what is offered, instead of offering it.
zpty -w shell 'compadd() { builtin compadd -O hits "$@"; print -rl -- "<${^hits[@]}>" >> offered; builtin compadd "$@" }'
zpty -w shell "bindkey '^I' complete-word"
# Once the editor has the terminal: before, the terminal itself takes ^U and drops what was typed.
zpty -w shell 'zle-line-init() { print ready > ready }; zle -N zle-line-init'
while [[ ! -e ready ]]; do sleep 0.02; done
zpty -n -w shell "$1"$'\\t'
zpty -n -w shell $'\\C-U'"print done > done"$'\\n'
while [[ ! -e done ]]; do sleep 0.02; done
zpty -d shell
"""


def in_zsh(*words: str, cwd: Path) -> set[str]:
    """Return what zsh offers, typed in a terminal."""
    (cwd / "script").write_text(SHELLS["zsh"](parser()))
    for name in ("ready", "done", "offered"):
        (cwd / name).unlink(missing_ok=True)
    line = " ".join(["pytest-containers", *words])
    subprocess.run(["zsh", "-f", "-c", ZSH, "zsh", line], check=True, cwd=cwd, timeout=30)
    offered = (cwd / "offered").read_text() if (cwd / "offered").exists() else ""
    return {word.strip("<>") for word in offered.split()}


COMPLETED = [
    (["doc"], {"doctor"}, set()),
    (["cache", "e"], {"export"}, set()),
    (["run", "--mem"], {"--memory", "--memory-swap"}, {"--name"}),
    (["pull", "--policy", ""], {"always", "missing", "never"}, set()),
    (["completion", ""], set(SHELLS), set()),
    (["build", "-f", "Do"], {"Dockerfile"}, set()),
    (["run", "host:", "Do"], {"Dockerfile"}, {"doctor"}),
]


@pytest.mark.parametrize(
    # Sorted: the names of tests are the same in all workers.
    ("words", "offered", "others"),
    COMPLETED,
    ids=lambda value: " ".join(sorted(value))[:30],
)
@pytest.mark.parametrize(
    "shell",
    [
        "bash",
        pytest.param("fish", marks=pytest.mark.needs("fish")),
        pytest.param("zsh", marks=pytest.mark.needs("zsh")),
    ],
)
def test_completion(
    shell: str, words: list[str], offered: set[str], others: set[str], tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM host:\n")
    complete = {"bash": in_bash, "fish": in_fish, "zsh": in_zsh}[shell]
    found = complete(*words, cwd=tmp_path)
    assert offered <= found
    assert not others & found


def test_bash_completes_values_behind_an_equals_sign() -> None:
    assert in_bash("pull", "--policy", "=", "n") == {"never"}
    assert in_bash("pull", "--policy", "=") == {"always", "missing", "never"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_accepts_the_script() -> None:
    script = SHELLS["bash"](parser())
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
