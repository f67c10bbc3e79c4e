"""The commands `ps`, `logs`, `exec`, `enter` and `rm`, for containers that a test run has kept."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_containers.cli import attach
from pytest_containers.cli.images import remove_names
from pytest_containers.model import settings
from pytest_containers.model.errors import (
    ContainersError,
    ImageNotFoundError,
    NotRunningError,
    RunLostError,
    SpecError,
)
from pytest_containers.model.harmless import harmless
from pytest_containers.model.kept import KeptContainer, KeptRun
from pytest_containers.model.settings import Settings

_SHELL = ("sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")
_WHICH = "an id or the beginning of it, a name, or `last` for the newest"


def add_commands(commands: Any) -> None:
    """Add the commands to the subparsers."""
    ps = commands.add_parser(
        "ps",
        help="list the containers that test runs have kept",
        description="List the containers that `pytest --containers-keep` has kept, and those of "
        "tests that are at the prompt of `--pdb`, the oldest first.",
    )
    ps.set_defaults(handler=_ps)
    logs = commands.add_parser(
        "logs", help="print the output of a kept container", description="Print its output."
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the container ends")
    logs.add_argument("--tail", type=_count, metavar="N", help="begin with the last N lines")
    _add_container(logs)
    logs.set_defaults(handler=_logs)
    exec_parser = commands.add_parser(
        "exec",
        help="run a program in a kept container",
        description="Run a program in a kept container and exit with its code.",
    )
    _add_exec_options(exec_parser)
    exec_parser.add_argument(
        "-i", "--interactive", action="store_true", help="pass standard input to the program"
    )
    exec_parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    exec_parser.add_argument("container", metavar="CONTAINER", help=_WHICH)
    exec_parser.add_argument("program", metavar="PROGRAM", help="the program")
    exec_parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER)
    exec_parser.set_defaults(handler=execute)
    enter_parser = commands.add_parser(
        "enter",
        help="open a shell in a kept container",
        description="Open a shell (bash, else sh) in a kept container: `enter` without a name "
        "takes the newest.",
    )
    _add_exec_options(enter_parser)
    enter_parser.add_argument(
        "container", metavar="CONTAINER", nargs="?", default="last", help=_WHICH
    )
    enter_parser.set_defaults(handler=enter)
    rm = commands.add_parser(
        "rm",
        help="remove kept containers, or names of images",
        description="Remove kept containers with all that only they use. A word that names no kept "
        "container is the name of an image; `rmi` means images only.",
    )
    rm.add_argument("--all", action="store_true", help="remove all kept containers")
    rm.add_argument("names", metavar="NAME", nargs="*", help=f"{_WHICH}; or an image")
    rm.set_defaults(handler=_rm)


def _add_container(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "container", metavar="CONTAINER", nargs="?", default="last", help=f"{_WHICH} (default)"
    )


def _add_exec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="user of the program")
    parser.add_argument("-w", "--workdir", metavar="PATH", help="working directory")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable"
    )


def _count(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of lines")
    return int(value)


# ------------------------------------------------------------------ commands


def _ps(arguments: argparse.Namespace) -> int:
    with _kept() as containers:
        rows: list[tuple[str, ...]] = [
            ("CONTAINER", "NAME", "IMAGE", "STATUS", "ENDS", "PORTS", "TEST")
        ]
        rows += [_row(container) for _, container in containers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
    return 0


def _row(container: KeptContainer) -> tuple[str, ...]:
    code = container.exit_code
    status = container.status if code is None else f"exited ({code})"
    if not container.kept:
        ends = "with its test"
    elif container.ends_in_s is None:
        ends = "after pytest"
    else:
        ends = f"in {_minutes(container.ends_in_s)}"
    ports = ", ".join(container.ports) or container.ip
    cells = (container.id, container.name, container.image, status, ends, ports, container.test)
    return tuple(harmless(cell) for cell in cells)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _logs(arguments: argparse.Namespace) -> int:
    with _kept() as containers:
        run, container = _find(containers, arguments.container)
        for _, stream, data in run.records(container, follow=arguments.follow, tail=arguments.tail):
            _write(sys.stderr if stream == 2 else sys.stdout, data)
    return 0


def _write(stream: Any, data: bytes) -> None:
    """Write output of a container: as it is, but not to a terminal, which would obey it."""
    if stream.isatty():
        data = harmless(data.decode(errors="replace")).encode()
    stream.buffer.write(data)
    stream.flush()


def execute(arguments: argparse.Namespace) -> int:
    """Run a program in a kept container and return its exit code."""
    if arguments.interactive and arguments.tty and not attach.is_terminal():
        raise SpecError("exec -i -t: standard input is not a terminal; leave -t away")
    command = [arguments.program, *arguments.arguments]
    return _exec(arguments, command, stdin=arguments.interactive, tty=arguments.tty)


def enter(arguments: argparse.Namespace) -> int:
    """Open a shell in a kept container and return its exit code."""
    return _exec(arguments, _SHELL, stdin=True, tty=attach.is_terminal())


def _exec(arguments: argparse.Namespace, command: Sequence[str], *, stdin: bool, tty: bool) -> int:
    env = dict(_variable(item) for item in arguments.env)
    if tty and "TERM" in os.environ:
        env.setdefault("TERM", os.environ["TERM"])
    with _kept() as containers:
        run, container = _find(containers, arguments.container)
        program = run.exec(
            container,
            command,
            user=arguments.user,
            workdir=arguments.workdir,
            env=env,
            stdin=stdin,
            tty=tty,
        )
        if tty:
            attach.terminal(program.streams[0], stdin=stdin)
        else:
            attach.pipes(program.streams, stdin=stdin)
        return program.wait()


def _variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    return name, value if equals else os.environ.get(name, "")


def _rm(arguments: argparse.Namespace) -> int:
    if bool(arguments.names) == arguments.all:
        raise SpecError("rm: name what to remove, or write --all")
    with _kept() as containers:
        names = [name for name in arguments.names if not _matches(containers, name)]
        chosen = [_find(containers, name) for name in arguments.names if name not in names]
        for run, container in containers if arguments.all else chosen:
            if container.kept:
                with contextlib.suppress(NotRunningError, RunLostError):  # its time was over
                    run.drop(container)
            elif not arguments.all:
                raise SpecError(
                    f"rm: container {container.name!r} is not kept; it ends with its test"
                )
    if names:
        try:
            remove_names(names)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"{error}, and no kept container is called so", **error.data
            ) from None
    return 0


# ------------------------------------------------------------------ runs


@contextlib.contextmanager
def _kept() -> Iterator[list[tuple[KeptRun, KeptContainer]]]:
    """Return the containers of all runs, the oldest first, each with the connection to its run."""
    from pytest_containers.engines.choose import kept_runs

    home = Settings({}, {}).get(settings.HOME)
    with contextlib.ExitStack() as stack:
        pairs: list[tuple[KeptRun, KeptContainer]] = []
        for run in kept_runs(home):
            stack.callback(run.close)
            with contextlib.suppress(ContainersError):  # it ends just now
                pairs += [(run, container) for container in run.containers()]
        yield sorted(pairs, key=lambda pair: (pair[1].kept_at, pair[1].id))


def _find(
    containers: Sequence[tuple[KeptRun, KeptContainer]], word: str
) -> tuple[KeptRun, KeptContainer]:
    """Return the container that a word of the command line names.

    Raises:
        NotRunningError: There is none.
        SpecError: There are several.
    """
    matches = _matches(containers, word)
    if len(matches) > 1:
        ids = ", ".join(pair[1].id for pair in matches)
        raise SpecError(f"{word!r} names several containers; choose an id: {ids}")
    if not matches:
        raise NotRunningError(
            f"no container {word!r} is kept; `pytest-containers ps` lists them, and "
            "`pytest --containers-keep=failed` keeps those of failed tests"
        )
    return matches[0]


def _matches(
    containers: Sequence[tuple[KeptRun, KeptContainer]], word: str
) -> list[tuple[KeptRun, KeptContainer]]:
    if word == "last":
        return list(containers[-1:])
    named = [pair for pair in containers if pair[1].name == word]
    return named or [pair for pair in containers if pair[1].id.startswith(word)]
