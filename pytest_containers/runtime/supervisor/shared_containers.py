"""Containers that all test processes share: made by one of them, owned by the controller."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from pytest_containers.runtime.wire.faults import Fault
from pytest_containers.runtime.wire.operations.session import Claim
from pytest_containers.runtime.wire.tasks import Cancelled, Future


class _Share:
    """A shared container.

    *Unclaimed*; then *being made* (`maker` is set, by `claim`); then *published* (`result` is
    set, by `publish`), for good. If its maker ends first, the next one in `waiting` makes it.
    """

    def __init__(self) -> None:
        self.maker: Hashable | None = None
        self.waiting: deque[tuple[Hashable, Future[Any]]] = deque()
        self.result: Any = None


class SharedContainers:
    """The shared containers of a run, by key."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    async def claim(self, key: str, owner: Hashable) -> Claim:
        """Wait until a container is made, or be the one to make it.

        Args:
            key: Of the container.
            owner: The test process that asks.
        """
        share = self._shares.setdefault(key, _Share())
        if share.result is not None:
            return _claim_of(share.result)
        if share.maker is None:
            share.maker = owner
            return _claim_of(None)
        place: tuple[Hashable, Future[Any]] = (owner, Future())
        share.waiting.append(place)
        try:
            return _claim_of(await place[1])
        except Cancelled:
            if place in share.waiting:
                share.waiting.remove(place)
            raise

    def publish(self, key: str, result: Any) -> None:
        """Tell all who wait or will ask: it was made, or cannot be (a `Fault`)."""
        share = self._shares.setdefault(key, _Share())
        share.result, share.maker = result, None
        waiting, share.waiting = share.waiting, deque()
        for _, future in waiting:
            future.set(result)

    def lost(self, owner: Hashable) -> None:
        """Have others make what a test process that has ended was making."""
        for share in self._shares.values():
            if share.maker is not owner:
                continue
            share.maker = None
            if share.waiting:
                share.maker, future = share.waiting.popleft()
                future.set(None)


def _claim_of(result: Any) -> Claim:
    if result is None:
        return Claim(state="make")
    if isinstance(result, Fault):
        return Claim(state="failed", error=list(result))
    return Claim(state="made", result=result)
