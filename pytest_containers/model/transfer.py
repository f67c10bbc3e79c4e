"""Transfers of images as displays see them: the parts, and how far each has come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

PartState = Literal["waiting", "downloading", "uploading", "unpacking", "present", "done"]
ENDED: tuple[PartState, ...] = ("present", "done")


@dataclass(slots=True)
class Part:
    """A layer in transfer. The thread that moves it writes these fields; displays read them.

    Attributes:
        label: The first digits of its digest.
        size_bytes: Its size in transfer, mostly compressed; 0 is unknown.
        moved_bytes: Bytes moved so far, with those of an earlier attempt.
        before_bytes: Bytes that an earlier attempt had moved.
    """

    label: str
    size_bytes: int
    state: PartState = "waiting"
    moved_bytes: int = 0
    before_bytes: int = 0


@dataclass(slots=True)
class ImageTransfer:
    """An image in transfer.

    Attributes:
        verb: The operation: ``"pull"``, ``"push"``, ``"load"``.
        name: The name of the image.
        started_s: The start by the monotonic clock.
    """

    verb: str
    name: str
    parts: list[Part] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def size_bytes(self) -> int:
        """The size of all parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def moved_bytes(self) -> int:
        """Bytes of all parts that need not move any more."""
        return sum(
            part.size_bytes if part.state in ENDED else min(part.moved_bytes, part.size_bytes)
            for part in self.parts
        )

    @property
    def transferred_bytes(self) -> int:
        """Bytes that this transfer has moved."""
        return sum(max(0, part.moved_bytes - part.before_bytes) for part in self.parts)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s


class TransferDisplay(Protocol):
    """A display of transfers. All calls come from the thread that asked for the image."""

    def begin(self, transfer: ImageTransfer) -> None: ...
    def refresh(self, transfer: ImageTransfer) -> None: ...
    def end(self, transfer: ImageTransfer, error: BaseException | None) -> None: ...


class SilentDisplay:
    """A display that shows nothing."""

    def begin(self, transfer: ImageTransfer) -> None: ...
    def refresh(self, transfer: ImageTransfer) -> None: ...
    def end(self, transfer: ImageTransfer, error: BaseException | None) -> None: ...


@contextmanager
def shown(display: TransferDisplay, transfer: ImageTransfer) -> Iterator[ImageTransfer]:
    """Show `transfer` while the body runs."""
    display.begin(transfer)
    try:
        yield transfer
    except BaseException as error:
        display.end(transfer, error)
        raise
    display.end(transfer, None)


class Blob(Protocol):
    """The descriptor of a blob, such as a layer."""

    @property
    def digest(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


def parts_of(blobs: Iterable[Blob]) -> list[Part]:
    """Return a part for each blob."""
    return [Part(blob.digest.rpartition(":")[2][:12], blob.size_bytes) for blob in blobs]
