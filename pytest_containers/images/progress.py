"""What is going on while images move: a model that displays look at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pytest_containers.images.manifest import Descriptor

State = Literal["waiting", "downloading", "uploading", "unpacking", "present", "done"]
ENDED: tuple[State, ...] = ("present", "done")


@dataclass(slots=True)
class Part:
    """A layer on its way. Written by the thread that moves it, read by displays.

    Attributes:
        label: Some digits of its digest.
        size_bytes: As it moves, compressed mostly; 0 is not known.
        moved_bytes: So far.
        before_bytes: Of those, what was there before.
    """

    label: str
    size_bytes: int
    state: State = "waiting"
    moved_bytes: int = 0
    before_bytes: int = 0


@dataclass(slots=True)
class Transfer:
    """An image on its way.

    Attributes:
        verb: What is done: ``"pull"``, ``"push"``, ``"load"``.
        name: Of the image.
        started_s: By the monotonic clock.
    """

    verb: str
    name: str
    parts: list[Part] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def size_bytes(self) -> int:
        """Of all parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def moved_bytes(self) -> int:
        """What need not move any more, of all parts."""
        return sum(
            part.size_bytes if part.state in ENDED else min(part.moved_bytes, part.size_bytes)
            for part in self.parts
        )

    @property
    def transferred_bytes(self) -> int:
        """What has moved in this transfer."""
        return sum(max(0, part.moved_bytes - part.before_bytes) for part in self.parts)

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started_s


class Display(Protocol):
    """Shows a transfer. All calls come from the thread that asked for the image."""

    def begin(self, transfer: Transfer) -> None: ...
    def refresh(self, transfer: Transfer) -> None: ...
    def end(self, transfer: Transfer, error: BaseException | None) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, transfer: Transfer) -> None: ...
    def refresh(self, transfer: Transfer) -> None: ...
    def end(self, transfer: Transfer, error: BaseException | None) -> None: ...


@contextmanager
def shown(display: Display, transfer: Transfer) -> Iterator[Transfer]:
    """Show `transfer` as long as it goes on."""
    display.begin(transfer)
    try:
        yield transfer
    except BaseException as error:
        display.end(transfer, error)
        raise
    display.end(transfer, None)


def parts_of(layers: Sequence[Descriptor]) -> list[Part]:
    """A part for each layer."""
    return [Part(layer.digest.rpartition(":")[2][:12], layer.size_bytes) for layer in layers]
