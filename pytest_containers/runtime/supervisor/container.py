"""One container: from what was asked for to its last exit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from pytest_containers.linux.descriptors import OwnedDescriptors
from pytest_containers.linux.process import SignalFate, fate_at_init
from pytest_containers.linux.program import Program, Value
from pytest_containers.linux.seccomp import Filter
from pytest_containers.linux.spawn import spawn
from pytest_containers.runtime.network.bridge import BridgePort
from pytest_containers.runtime.plan.become_user import command_parameters
from pytest_containers.runtime.plan.enter import compile_exec
from pytest_containers.runtime.plan.mounts import OWN_FILES
from pytest_containers.runtime.plan.start import clone_flags
from pytest_containers.runtime.plan.users import ProcessUser
from pytest_containers.runtime.supervisor import etc_files, processes
from pytest_containers.runtime.supervisor.cgroup import Cgroup
from pytest_containers.runtime.supervisor.egress import EgressConnection
from pytest_containers.runtime.supervisor.failures import explain
from pytest_containers.runtime.supervisor.hold import Hold
from pytest_containers.runtime.supervisor.logs import Log
from pytest_containers.runtime.supervisor.network import RunNetwork, write_etc_files
from pytest_containers.runtime.supervisor.processes import Process, Streams
from pytest_containers.runtime.supervisor.resolved_spec import ResolvedSpec
from pytest_containers.runtime.supervisor.rootfs import ReadyImage, Rootfs
from pytest_containers.runtime.supervisor.tmpfs import tmpfs_parameters
from pytest_containers.runtime.supervisor.tools import Tools
from pytest_containers.runtime.wire.faults import FaultError, from_os_error
from pytest_containers.runtime.wire.message import close_all
from pytest_containers.runtime.wire.tasks import Future, Task, first, run_task

SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18


class RunContainer:
    """A container, made with its root file system and network; `start` makes it run.

    States, and the methods that move it from one to the next::

        created ──start──▶ running ◀──pause, unpause──▶ paused
           │                  │                            │
           └──────────────────┴── its program ends (_live) ┘──▶ exited ──restart──▶ created
        any ──remove──▶ removed, for good

    One with a `hold` stays created after `start`, with all but its execve; `execute` does that.

    It owns the descriptors of its mounts, its port and its root file system; `remove` lets go of
    them, once no process is left. The order of the end: the run's own hold on its file systems
    first, so that their memory is freed by the dying processes and not by this one (with no
    process left: by this one, once all else is done); then the kill; its port last, so that no
    other container gets an address at which a dying process still answers. Waiters for `exited`
    see `exit_code` set and the whole log.

    Attributes:
        state: One of the above.
        oom_killed: True if the kernel has killed a process of it, over its memory limit.
        exited: Done with the exit code once its program has ended.
        removal: The task of its removal, once that has begun; ended when nothing of it is left.
        forwarded: True if the launcher forwards ports to it.
        host_ports: Ports of the host that it may reach.
        hosts: Its hosts file, while it is needed.
        plan: The system calls of its start.
        syscall_filter: What its programs' system calls pass, once there is a plan; None if nothing.
        disk_path: Its writable layer on the host's disk; empty when that is in memory.
        cgroup: The cgroups that its processes are in, if it has some of its own.
        hold: Where it waits before its execve, if it does.
        namespace_fds: Namespaces that it joins, by kind.
    """

    def __init__(
        self,
        tools: Tools,
        number: str,
        image: ReadyImage,
        spec: ResolvedSpec,
        rootfs: Rootfs,
        network: RunNetwork | None,
        port: BridgePort | None,
        mount_fds: Sequence[int],
        disk_path: str = "",
        cgroup: Cgroup | None = None,
    ) -> None:
        self.id = number
        self.name: str = spec.request.name
        self.network = network
        self.port = port
        self.rootfs = rootfs
        self.log: Log = Log(tools.loop, spec.request.log_limit_bytes)
        self.state: str = "created"
        self.exit_code: int | None = None
        self.oom_killed: bool = False
        self.exited: Future[int] = Future()
        self.removal: Task | None = None
        self.main: Process | None = None
        self.user: ProcessUser | None = None
        self.forwarded = False
        self.host_ports: tuple[int, ...] = ()
        self.disk_path = disk_path
        self.cgroup: Cgroup = cgroup or Cgroup()
        self.hosts: etc_files.Hosts | None = None
        self.plan: Program | None = None
        self.hold: Hold | None = None
        self.namespace_fds: Mapping[str, int] = {}
        self.syscall_filter: Filter | None = None
        self._own_netns = -1
        self._tools = tools
        self._image = image
        self._spec = spec
        self._mount_fds = list(mount_fds)
        self._reaper: Process | None = None
        self._life: Task | None = None
        self._devpts = -1
        self._egress: EgressConnection | None = None
        self._attached: Streams | None = None

    @property
    def entry(self) -> etc_files.HostsEntry:
        """Its line in the hosts files."""
        port = self.port
        return etc_files.HostsEntry(
            port.ip if port else "", port.ip6 if port else "", tuple(self._spec.request.names)
        )

    @property
    def published(self) -> set[tuple[int, str]]:
        """The ports at which tests are to reach it, with their protocols."""
        return {(port.number, port.protocol) for port in self._spec.request.ports}

    @property
    def init(self) -> Process:
        """Its PID 1."""
        process = self._reaper or self.main
        if process is None or process.exit_code is not None:
            raise FaultError("NotRunningError", f"container {self.name!r} is not running")
        return process

    # ---------------------------------------------------------------- start

    async def start(self) -> None:
        """Start its program; returns once it runs.

        Raises:
            FaultError: It does not; the container is to be removed.
        """
        try:
            if self.port is not None:
                await self._connect_out(self.port.netns_fd)
            self._write_etc_files()
            with self._make_streams() as streams:
                if self._spec.request.init:
                    child = await self._start_beside_reaper(streams)
                else:
                    child = self._spawn(streams)
                self._adopt(child, streams)
            if self.hold is not None:
                await self._is_held(child, self.hold)
                return
            await self._has_started(child)
        except OSError as error:
            raise FaultError.of(from_os_error("StartError", self._doing, error)) from None
        if self.state == "created":
            self.state = "running"

    async def execute(self) -> None:
        """Let a container that is held have its execve; returns once its program runs.

        Raises:
            FaultError: It is not created, or has no program; it has ended then.
        """
        if self.state != "created" or self.hold is None or self.main is None:
            raise FaultError(
                "StartError",
                f"{self._doing}: it is {self.state}; only a created one can be started",
            )
        self.hold.release()
        if await self.main.started is not None:
            await self.exited
        await self._has_started(self.main)
        if self.state == "created":
            self.state = "running"

    async def _is_held(self, child: Process, hold: Hold) -> None:
        hold.close_inner()
        await first(hold.reached, child.started)
        if not hold.reached.done:
            await self._has_started(child)

    @property
    def _doing(self) -> str:
        return f"start of container {self.name!r}"

    async def _has_started(self, child: Process) -> None:
        failure = await child.started
        if failure is not None:
            raise FaultError.of(explain(failure, self._doing))
        # They are attached in its mount namespace, with which they go.
        self._close_mounts()
        self.raise_oom_score(child, self._spec.config.process)

    def raise_oom_score(self, program: Process, process: Mapping[str, Any]) -> None:
        """Have the kernel kill a program of it before the test process, if it lives a while."""
        # A bundle is left as other runtimes leave it.
        if "oomScoreAdj" not in process and not self._spec.facts.bundle:
            self._tools.oom_score.raise_soon(program)

    def _write_etc_files(self) -> None:
        if not self._spec.facts.bundle:
            self._close_hosts()
            self.hosts = write_etc_files(
                self.rootfs.scratch_fd, self._spec, self.entry, self.network
            )

    def _close_hosts(self) -> None:
        if self.hosts is not None:
            self.hosts.close()
            self.hosts = None

    def _make_streams(self) -> Streams:
        """Find the plan of the start, and make the streams of the user that it is for."""
        tools, spec = self._tools, self._spec
        facts = spec.facts._replace(own_cgroup=self.cgroup.exists, tasks=len(self.cgroup.tasks))
        self.plan, self.user, self.syscall_filter = tools.plans.start(
            self._image, spec._replace(facts=facts), self.rootfs.fd
        )
        owner = tools.owner_of(self.user)
        if not spec.config.process.get("terminal"):
            return Streams.pipes(tools.null_fd, owner, stdin=spec.request.attach == "all")
        options = tools.plans.devpts_options(spec.config)
        self._devpts, streams = processes.new_terminal(options, spec.config.process, owner)
        return streams

    def _spawn(self, streams: Streams) -> Process:
        """Start a child that runs the plan: the program, or with `init` the reaper."""
        tools, spec = self._tools, self._spec
        assert self.plan is not None
        devpts, self._devpts = self._devpts, -1
        etc = [] if spec.facts.bundle else self.rootfs.take_etc()
        with OwnedDescriptors([*etc, devpts]), ExitStack() as until_started:
            hostname = spec.hostname.encode()
            holes: dict[str, Value] = {"rootfs": self.rootfs.fd, **self.cgroup.parameters()}
            if hostname:
                holes |= {"hostname": hostname, "hostname_bytes": len(hostname)}
            holes.update(zip((f"etc:{name}" for name in OWN_FILES), etc, strict=False))
            holes.update((f"ns:{kind}", fd) for kind, fd in self.namespace_fds.items())
            if self.hold is not None:
                holes["hold"] = self.hold.inner_fd
            holes.update((f"mount:{n}", fd) for n, fd in enumerate(self._mount_fds) if fd >= 0)
            holes |= tmpfs_parameters(
                spec.config.mounts, self._image, self.rootfs.fd, self._mount_fds, tools.machine.ids,
                tools.machine.tmpfs_bytes,
            )  # fmt: skip
            if devpts >= 0:
                holes["devpts"] = devpts
            if self.port is not None:
                holes["netns"] = self.port.netns_fd
            flags = clone_flags(
                spec.config, network=self.port is not None or tools.machine.host_network
            )
            if spec.request.init:
                holes["reaper"] = tools.reaper_fd
            else:
                holes |= streams.parameters()
                holes |= until_started.enter_context(command_parameters(self.plan, spec.args))
            runner = until_started.enter_context(
                tools.oom_score.inherited(spec.config.process, tools.runner)
            )
            child = spawn(
                self.plan.bind(holes), flags=flags, runner=runner, cgroup_fd=self.cgroup.into
            )
        return Process(tools.loop, child)

    async def _start_beside_reaper(self, streams: Streams) -> Process:
        """Start the reaper as PID 1, connect it to other machines, start the program beside it."""
        tools, spec = self._tools, self._spec
        self._reaper = reaper = self._spawn(streams)
        await self._has_started(reaper)
        if self.port is None and spec.request.egress:
            await self._connect_out(self.own_netns())
        assert self.user is not None
        program = compile_exec(
            spec.config.process, self.user, tools.machine, self.syscall_filter,
            len(self.cgroup.tasks),
        )  # fmt: skip
        with (
            command_parameters(program, spec.args) as parameters,
            tools.oom_score.inherited(spec.config.process, tools.runner) as runner,
        ):
            bound = program.bind({
                **streams.parameters(), **self.cgroup.parameters(), "container": reaper.pidfd,
                **parameters,
            })  # fmt: skip
            child = processes.spawn_inside(
                bound, reaper.pidfd, tools.pid_ns, runner, self.cgroup.into
            )
        return Process(tools.loop, child)

    async def _connect_out(self, netns_fd: int) -> None:
        """Connect its network namespace to other machines, if that was asked for."""
        tools, program = self._tools, self._spec.request.egress
        if not program:
            return
        if self._egress is not None:  # of the program before a restart
            await self._egress.ended
        self._egress = await EgressConnection.connect(
            tools.loop, tools.launcher, program, netns_fd, tools.net_ns
        )

    def _adopt(self, child: Process, streams: Streams) -> None:
        """Make a child the container's program, and read what it writes."""
        self.main = child
        # The first waiter for its end, so that all others see `exit_code` and the whole log.
        self._life = run_task(self._live(child, self._reaper))
        streams.close_inner()
        outer = streams.hand_over_outer()
        if self._spec.request.attach:
            self._attached = Streams((-1, -1, -1), outer)
            return
        _, output, errors = outer
        self.log.add(output, 1, terminal=errors < 0)
        if errors >= 0:
            self.log.add(errors, 2)

    async def _live(self, main: Process, reaper: Process | None) -> None:
        """Follow the program to its end; then end the reaper."""
        code = await main.ended
        self.log.drain()
        self.note_memory_kills()
        self.exit_code = code
        if self.state != "removed":
            self.state = "exited"
        self.log.notify()
        self.exited.set(code)
        self._close_egress()
        if reaper is not None:
            reaper.kill(SIGKILL)
            await reaper.ended

    # ---------------------------------------------------------------- life

    def hand_over(self, give: Callable[[tuple[int, ...]], None]) -> None:
        """Call `give` with the outer ends of its streams, if it is attached, and close them.

        A pipe or a terminal that only the session reads holds the program back when the reader is
        slow, where a log would forget.
        """
        streams, self._attached = self._attached, None
        if streams is None:
            give(())
            return
        try:
            give(tuple(fd for fd in streams.outer if fd >= 0))
        finally:
            streams.close()

    def signal(self, signum: int) -> None:
        """Send a signal to its program."""
        if self.main is None or not self.main.kill(signum):
            raise FaultError("NotRunningError", f"container {self.name!r} is not running")

    def fate_of(self, signum: int) -> SignalFate:
        """Return what would become of a signal to its program at this moment."""
        if self.main is None or self._reaper is not None or signum in (SIGKILL, SIGSTOP):
            return "heard"
        return fate_at_init(self.main.pidfd, signum)

    def pause(self) -> None:
        """Stop all its processes."""
        init = self.init
        init.kill(SIGSTOP)
        # Twice: what a process forked before its own signal arrived is caught the second time.
        for _ in range(2):
            self._signal_all(SIGSTOP)
        self.state = "paused"

    def unpause(self) -> None:
        """Let them go on."""
        self._signal_all(SIGCONT)
        self.init.kill(SIGCONT)
        self.state = "running"

    def _signal_all(self, signum: int) -> None:
        tools = self._tools
        try:
            processes.signal_all(tools.loop, self.init, signum, tools.pid_ns, tools.runner)
        except ProcessLookupError:  # it has ended, and its end was not seen yet
            raise FaultError("NotRunningError", f"container {self.name!r} has ended") from None

    def overflow(self, limit_bytes: int) -> None:
        """Kill it because its writable layer is too large; its log says so."""
        message = f"pytest-containers: killed: the writable layer outgrew {limit_bytes} bytes\n"
        self.log.append(message.encode(), 2)
        if self.main is not None:
            self.main.kill(SIGKILL)

    def note_memory_kills(self) -> None:
        """Write to its log that the kernel has killed a process of it for memory."""
        words = self.cgroup.new_memory_kills()
        if words:
            self.oom_killed = True
            self.log.append(f"pytest-containers: {words}\n".encode(), 2)

    def own_netns(self) -> int:
        """The network namespace of a container that joined none."""
        if self._own_netns < 0:
            self._own_netns = os.open(f"{self.init.folder}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return self._own_netns

    def open_root(self) -> int:
        """Open its root as it is now: with its mounts while it runs, without them afterwards."""
        process = self._reaper or self.main
        if process is not None and process.exit_code is None:
            with suppress(OSError):  # it has ended this moment
                return process.open_root()
        self._require_rootfs()
        return self.rootfs.open_root()

    def open_upper(self) -> int:
        """Open the upper directory of its overlay: all that it has written."""
        self._require_rootfs()
        return self.rootfs.open_upper()

    def _require_rootfs(self) -> None:
        if self.rootfs.fd < 0:
            raise FaultError("NotRunningError", f"container {self.name!r} was removed")

    # ---------------------------------------------------------------- end

    def _close_egress(self) -> None:
        if self._egress is not None:
            self._egress.close()

    def _close_own_netns(self) -> None:
        if self._own_netns >= 0:
            os.close(self._own_netns)
            self._own_netns = -1

    async def prepare_restart(self) -> None:
        """Make a new overlay on the same writable layer of an ended container, for `start`.

        Raises:
            FaultError: Its program runs, or it was removed.
        """
        self._require_rootfs()
        if self.main is not None and self.main.exit_code is None:
            raise FaultError("StartError", f"restart of container {self.name!r}: it is running")
        if self._life is not None:
            await self._life.ended  # the reaper's end
        self._close_own_netns()
        self.rootfs.mount_again()
        self.exit_code, self.exited = None, Future()
        self.main = self._reaper = self._life = None
        self.state = "created"

    async def remove(self) -> None:
        """Kill it and drop all it has; returns when that has happened. Once only: `removal`."""
        self.state = "removed"
        self._close_hosts()
        self._close_egress()
        self.hand_over(lambda fds: None)  # a failed start: nobody took them
        alive = [
            process
            for process in (self.main, self._reaper)
            if process is not None and process.exit_code is None
        ]
        if alive:
            self.rootfs.close()
        else:
            self.rootfs.close_soon(self._tools.closing)
        for process in alive:
            process.kill(SIGKILL)
        self.cgroup.thaw()  # after the kill: it runs no further
        for process in alive:
            await process.ended
        if self._egress is not None:
            await self._egress.ended
        self.log.close()
        if self.hold is not None:  # only now: see `become_user`
            self.hold.close()
        close_all(list(self.namespace_fds.values()))
        self._close_mounts()
        if self.disk_path:
            self._tools.remove_disk(self.disk_path)
        self._tools.cgroup_stock.give_back(self.cgroup)
        self._close_own_netns()
        if self.port is not None:
            self._tools.networks.release_port(self.port)

    def replace_mounts(self, mount_fds: Sequence[int]) -> None:
        """Take new sources of its mounts over: the others went with the mount namespace."""
        self._close_mounts()
        self._mount_fds = list(mount_fds)

    def _close_mounts(self) -> None:
        close_all([fd for fd in self._mount_fds if fd >= 0])
        self._mount_fds.clear()
