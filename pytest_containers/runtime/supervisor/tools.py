"""The parts of a run that all containers are made with."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from pytest_containers.linux.process import CLONE_NEWCGROUP, unshare
from pytest_containers.linux.reaper import open_reaper
from pytest_containers.runtime.identity import Identity
from pytest_containers.runtime.network.dial import dial
from pytest_containers.runtime.network.listening import ListenWaits
from pytest_containers.runtime.network.networks import Networks
from pytest_containers.runtime.plan.become_user import Machine, is_renamed
from pytest_containers.runtime.plan.users import ProcessUser
from pytest_containers.runtime.supervisor.cgroup_stock import CgroupStock
from pytest_containers.runtime.supervisor.oom import OomScore
from pytest_containers.runtime.supervisor.plans import Plans, inspect_machine
from pytest_containers.runtime.supervisor.root import RunRoot
from pytest_containers.runtime.supervisor.rootfs import CLOSE_AFTER_S, Stock
from pytest_containers.runtime.supervisor.trees import Trees
from pytest_containers.runtime.wire.channel import Channel, Frame
from pytest_containers.runtime.wire.dispatch import LATER, Call, Dispatcher, Later
from pytest_containers.runtime.wire.loop import Batch, Loop
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.operations.containers import Connected
from pytest_containers.runtime.wire.operations.host import RemoveScratch
from pytest_containers.runtime.wire.operations.inside import Admit, Dial, RenewCgroupNamespace
from pytest_containers.runtime.wire.peer import Peer

FROM_LAUNCHER: Dispatcher[Tools] = Dispatcher()
"""What the supervisor does for the launcher."""

_DIAL_TIMEOUT_S = 10.0


class Tools:
    """The loop, the links to the other processes, descriptors and stocks: one of each per run.

    Attributes:
        machine: The properties of this machine that plans depend on.
        oom_score: This process's own.
        cgroups: True if each container needs a cgroup of its own, also without limits.
        max_containers: How many there may be at a time; None for any number.
        closing: Closes the descriptors of dead containers.
        null_fd, reaper_fd: ``/dev/null`` and the program of a reaping PID 1.
        pid_ns, net_ns: This process's own namespaces, to come back to.
        admit: Serves a process that the launcher has let in, with its pidfd.
    """

    def __init__(
        self,
        loop: Loop,
        root: RunRoot,
        identity: Identity,
        runner: str,
        oom_score: OomScore,
        launcher: Channel,
        networks: Channel,
        *,
        cgroups: bool = False,
        max_containers: int | None = None,
        owns_interpreter: bool = False,
    ) -> None:
        self.loop = loop
        self.root = root
        self.identity = identity
        self.runner = runner
        self.oom_score = oom_score
        self.cgroups = cgroups
        self.max_containers = max_containers
        self.machine: Machine = inspect_machine(root, identity, owns_interpreter)
        self.plans: Plans = Plans(self.machine)
        self.admit: Callable[[Channel, int], None] | None = None
        self.null_fd: int = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.reaper_fd: int = open_reaper()
        self.pid_ns: int = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.net_ns: int = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.launcher: Peer = Peer(loop, launcher, self._from_launcher, self._launcher_lost)
        self.networks: Networks = Networks(loop, networks, self._helper_lost)
        self.trees: Trees = Trees(root, identity, self.launcher)
        self.stock: Stock = Stock(root, loop)
        self.closing: Batch[int] = Batch(loop, CLOSE_AFTER_S, close_all)
        self.cgroup_stock: CgroupStock = CgroupStock(loop, self.launcher)
        self.listening: ListenWaits = ListenWaits(loop)

    def owner_of(self, user: ProcessUser) -> tuple[int, int]:
        """Return the ids that files of a user have for this process."""
        return (0, 0) if is_renamed(user, self.machine) else (user.uid, user.gid)

    def _from_launcher(self, peer: Peer, frame: Frame) -> None:
        FROM_LAUNCHER.dispatch(self, peer, frame)

    def _launcher_lost(self) -> None:
        self._end("the launcher has ended")

    def _helper_lost(self) -> None:
        # Without networks no test can go on, and tests that hang are worse than a clear end.
        self._end("the network helper has ended")

    def _end(self, reason: str) -> None:
        sys.stderr.write(f"{reason}\n")
        self.loop.stop()

    def remove_disk(self, path: str) -> None:
        """Delete a writable layer on disk, without waiting for it."""
        self.launcher.request(RemoveScratch(path=path))


@FROM_LAUNCHER.handles(RenewCgroupNamespace)
def renew_cgroup_namespace(tools: Tools, op: RenewCgroupNamespace, call: Call[None]) -> None:
    """Let the cgroup namespace begin at the run's own cgroup, for `CLONE_INTO_CGROUP`."""
    unshare(CLONE_NEWCGROUP)
    tools.cgroup_stock.leave_namespace()


@FROM_LAUNCHER.handles(Dial)
async def dial_for_launcher(tools: Tools, op: Dial, call: Call[Connected]) -> Later:
    """Connect to a container for a port of the host that is forwarded."""
    with await dial(tools.loop, op.protocol, op.ip, op.port, _DIAL_TIMEOUT_S) as sock:
        call.answer(Connected(socket=sock.fileno()))
    return LATER


@FROM_LAUNCHER.handles(Admit)
def admit(tools: Tools, op: Admit, call: Call[None]) -> None:
    """Serve another process of the user."""
    assert tools.admit is not None
    tools.admit(Channel(socket.socket(fileno=op.socket)), op.pidfd)
