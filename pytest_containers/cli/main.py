"""The parser of the command line, and `main`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pytest_containers.cli import build, completion, doctor, images, kept, run, unshare
from pytest_containers.model.errors import ContainersError

FAILED = 1
FAILED_BEFORE_START = 125  # as in Docker, which uses 126 and 127 for a command that cannot start
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """Return the parser; the ``handler`` of each command takes the parsed arguments."""
    top = argparse.ArgumentParser(
        prog=completion.PROGRAM,
        description="Throwaway containers for tests: check this machine, run and manage images.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor.add_commands(commands)
    run.add_commands(commands)
    unshare.add_commands(commands)
    build.add_commands(commands)
    images.add_commands(commands)
    kept.add_commands(commands)
    shell = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description='Print a script for a shell. In bash, `eval "$(pytest-containers completion '
        'bash)"`; in zsh, `source <(pytest-containers completion zsh)`; in fish, '
        "`pytest-containers completion fish | source`.",
    )
    shell.add_argument("shell", choices=tuple(completion.SHELLS), help="the shell")
    shell.set_defaults(handler=_completion)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(handler=_version)
    for _, command, _ in completion.subcommands(top):
        command.set_defaults(parser=command)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an expected error is one line on stderr."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:  # argparse would show the usage of the whole program
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code: int = arguments.handler(arguments)
    except ContainersError as error:
        print(f"pytest-containers: {error}", file=sys.stderr)
        if arguments.handler not in (run.run, unshare.run, kept.execute, kept.enter):
            return FAILED
        return getattr(error, "exit_code", None) or FAILED_BEFORE_START
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone (`… | head`): print nothing, not even at exit.
        sys.stdout = None
        return FAILED
    return code


class _PrintVersion(argparse.Action):
    """The option ``--version``, which looks the version up only when it is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        _version(argparse.Namespace())
        parser.exit()


def _version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(version("pytest-containers"))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    print(completion.SHELLS[arguments.shell](parser()), end="")
    return 0
