"""Many containers at once in one run, while they come and go (`test_soak` runs it).

``python live.py COUNT CHANGES HOME`` starts COUNT containers, half of them in networks of ten,
then removes one and starts another CHANGES times, from four threads. It prints the figures of
`meter` before, with all of them, and after they are gone.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it for the tests

from helpers import leaks

import pytest_containers as pc
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS
from soak import meter

_THREADS = 4
_NUMBERS = itertools.count()


class Place:
    """Where one container is, and after its removal the next.

    Args:
        engine: The run.
        network: That of its containers; None for one without.
    """

    def __init__(self, engine: pc.Engine, network: Any) -> None:
        self._engine = engine
        self._network = network
        self.start()

    def start(self) -> None:
        """Start the next one."""
        self._text = f"container {next(_NUMBERS)}"
        command = ["sh", "-c", f"echo {self._text}; exec sleep 1000"]
        self._container = self._engine.run(
            "host:", command, network=self._network, ready=pc.wait.log(self._text)
        )

    def check(self) -> None:
        """Make sure that it lives, is itself and can be talked to."""
        assert self._container.logs().stdout == f"{self._text}\n"
        assert (
            self._container.exec(["echo", self._text], check=True).stdout.decode()
            == f"{self._text}\n"
        )

    def replace(self) -> None:
        """Remove it and start another."""
        self.check()
        self._container.remove()
        self.start()

    def remove(self) -> None:
        """Remove it."""
        self._container.remove()


def main(count: str, changes: str, home: str) -> None:
    leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)  # mounts and links of others are not counted
    began = time.monotonic()

    def tell(state: str, live: int) -> None:
        figures = meter.sample(Path(home), os.getpid())
        seconds = time.monotonic() - began
        print(json.dumps({"state": state, "live": live, **figures, "seconds": seconds}), flush=True)

    with pc.Engine(home=home) as engine, ThreadPoolExecutor(_THREADS) as threads:
        # Once as many, to have what stays: stocks, bridges, memory for that many.
        for state in ("first", "second"):
            if state == "second":
                tell("before", 0)
            networks = [engine.create_network() for _ in range(int(count) // 20)]
            wanted = [networks[number // 10] if number // 10 < len(networks) else False
                      for number in range(int(count))]  # fmt: skip
            places = list(threads.map(lambda network: Place(engine, network), wanted))
            if state == "second":
                tell("all", len(engine.containers()))
                churn(threads, places, int(changes))
                tell("churned", len(engine.containers()))
            list(threads.map(Place.check, places))
            list(threads.map(Place.remove, places))
            for network in networks:
                network.remove()
        tell("after", len(engine.containers()))


def churn(threads: ThreadPoolExecutor, places: list[Place], changes: int) -> None:
    """Replace containers, each thread some of its own."""

    def work(number: int) -> None:
        chance = random.Random(number)
        mine = places[number::_THREADS]
        for _ in range(changes // _THREADS):
            chance.choice(mine).replace()

    list(threads.map(work, range(_THREADS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
