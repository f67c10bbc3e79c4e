"""The collection of garbage in the processes of a run.

They start without one (`run`), which would look again and again at what imports make: that is 3 ms
of the time until the first container.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.loop import Loop

_PAUSE_S = 0.003


def collect_from_now_on() -> None:
    """Begin to collect garbage, of what is made after this."""
    gc.freeze()
    gc.enable()


class Cleaning:
    """Has everything collected now and then, when there is time.

    By itself the interpreter does that after thousands of containers. Besides garbage, a whole
    collection drops the objects that the interpreter keeps to use them again. Scattered over the
    heap, they hold its pages: without this, a process grows for as long.

    Args:
        loop: Tells when there is time.
        every: After so many containers.
    """

    def __init__(self, loop: Loop, every: int = 100) -> None:
        self._loop = loop
        self._every = every
        self._left = every

    def count(self) -> None:
        """Count a container that has ended."""
        self._left -= 1
        if self._left <= 0:
            self._left = self._every
            self._loop.call_at_leisure(_PAUSE_S, gc.collect)
