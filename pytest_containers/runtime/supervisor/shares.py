"""Containers that all test processes share: made by one of them, owned by the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_containers.runtime.messages import Fault

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.client import Client

Answer = Callable[[Any], None]
Waiting = tuple["Client", Answer]


class _Share:
    def __init__(self) -> None:
        self.maker: Client | None = None
        self.waiting: list[Waiting] = []
        self.result: Any = None


class Shares:
    """By key: somebody makes it, the others wait; a maker that dies is replaced by one of them."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    def claim(self, key: str, client: Client, answer: Answer) -> None:
        """Have `answer` called with what was published, or with None: then `client` is to make it.

        A `Fault` is what kept the maker from making it.
        """
        share = self._shares.setdefault(key, _Share())
        if share.result is not None:
            answer(share.result)
        elif share.maker is None:
            share.maker = client
            answer(None)
        else:
            share.waiting.append((client, answer))

    def publish(self, key: str, result: Any) -> None:
        """It was made, or cannot be (a `Fault`): tell all who wait and will ask."""
        share = self._shares.setdefault(key, _Share())
        share.result, share.maker = result, None
        waiting, share.waiting = share.waiting, []
        for _, answer in waiting:
            answer(result)

    def gave_up(self, client: Client, answer: Answer) -> None:
        """A client does not wait any more."""
        for share in self._shares.values():
            share.waiting = [one for one in share.waiting if one != (client, answer)]

    def lost(self, client: Client) -> None:
        """A client has ended: another one makes what it was making."""
        for share in self._shares.values():
            share.waiting = [one for one in share.waiting if one[0] is not client]
            if share.maker is client:
                share.maker = None
                if share.waiting:
                    share.maker, answer = share.waiting.pop(0)
                    answer(None)


def told(result: Any) -> Any:
    """What a published result is on the wire."""
    return {"error": list(result)} if isinstance(result, Fault) else {"ok": result}
