"""`unshare` runs a command that owns the files of the users of containers."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_containers.model.errors import StartError


def add_commands(commands: Any) -> None:
    """Add `unshare` to the subparsers."""
    unshare = commands.add_parser(
        "unshare",
        help="run a command that owns the files of the users of containers",
        description="Run a command on the files of this machine with the ids of containers: the "
        "files of their root are yours, and those of their other users can be read, changed and "
        "removed. For root, who has all ids, the command is run as it is.",
    )
    unshare.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    unshare.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code, as a shell reports it."""
    from pytest_containers.engines.choose import unshare

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise StartError("unshare: there is no command; name one, as in `unshare rm -r data`")
    return unshare(command)
