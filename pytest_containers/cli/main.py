"""Parses the command line and hands over to the module of the command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_containers.cli import build, doctor, images, run
from pytest_containers.errors import ContainersError

FAILED = 1
FAILED_BEFORE_START = 125  # as Docker, which also has 126 and 127 for a command that cannot start
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The whole command line; each command's ``handler`` takes the parsed arguments."""
    top = argparse.ArgumentParser(
        prog="pytest-containers",
        description="Throwaway containers for tests: look at this machine, run and store images.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor.add_commands(commands)
    run.add_commands(commands)
    build.add_commands(commands)
    images.add_commands(commands)
    tell = commands.add_parser("version", help="print the version")
    tell.set_defaults(handler=_version)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. An error of ours is one line on stderr."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.handler(arguments)
    except ContainersError as error:
        print(f"pytest-containers: {error}", file=sys.stderr)
        if arguments.handler is not run.run:
            return FAILED
        return getattr(error, "exit_code", None) or FAILED_BEFORE_START
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`… | head`): say nothing, also not at exit.
        sys.stdout = None
        return FAILED
    return code


def _version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(version("pytest-containers"))
    return 0
