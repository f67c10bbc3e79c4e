"""Shared containers: who makes one, who waits, and what happens when a maker ends."""

from __future__ import annotations

from pytest_containers.runtime.supervisor.shared_containers import SharedContainers
from pytest_containers.runtime.wire.faults import fault
from pytest_containers.runtime.wire.operations.session import Claim
from pytest_containers.runtime.wire.tasks import run_task

MADE = {"id": "1"}


class Claimer:
    """A session that claims a container."""

    def __init__(self, shared: SharedContainers) -> None:
        self.claims: list[Claim] = []
        self._shared = shared
        self.task = run_task(self._claim())

    async def _claim(self) -> None:
        self.claims.append(await self._shared.claim("db", self))

    def end(self) -> None:
        """End as a session does."""
        self.task.cancel()
        self._shared.lost(self)

    @property
    def state(self) -> str:
        return self.claims[0].state if self.claims else "waiting"


def test_the_first_claimer_makes_it_for_all() -> None:
    shared = SharedContainers()
    claimers = [Claimer(shared) for _ in range(3)]
    assert [claimer.state for claimer in claimers] == ["make", "waiting", "waiting"]
    shared.publish("db", MADE)
    assert [claimer.state for claimer in (*claimers, Claimer(shared))] == ["make"] + ["made"] * 3


def test_a_maker_that_ends_is_replaced_in_the_order_of_claims() -> None:
    shared = SharedContainers()
    first, second, third, fourth = (Claimer(shared) for _ in range(4))
    second.end()
    first.end()
    assert (third.state, fourth.state) == ("make", "waiting")
    third.end()
    assert fourth.state == "make"
    fourth.end()
    assert Claimer(shared).state == "make"


def test_a_failure_is_told_to_all() -> None:
    shared = SharedContainers()
    claimers = [Claimer(shared) for _ in range(2)]
    shared.publish("db", fault("StartError", "no"))
    assert claimers[1].claims[0].error == ["StartError", "no", {}, ()]
