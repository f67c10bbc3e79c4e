"""Start containers one after the other in one run (`test_soak` runs it).

``python churn.py COUNT EVERY HOME TMP`` starts COUNT containers and prints a JSON object with the
figures of `meter` before the first and after every EVERY of them. They are started by a process of
its own, so that only what a test needs is in its memory, and not what measures it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it for the tests

from helpers import leaks

import pytest_containers as pc
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS
from soak import meter

ECHO = ["sh", "-c", "echo out; echo err >&2"]
SLEEP = ["sh", "-c", "(sleep 1000 &); echo up; exec sleep 1000"]
LIMITS: dict[str, Any] = {"mem_limit": "256m", "pids_limit": 50}
SERVE = ["python3", "-m", "http.server", "8000"]


class Work:
    """The kinds of containers, each with the number of containers that it starts.

    Args:
        engine: The run.
        tmp: Where every bind has a directory of its own, as the tests of a suite have.
    """

    def __init__(self, engine: pc.Engine, tmp: Path) -> None:
        self._engine = engine
        self._tmp = tmp
        self._numbers = itertools.count()
        self.kinds: list[tuple[Callable[[], object], int]] = [
            (self.plain, 1), (self.alone, 1), (self.networks, 2), (self.execs, 1), (self.bind, 1),
            (self.plain, 1), (self.volume, 1), (self.init, 1), (self.fails, 1), (self.files, 1),
            (self.restarts, 1), (self.port, 1), (self.named_port, 1),
        ]  # fmt: skip
        if os.geteuid() == 0:
            self.kinds.append((self.limits, 1))

    def plain(self, **options: object) -> None:
        """One that writes to its log and ends."""
        with self._engine.run("host:", ECHO, wait_ready=False, **options) as container:
            assert container.wait(30) == 0
            logs = container.logs()
            assert (logs.stdout, logs.stderr) == ("out\n", "err\n")

    def alone(self) -> None:
        """One without a network."""
        self.plain(network=False)

    def networks(self) -> None:
        """Two in a network of their own, the second of which knows the first by name."""
        network = self._engine.create_network()
        with self._engine.run("host:", SLEEP, network=network, name="first"):
            find = ["getent", "hosts", "first"]
            with self._engine.run("host:", find, network=network, wait_ready=False) as second:
                assert second.wait(30) == 0
        network.remove()

    def execs(self) -> None:
        """One whose log is waited for, and that has other programs started in it."""
        with self._engine.run("host:", SLEEP, ready=pc.wait.log("up")) as container:
            assert container.exec(["cat"], input=b"in").stdout == b"in"
            assert container.exec(["sh", "-c", "exit 3"]).returncode == 3
            assert container.stats().pids != 0
            assert container.inspect().status == "running"

    def bind(self) -> None:
        """One with a directory of its own of the host."""
        folder = self._tmp / f"bind-{next(self._numbers)}"
        folder.mkdir()
        (folder / "file").write_text("text")
        mounts = [pc.Bind(folder, "/mnt"), pc.Tmpfs("/var/tmp")]
        command = ["sh", "-c", "cat /mnt/file; echo > /mnt/new"]
        with self._engine.run("host:", command, mounts=mounts, wait_ready=False) as container:
            assert container.wait(30) == 0, container.logs()
            assert container.logs().stdout == "text"
        self._engine.give_back(folder)
        shutil.rmtree(folder)

    def volume(self) -> None:
        """One with a volume."""
        volume = self._engine.create_volume()
        self.plain(mounts=[pc.VolumeMount(volume, "/mnt")])
        volume.remove()

    def init(self) -> None:
        """One with an init."""
        self.plain(init=True)

    def fails(self) -> None:
        """One that cannot be started."""
        try:
            self._engine.run("host:", ["/does/not/exist"])
        except pc.StartError:
            return
        raise AssertionError("started")

    def files(self) -> None:
        """One that files are copied to and from."""
        with self._engine.run("host:", SLEEP) as container:
            container.write_text("/srv/file", "text")
            assert container.read_text("/srv/file") == "text"

    def restarts(self) -> None:
        """One that is stopped and started again."""
        with self._engine.run("host:", SLEEP) as container:
            container.restart(0)
            container.pause()
            container.unpause()

    def port(self) -> None:
        """One with a server."""
        with self._engine.run("host:", SERVE, ports=[8000]) as container:
            container.connect(8000).close()

    def named_port(self) -> None:
        """One with a server at a port of the host."""
        with self._engine.run("host:", SERVE, ports=[pc.Port(8000, host=0)]) as container:
            container.connect(8000).close()

    def limits(self) -> None:
        """One with limits."""
        self.plain(**LIMITS)


def fill_stocks(engine: pc.Engine) -> None:
    """Have a run keep as many cgroups of each kind as it ever does: at most four."""
    for limits in ({}, LIMITS) if os.geteuid() == 0 else ({},):
        with contextlib.ExitStack() as live:
            for _ in range(5):
                live.enter_context(engine.run("host:", SLEEP, **limits))


def main(count: str, every: str, home: str, tmp: str) -> None:
    leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)  # mounts and links of others are not counted
    here, there = socket.socketpair()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        here.close()
        return work(int(count), int(every), home, Path(tmp), there)
    there.close()
    while done := here.recv(100):
        figures = {**meter.sample(Path(home), pid), "seconds": time.monotonic() - start}
        if os.environ.get("SOAK_KERNEL"):
            figures |= meter.kernel()
        print(json.dumps({"containers": int(done), **figures}), flush=True)
        here.send(b"go on")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def work(count: int, every: int, home: str, tmp: Path, meter: socket.socket) -> None:
    """Start the containers, and wait for the meter now and then."""
    done, due = 0, 0
    with pc.Engine(home=home) as engine:
        kinds = Work(engine, tmp).kinds
        for kind, _ in kinds:  # each has modules that stay
            kind()
        fill_stocks(engine)
        for kind, number in itertools.cycle(kinds):
            if done >= due:
                gc.collect()
                meter.send(str(done).encode())
                meter.recv(100)
                due += every
            if done >= count:
                return
            kind()
            done += number


if __name__ == "__main__":
    main(*sys.argv[1:])
