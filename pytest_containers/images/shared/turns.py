"""Turns among machines: one makes a result, and the others wait for it.

A registry has no locks. Whoever is about to make a result leaves a note under a tag; the last of
those who do so at once has the turn. That can go wrong, and then two make the same, which costs
time and nothing else.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from pytest_containers.images.shared.documents import Marker
from pytest_containers.images.shared.repository import SharedRepository

_SETTLE, _SETTLE_S, _LONGEST_SETTLE_S = 8.0, 0.2, 2.0
_LATE_S = 5.0  # clocks may differ by that
_FIRST_POLL_S, _LONGEST_POLL_S = 0.1, 1.0

T = TypeVar("T")


class Turns:
    """The turns of this process. Thread-safe.

    Args:
        repository: Has the notes.
    """

    def __init__(self, repository: SharedRepository) -> None:
        self._repository = repository
        self._owner = f"{socket.gethostname()}-{os.urandom(8).hex()}"

    def take(self, tag: str, look: Callable[[], T | None]) -> T | None:
        """Return the result that `look` finds, now or once another machine has made it.

        None means that the caller makes it, and calls `end` afterwards. Waiting ends when the
        maker's time is up, by its own clock or by this machine's.
        """
        repository, wait_s = self._repository, self._repository.place.wait_s
        result = look()
        if result is None:
            repository.prepare_notes()  # here, so that a look for notes and one's own are close
        end, pause_s = time.monotonic() + wait_s, _FIRST_POLL_S
        while result is None and repository.usable:
            began = time.monotonic()
            marker = repository.marker(tag)
            if marker is None or marker.until + _LATE_S < time.time():
                claim = self._claim(tag, began)
                if claim == "impossible":
                    return None
                if claim == "won":
                    return look()  # another may have pushed it since the last look
            if time.monotonic() > end:
                return None
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)
            result = look()
        return result

    def _claim(self, tag: str, began: float) -> Literal["won", "lost", "impossible"]:
        repository = self._repository
        marker = Marker(self._owner, time.time() + repository.place.wait_s)
        if not repository.mark(tag, marker):
            return "impossible"
        # Others that have found no note before this one was there may leave theirs now.
        settle_s = max(_SETTLE_S, _SETTLE * (time.monotonic() - began))
        time.sleep(min(settle_s, _LONGEST_SETTLE_S))
        current = repository.marker(tag)
        return "won" if current is None or current.owner == self._owner else "lost"

    def end(self, tag: str) -> None:
        """Take back the note, so that nobody waits for its time."""
        self._repository.mark(tag, Marker(self._owner, 0.0))
