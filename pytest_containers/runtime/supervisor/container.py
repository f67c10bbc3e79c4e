"""One container: from what was asked for to its last exit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.linux.numbers import NR
from pytest_containers.linux.program import Failure, Program, Value
from pytest_containers.linux.spawn import spawn
from pytest_containers.runtime.messages import Fault, FaultError, from_os_error
from pytest_containers.runtime.network.networks import Port
from pytest_containers.runtime.oci import Config
from pytest_containers.runtime.plan.credentials import command_line
from pytest_containers.runtime.plan.enter import compile_exec
from pytest_containers.runtime.plan.mounts import OWN_FILES
from pytest_containers.runtime.plan.start import clone_flags
from pytest_containers.runtime.plan.users import User
from pytest_containers.runtime.supervisor import names, processes
from pytest_containers.runtime.supervisor.disk import DiskWatch
from pytest_containers.runtime.supervisor.egress import Egress
from pytest_containers.runtime.supervisor.failures import explain
from pytest_containers.runtime.supervisor.logs import Log
from pytest_containers.runtime.supervisor.processes import Process, Streams
from pytest_containers.runtime.supervisor.rootfs import ReadyImage, Rootfs

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.network import RunNetwork
    from pytest_containers.runtime.supervisor.server import Server

SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18


class Wanted(NamedTuple):
    """What a client asked for.

    Attributes:
        config: The OCI config.
        config_text: Its bytes: equal bytes, equal plan.
        args: The command line; its first word is that of the config.
        user: A name or numbers, as `users.resolve` takes it.
        groups: Supplementary groups.
        hostname: What the container calls itself.
        names: Hostname, container name and aliases.
        init: Whether a reaping PID 1 is wanted.
        log_limit_bytes: How much output is kept.
        directories: For each mount of the config whether its source is a directory.
        egress: The program that connects it to other machines; empty for none. Such a container
            has an `init`.
        resolv: Its resolv.conf, if it reaches a name server.
        hosts: More lines for its hosts file.
        attach: Whose streams go to the client instead of the log: ``output`` or ``all`` (with a
            standard input); empty for none.
    """

    config: Config
    config_text: bytes
    args: tuple[str, ...]
    user: str
    groups: tuple[str, ...]
    hostname: str
    names: tuple[str, ...]
    init: bool
    log_limit_bytes: int
    directories: tuple[bool, ...]
    egress: str = ""
    resolv: bytes = b""
    hosts: bytes = b""
    attach: str = ""


class Container:
    """A container. Made with its root file system and network; `start` makes it run.

    Attributes:
        state: ``created``, ``running``, ``paused``, ``exited``, ``removed``.
        forwards: Keys of its ports at the launcher.
        host_ports: Ports of the host that it may reach.
        hosts: Its hosts file, while it is needed.
        disk_path: Of its writable layer on the host's disk; empty when that is in memory.
    """

    def __init__(
        self,
        server: Server,
        number: str,
        name: str,
        image: ReadyImage,
        wanted: Wanted,
        rootfs: Rootfs,
        network: RunNetwork | None,
        port: Port | None,
        mount_fds: Sequence[int],
    ) -> None:
        self.id = number
        self.name = name
        self.network = network
        self.port = port
        self.rootfs = rootfs
        self.log: Log = Log(server.loop, wanted.log_limit_bytes)
        self.state: str = "created"
        self.exit_code: int | None = None
        self.main: Process | None = None
        self.user: User | None = None
        self.forwards: list[str] = []
        self.host_ports: tuple[int, ...] = ()
        self.disk_path = ""
        self.hosts: names.Hosts | None = None
        self._own_netns = -1
        self._server = server
        self._image = image
        self._wanted = wanted
        self._mount_fds = list(mount_fds)
        self._reaper: Process | None = None
        self._waiting: list[Callable[[int], None]] = []
        self._gone: list[Callable[[], None]] = []
        self._program: Program | None = None
        self._released = False
        self._egress: Egress | None = None
        self._attached: Streams | None = None

    @property
    def entry(self) -> names.Entry:
        """Its line in the hosts files."""
        port = self.port
        return names.Entry(port.ip if port else "", port.ip6 if port else "", self._wanted.names)

    @property
    def init(self) -> Process:
        """Its PID 1."""
        process = self._reaper or self.main
        if process is None or process.exit_code is not None:
            raise FaultError("NotRunningError", f"container {self.name!r} is not running")
        return process

    # ---------------------------------------------------------------- start

    def start(self, started: Callable[[Fault | None], None]) -> None:
        """Start its program; `started` is called once it runs, or with why not."""
        try:
            self._write_names()
            self._launch(started)
        except FaultError as error:
            started(error.fault)
        except OSError as error:
            started(from_os_error("StartError", f"start of container {self.name!r}", error))

    def _write_names(self) -> None:
        scratch, network = self.rootfs.scratch_fd, self.network
        names.write_constant(scratch, self._wanted.hostname, self._wanted.resolv)
        self._close_hosts()
        first = self.entry.text + (network.host_lines if network is not None else b"")
        first += self._wanted.hosts
        self.hosts = names.Hosts(scratch, first, b"" if network is None else network.names())

    def _close_hosts(self) -> None:
        if self.hosts is not None:
            self.hosts.close()
            self.hosts = None

    def _launch(self, started: Callable[[Fault | None], None]) -> None:
        server, wanted = self._server, self._wanted
        template, self.user = server.plans.start(
            self._image, wanted, self.rootfs.fd, network=self.port is not None
        )
        owner = (self.user.uid, self.user.gid)
        devpts = -1
        fds: dict[str, Value] = {}
        if wanted.config.process.get("terminal"):
            devpts, ptmx = processes.new_devpts(server.plans.devpts_options(wanted.config))
            fds["devpts"] = devpts
            streams = Streams.terminal(ptmx, owner)
        else:
            streams = Streams.pipes(server.null_fd, owner, stdin=wanted.attach == "all")
        etc = self.rootfs.take_etc()
        try:
            fds.update(zip((f"etc:{name}" for name in OWN_FILES), etc, strict=True))
            fds.update((f"mount:{at}", fd) for at, fd in enumerate(self._mount_fds) if fd >= 0)
            fds["rootfs"] = self.rootfs.fd
            if self.port is not None:
                fds["netns"] = self.port.netns_fd
            hostname = wanted.hostname.encode()
            fds |= {"hostname": hostname, "hostname_bytes": len(hostname)}
            if wanted.init:
                fds["reaper"] = server.reaper_fd
            else:
                fds |= {**streams.parameters(), "argv": command_line(wanted.args)}
            child = spawn(
                template.bind(fds), flags=clone_flags(
                    network=self.port is not None or server.machine.host_network
                ),
                runner=server.runner,
            )  # fmt: skip
        except BaseException:
            streams.close()
            raise
        finally:
            for fd in (*etc, devpts):
                if fd >= 0:
                    os.close(fd)
        if wanted.init:
            self._reaper = Process(
                server.loop, child, lambda failure: self._run_main(failure, streams, started),
                self._on_reaper_end,
            )  # fmt: skip
        else:
            self._adopt(child, streams, started)

    def _adopt(self, child: Any, streams: Streams, started: Callable[[Fault | None], None]) -> None:
        streams.close_inner()
        terminal = streams.outer[2] < 0
        if self._wanted.attach:
            self._attached = streams
        else:
            self.log.add(streams.outer[1], 1, terminal=terminal)
            if not terminal:
                self.log.add(streams.outer[2], 2)

        def on_status(failure: Failure | None) -> None:
            if failure is None:
                self.state = "running"
                started(None)
            else:
                started(explain(failure, f"start of container {self.name!r}"))

        self.main = Process(self._server.loop, child, on_status, self._on_end)

    def _run_main(
        self,
        failure: Failure | None,
        streams: Streams,
        started: Callable[[Fault | None], None],
    ) -> None:
        """With `init`: the reaper is there, now the program beside it."""
        if failure is None and self._wanted.egress and self._egress is None:
            assert self._reaper is not None

            def connected(fault: Fault | None) -> None:
                if fault is None:
                    self._run_main(None, streams, started)
                else:
                    streams.close()
                    started(fault)

            self._egress = Egress(self._server, self._wanted.egress, self._reaper.pid, connected)
            return
        server = self._server
        try:
            if failure is not None:
                raise FaultError(*explain(failure, f"start of container {self.name!r}"))
            assert self.user is not None
            assert self._reaper is not None
            program = compile_exec(self._wanted.config.process, self.user, server.machine)
            pidfd = self._reaper.pidfd
            argv = command_line(self._wanted.args)
            bound = program.bind({**streams.parameters(), "container": pidfd, "argv": argv})
            child = processes.spawn_inside(bound, pidfd, server.pid_ns, server.runner)
        except FaultError as error:
            streams.close()
            started(error.fault)
        except OSError as error:
            streams.close()
            started(from_os_error("StartError", f"start of container {self.name!r}", error))
        else:
            self._adopt(child, streams, started)

    # ---------------------------------------------------------------- life

    def hand_over(self, give: Callable[[tuple[int, ...]], None]) -> None:
        """Call `give` with the outer ends of its streams, if it is attached; they are closed then.

        A pipe or a terminal that only the client reads holds the program back when the client is
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

    def when_exited(self, done: Callable[[int], None]) -> None:
        """Call `done` with the exit code, at once if it has ended."""
        if self.exit_code is not None:
            done(self.exit_code)
        else:
            self._waiting.append(done)

    def forget_waiter(self, done: Callable[[int], None]) -> None:
        """Take back a `when_exited`."""
        if done in self._waiting:
            self._waiting.remove(done)

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
        program = Program()
        program.add("signal all", NR["kill"], -1, signum, ignore=True)
        program.add("end", NR["exit_group"], 0)
        server = self._server
        try:
            child = processes.spawn_inside(program, self.init.pidfd, server.pid_ns, server.runner)
        except ProcessLookupError:  # it has ended, and its end was not seen yet
            raise FaultError("NotRunningError", f"container {self.name!r} has ended") from None
        Process(server.loop, child, lambda failure: None, lambda code: None)
        child.outcome()

    def watch_disk(self, limit_bytes: int) -> None:
        """Kill it when its writable layer on disk outgrows `limit_bytes`.

        Disks have no limit per directory that a user may set, so this looks now and then: what is
        written between two looks is not stopped.
        """
        DiskWatch(self._server.loop, self, limit_bytes)

    def overflow(self, limit_bytes: int) -> None:
        """Its writable layer is too large: it ends, and its log says why."""
        text = f"pytest-containers: killed: the writable layer outgrew {limit_bytes} bytes\n"
        self.log.append(text.encode(), 2)
        if self.main is not None:
            self.main.kill(SIGKILL)

    def own_netns(self) -> int:
        """The network namespace of a container that joined none."""
        if self._own_netns < 0:
            self._own_netns = os.open(f"/proc/{self.init.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return self._own_netns

    def open_root(self) -> int:
        """Its root as it is now: with its mounts while it runs, without them afterwards."""
        process = self._reaper or self.main
        if process is not None and process.exit_code is None:
            try:
                return os.open(
                    f"/proc/{process.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                )
            except OSError:
                pass  # it has ended this moment
        return os.open(
            ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._require_rootfs()
        )

    def open_upper(self) -> int:
        """What it has written: the upper directory of its overlay."""
        self._require_rootfs()
        return os.open(
            "upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.rootfs.scratch_fd
        )

    def _require_rootfs(self) -> int:
        if self.rootfs.fd < 0:
            raise FaultError("NotRunningError", f"container {self.name!r} was removed")
        return self.rootfs.fd

    # ---------------------------------------------------------------- end

    def _on_end(self, code: int) -> None:
        self.log.drain()
        self.exit_code = code
        if self.state in ("running", "paused"):
            self.state = "exited"
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(code)
        if self._reaper is not None and self._reaper.exit_code is None:
            self._reaper.kill(SIGKILL)
        else:
            self._release_if_removed()
        self._server.exited(self)

    def _on_reaper_end(self, code: int) -> None:
        self._release_if_removed()

    def _close_egress(self) -> None:
        if self._egress is not None:
            self._egress.close()
            self._egress = None

    def prepare_restart(self, mount_fds: Sequence[int]) -> None:
        """After its end: a new overlay on the same writable layer, ready for `start`.

        Args:
            mount_fds: Of its mounts, anew: the others went with the mount namespace.
        """
        self._close_mounts()
        self._close_egress()
        self._mount_fds = list(mount_fds)
        self.rootfs.mount_again()
        self.exit_code = None
        self.main = self._reaper = None
        self.state = "created"

    def remove(self, gone: Callable[[], None]) -> None:
        """Kill it and drop all it has; `gone` is called when that has happened."""
        self._gone.append(gone)
        self.state = "removed"
        # First our own hold on its file systems, so that their memory is freed by the dying
        # process and not by this one.
        self._close_hosts()
        self._close_egress()
        self.hand_over(lambda fds: None)  # a failed start: nobody took them
        self.rootfs.close()
        alive = [p for p in (self.main, self._reaper) if p is not None and p.exit_code is None]
        for process in alive:
            process.kill(SIGKILL)
        if not alive:
            self._release_if_removed()

    def _release_if_removed(self) -> None:
        alive = (p for p in (self.main, self._reaper) if p is not None and p.exit_code is None)
        if self.state != "removed" or any(alive):
            return
        if not self._released:
            self._released = True
            self.log.close()
            self._close_mounts()
            if self.disk_path:
                self._server.remove_disk(self.disk_path)
            if self._own_netns >= 0:
                os.close(self._own_netns)
            if self.port is not None:
                self._server.networks.release_port(self.port)
        gone, self._gone = self._gone, []
        for callback in gone:
            callback()

    def _close_mounts(self) -> None:
        for fd in self._mount_fds:
            if fd >= 0:
                os.close(fd)
        self._mount_fds.clear()
