"""Transfers for people: live bars on a terminal, lines elsewhere.

Each is given a way to write, so that whoever captures the output decides when it is let through.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

from pytest_containers.images.progress import ENDED, Part, Transfer

Through = Callable[[], AbstractContextManager[IO[str] | None]]
"""Opens the way to the output for a moment; None where there is none."""

_USUAL_COLUMNS = 80
_FIRST_LINE_S, _LINE_EVERY_S = 2.0, 10.0
_UNITS = ("B", "kB", "MB", "GB", "TB")
_PAST = {"pull": "pulled", "push": "pushed", "load": "loaded", "unpack": "unpacked"}


def size(count: float) -> str:
    """A number of bytes for people: ``169.2 MB``."""
    for unit in _UNITS:
        if abs(count) < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes everything")


class Lines:
    """A line when something takes long, now and then, and at the end. What is quick says nothing.

    Args:
        through: The way to the output.
    """

    def __init__(self, through: Through, clock: Callable[[], float] = time.monotonic) -> None:
        self._through = through
        self._clock = clock
        self._next_s = 0.0
        self._said = False

    def begin(self, transfer: Transfer) -> None:
        """Nothing yet: it may be over in a moment."""
        self._next_s = self._clock() + _FIRST_LINE_S
        self._said = False

    def refresh(self, transfer: Transfer) -> None:
        """A line, if one is due."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + _LINE_EVERY_S
        self._said = True
        rate = transfer.transferred_bytes / max(transfer.elapsed_s, 0.001)
        ended = sum(part.state in ENDED for part in transfer.parts)
        self._line(
            f"{transfer.verb} {transfer.name}: {size(transfer.moved_bytes)} of "
            f"{size(transfer.size_bytes)}, {ended} of {len(transfer.parts)} layers, "
            f"{size(rate)}/s"
        )

    def end(self, transfer: Transfer, error: BaseException | None) -> None:
        """What came of it; of a failure the error tells."""
        if error is None and (self._said or transfer.transferred_bytes):
            self._line(summary(transfer))

    def _line(self, text: str) -> None:
        with self._through() as stream:
            if stream is not None:
                stream.write(f"containers: {text}\n")
                stream.flush()


def summary(transfer: Transfer) -> str:
    """One line about a transfer that has ended."""
    what = _PAST.get(transfer.verb, transfer.verb)
    return (
        f"{what} {transfer.name}: {size(transfer.transferred_bytes)} of "
        f"{size(transfer.size_bytes)} moved in {transfer.elapsed_s:.1f} s"
    )


class Bars:
    """A live bar for each layer, which a line replaces at the end.

    Args:
        through: The way to the terminal.
        width: Columns; None asks the terminal.
    """

    def __init__(self, through: Through, width: int | None = None) -> None:
        self._through = through
        self._width = width
        self._shown = 0

    def begin(self, transfer: Transfer) -> None:
        """Nothing yet: the first look draws."""
        self._shown = 0

    def refresh(self, transfer: Transfer) -> None:
        """Draw all bars anew."""
        with self._through() as stream:
            if stream is not None:
                self._draw(stream, transfer)

    def end(self, transfer: Transfer, error: BaseException | None) -> None:
        """Take the bars away; tell what was done."""
        with self._through() as stream:
            if stream is None or not self._shown:
                return
            self._erase(stream)
            if error is None:
                stream.write(f"containers: {summary(transfer)}\n")
            stream.flush()

    def _draw(self, stream: IO[str], transfer: Transfer) -> None:
        text = self._render(stream, transfer)
        self._erase(stream)
        # A test's own line may be half written: the bars begin on one of their own.
        stream.write(("" if self._shown else "\n") + text)
        stream.flush()
        self._shown = text.count("\n")

    def _erase(self, stream: IO[str]) -> None:
        if self._shown:
            stream.write(f"\x1b[{self._shown}F\x1b[J")

    def _render(self, stream: IO[str], transfer: Transfer) -> str:
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        buffer = io.StringIO()
        console = Console(
            file=buffer, force_terminal=True, width=self._width or _columns(stream),
            color_system="standard", legacy_windows=False,
        )  # fmt: skip
        table = Table.grid(padding=(0, 1))
        moved, total = size(transfer.moved_bytes), size(transfer.size_bytes)
        rate = size(transfer.transferred_bytes / max(transfer.elapsed_s, 0.001))
        console.print(
            f"containers: {transfer.verb} {transfer.name}  {moved} of {total}  {rate}/s",
            markup=False, highlight=False, no_wrap=True, overflow="ellipsis",
        )  # fmt: skip
        for part in transfer.parts:
            bar = ProgressBar(total=max(part.size_bytes, 1), completed=_moved(part), width=24)
            table.add_row(
                f"  {part.label}",
                bar,
                f"{size(_moved(part)):>9}",
                _rate(part, transfer),
                part.state,
            )
        console.print(table)
        return buffer.getvalue()


def _moved(part: Part) -> int:
    return part.size_bytes if part.state in ENDED else min(part.moved_bytes, part.size_bytes)


def _rate(part: Part, transfer: Transfer) -> str:
    """How fast a layer moves on the whole, while it does."""
    if part.state not in ("downloading", "uploading"):
        return ""
    moved = max(0, part.moved_bytes - part.before_bytes)
    return f"{size(moved / max(transfer.elapsed_s, 0.001)):>9}/s"


def _columns(stream: Any) -> int:
    import os

    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError, AttributeError):
        return _USUAL_COLUMNS


def to_stream(stream: IO[str]) -> Bars | Lines:
    """A display on a stream that nobody captures."""
    if stream.isatty():
        return Bars(lambda: nullcontext(stream))
    return Lines(lambda: nullcontext(stream))
