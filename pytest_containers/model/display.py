"""Displays of image transfers: live bars on a terminal, lines elsewhere.

A display opens its stream for every write, so that a pytest that captures output can pass it on.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

from pytest_containers.model.sizes import format_size
from pytest_containers.model.transfer import ENDED, ImageTransfer, Part

Through = Callable[[], AbstractContextManager[IO[str] | None]]
"""Opens the output for the length of a `with` block; yields None if there is no output."""

_USUAL_COLUMNS = 80
_FIRST_LINE_S, _LINE_EVERY_S = 2.0, 10.0
_PAST = {"pull": "pulled", "push": "pushed", "load": "loaded", "unpack": "unpacked"}


class Lines:
    """A display that prints a line now and then during a long transfer, and one at its end.

    A transfer that is over before the first line is due prints nothing.

    Args:
        through: Opens the output.
    """

    def __init__(self, through: Through, clock: Callable[[], float] = time.monotonic) -> None:
        self._through = through
        self._clock = clock
        self._next_s = 0.0
        self._has_printed = False

    def begin(self, transfer: ImageTransfer) -> None:
        """Schedule the first line; a short transfer is over before it is due."""
        self._next_s = self._clock() + _FIRST_LINE_S
        self._has_printed = False

    def refresh(self, transfer: ImageTransfer) -> None:
        """Print a line if one is due."""
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + _LINE_EVERY_S
        self._has_printed = True
        rate = transfer.transferred_bytes / max(transfer.elapsed_s, 0.001)
        ended = sum(part.state in ENDED for part in transfer.parts)
        self._line(
            f"{transfer.verb} {transfer.name}: {format_size(transfer.moved_bytes)} of "
            f"{format_size(transfer.size_bytes)}, {ended} of {len(transfer.parts)} layers, "
            f"{format_size(rate)}/s"
        )

    def end(self, transfer: ImageTransfer, error: BaseException | None) -> None:
        """Print the summary of a successful transfer; an error is reported by its message."""
        if error is None and (self._has_printed or transfer.transferred_bytes):
            self._line(summary(transfer))

    def _line(self, line: str) -> None:
        with self._through() as stream:
            if stream is not None:
                stream.write(f"containers: {line}\n")
                stream.flush()


def summary(transfer: ImageTransfer) -> str:
    """Return one line about a transfer that has ended."""
    verb = _PAST.get(transfer.verb, transfer.verb)
    return (
        f"{verb} {transfer.name}: {format_size(transfer.transferred_bytes)} of "
        f"{format_size(transfer.size_bytes)} moved in {transfer.elapsed_s:.1f} s"
    )


class Bars:
    """A display with a live bar for each layer; one line replaces the bars at the end.

    Args:
        through: Opens the terminal.
        width: Number of columns; None asks the terminal.
    """

    def __init__(self, through: Through, width: int | None = None) -> None:
        self._through = through
        self._width = width
        self._shown = 0

    def begin(self, transfer: ImageTransfer) -> None:
        """Reset the count of drawn lines; the first refresh draws."""
        self._shown = 0

    def refresh(self, transfer: ImageTransfer) -> None:
        """Redraw all bars."""
        with self._through() as stream:
            if stream is not None:
                self._draw(stream, transfer)

    def end(self, transfer: ImageTransfer, error: BaseException | None) -> None:
        """Erase the bars and print the summary of a successful transfer."""
        with self._through() as stream:
            if stream is None or not self._shown:
                return
            self._erase(stream)
            if error is None:
                stream.write(f"containers: {summary(transfer)}\n")
            stream.flush()

    def _draw(self, stream: IO[str], transfer: ImageTransfer) -> None:
        bars = self._render(stream, transfer)
        self._erase(stream)
        # The test may have written half a line: the bars begin on a new one.
        stream.write(("" if self._shown else "\n") + bars)
        stream.flush()
        self._shown = bars.count("\n")

    def _erase(self, stream: IO[str]) -> None:
        if self._shown:
            stream.write(f"\x1b[{self._shown}F\x1b[J")

    def _render(self, stream: IO[str], transfer: ImageTransfer) -> str:
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        buffer = io.StringIO()
        console = Console(
            file=buffer,
            force_terminal=True,
            width=self._width or _columns(stream),
            color_system="standard",
            legacy_windows=False,
        )
        table = Table.grid(padding=(0, 1))
        moved, total = format_size(transfer.moved_bytes), format_size(transfer.size_bytes)
        rate = format_size(transfer.transferred_bytes / max(transfer.elapsed_s, 0.001))
        console.print(
            f"containers: {transfer.verb} {transfer.name}  {moved} of {total}  {rate}/s",
            markup=False,
            highlight=False,
            no_wrap=True,
            overflow="ellipsis",
        )
        for part in transfer.parts:
            bar = ProgressBar(total=max(part.size_bytes, 1), completed=_moved(part), width=24)
            table.add_row(
                f"  {part.label}",
                bar,
                f"{format_size(_moved(part)):>9}",
                _rate(part, transfer),
                part.state,
            )
        console.print(table)
        return buffer.getvalue()


def _moved(part: Part) -> int:
    return part.size_bytes if part.state in ENDED else min(part.moved_bytes, part.size_bytes)


def _rate(part: Part, transfer: ImageTransfer) -> str:
    """Return the average rate of a layer that is moving; empty for others."""
    if part.state not in ("downloading", "uploading"):
        return ""
    moved = max(0, part.moved_bytes - part.before_bytes)
    return f"{format_size(moved / max(transfer.elapsed_s, 0.001)):>9}/s"


def _columns(stream: Any) -> int:
    import os

    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError, AttributeError):
        return _USUAL_COLUMNS


def to_stream(stream: IO[str]) -> Bars | Lines:
    """Return a display for a stream that is not captured."""
    if stream.isatty():
        return Bars(lambda: nullcontext(stream))
    return Lines(lambda: nullcontext(stream))
