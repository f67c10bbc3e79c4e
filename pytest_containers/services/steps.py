"""Programs that prepare a server, with the reason when one fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pytest_containers.model.container import Container
from pytest_containers.model.errors import (
    ContainersError,
    ExecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.results import ExecResult

__tracebackhide__ = hide_frames

_TAIL_LINES, _LONGEST = 10, 300
_NOTE = " [Note] "  # of MariaDB and MySQL, which write many before and after an error


def maker_of(container: Container, user: str) -> str:
    """Return the user who can make files of `user`: root, or with a single id that user itself.

    All files of a container that has a single id are those of whoever looks at them.
    """
    mapped = container.exec(["cat", "/proc/self/uid_map"], user="0", text=True, check=True)
    return user if _is_single(str(mapped.stdout)) else "root"


def require_ids(container: Container, service: str) -> None:
    """Refuse a container with a single id to a server that works with several at once.

    Raises:
        UnsupportedError: It has a single id.
    """
    if maker_of(container, "") == "":
        raise UnsupportedError(
            f"{service} starts as root and goes on as another user, and this run has a single id; "
            "`pytest-containers setup` tells what gives it more"
        )


def require_own_files(container: Container, purpose: str, path: str) -> None:
    """Refuse a container where a file is that of this machine, as with the process engine.

    Args:
        purpose: What the file is for: ``"OpenSSH makes an account"``.
        path: The file, which is appended to; a file that it makes for that stays.

    Raises:
        UnsupportedError: The file cannot be written.
    """
    if container.exec(["sh", "-c", f": >> {path}"], user="0").returncode:
        raise UnsupportedError(
            f"{purpose} in {path}, which is the machine's here and read-only; "
            "use engine 'native', or an image",
            engines=["native"],
        )


def _is_single(uid_map: str) -> bool:
    """Return True for ``/proc/PID/uid_map`` of one id."""
    return uid_map.split()[2:] == ["1"]


def run_step(
    container: Container, title: str, command: Sequence[str], *, log: str = "", **options: Any
) -> ExecResult:
    """Run a program in a container.

    Args:
        title: The start of the message if it fails: ``"initdb"``.
        log: A file in the container with the reason; empty is the output of the program.
        **options: See `Container.exec`.

    Raises:
        ExecError: The program failed; with its last lines instead of the command.
    """
    result = container.exec(command, **options)
    if result.returncode == 0:
        return result
    lines = _lines(result.stderr) or _lines(result.stdout)
    if log:
        with suppress(ContainersError):
            lines = _lines(container.read_bytes(log)) or lines
    lines = [line for line in lines if _NOTE not in line] or lines
    shown = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines]
    tail = "".join(f"\n    {line}" for line in shown[-_TAIL_LINES:])
    raise ExecError(
        f"{title} in {container.name!r} failed with exit code {result.returncode}"
        + (f"; its last output:{tail}" if tail else "; it wrote nothing"),
        cmd=list(command),
        returncode=result.returncode,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def _lines(output: str | bytes) -> list[str]:
    decoded = output.decode(errors="replace") if isinstance(output, bytes) else output
    return decoded.strip().splitlines()
