"""The init of a container: it confines itself, and forks the programs, which cannot leave.

States: *confining*, with one answer, ``ready`` or ``failed``; *serving*, until the engine's
process, the supervisor or the guardian has ended, or the engine closes its channel; then it kills
what is left and ends. The end of the main program kills the others too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import termios
from typing import Any, NoReturn

from pytest_containers.engines.process import wire
from pytest_containers.engines.process.confinement import confine
from pytest_containers.engines.process.ending import (
    become_subreaper,
    descendants,
    is_confined_from,
    kill_descendants,
    kill_domain,
    reap,
    signal_descendants,
    signal_domain,
)
from pytest_containers.engines.process.wire import Packet
from pytest_containers.linux.process import set_name

_NOT_FOUND = 127
MOST_PROCESSES = 1024
"""The largest number of processes of a container: one with more is ended, a storm of forks."""


def run_init(message: Packet) -> None:
    """Become the init of a container, in a fork of the guardian; return when it has ended.

    Args:
        message: The view of the container; its descriptors are the channels to the engine and to
            the supervisor, who gets the listener.
    """
    channel, supervisor = (socket.socket(fileno=fd) for fd in message.fds)
    signal.set_wakeup_fd(-1)
    set_name("containers:init")
    os.setsid()
    become_subreaper()
    guardian = os.getppid()
    watch = os.pidfd_open(guardian)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    step = "confine"
    try:
        listener = confine(message.fields)
        step = "hand over the listener"
        wire.send(supervisor, {}, [listener])
        os.close(listener)
    except OSError as error:
        with contextlib.suppress(OSError):
            wire.send(channel, {"failed": error.filename or step, "errno": error.errno})
        return
    wire.send(channel, {"ready": True})
    _Init(channel, supervisor, watch, proc, confined=is_confined_from(guardian)).serve()


class _Init:
    def __init__(
        self,
        channel: socket.socket,
        supervisor: socket.socket,
        guardian: int,
        proc: int,
        *,
        confined: bool,
    ) -> None:
        self._channel = channel
        self._supervisor = supervisor
        self._guardian = guardian
        self._is_confined = confined
        self._is_paused = False
        self._proc = proc
        self._main = 0
        self._alive: set[int] = set()
        self._wake, wakes = socket.socketpair()
        self._wakes = wakes
        for end in (self._wake, wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        poll = select.poll()
        wake, channel = self._wake.fileno(), self._channel.fileno()
        for fd in (channel, wake, self._supervisor.fileno(), self._guardian):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._guardian in ready:
                break
            # The supervisor asks to count, or has ended.
            if self._supervisor.fileno() in ready and (
                wire.receive(self._supervisor) is None or self._has_too_many()
            ):
                break
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
                self._tell(reap())
            if channel in ready:
                message = wire.receive(self._channel)
                if message is None:
                    break
                self._handle(message)
        self._kill_all()  # untold: the engine hears that the channel is closed

    def _handle(self, message: Packet) -> None:
        fields = message.fields
        if fields["op"] == "spawn":
            answer = self._spawn(fields, message.fds)
            for fd in message.fds:
                os.close(fd)
            self._say({"id": fields["id"], **answer})
        elif fields["op"] == "kill":
            if fields["pid"] in self._alive:
                with contextlib.suppress(OSError):
                    os.kill(fields["pid"], fields["signal"])
        elif fields["op"] == "stop":
            self._is_paused = True
            self._signal_all(signal.SIGSTOP, b"T", b"t")
            self._say({"id": fields["id"]})
        elif fields["op"] == "continue":
            self._is_paused = False
            self._signal_all(signal.SIGCONT)
            self._say({"id": fields["id"]})

    def _has_too_many(self) -> bool:
        """Count the processes, which stand still meanwhile: a storm would leave no time for it."""
        self._signal_all(signal.SIGSTOP)
        too_many = len(descendants(os.getpid(), self._proc)) > MOST_PROCESSES
        if not (too_many or self._is_paused):
            self._signal_all(signal.SIGCONT)
        return too_many

    def _signal_all(self, signum: int, *reached: bytes) -> None:
        """Send a signal to all; wait until they are in one of some states, if any is given."""
        if self._is_confined:
            signal_domain(signum)
        if reached or not self._is_confined:
            states = reached or ((b"T", b"t") if signum == signal.SIGSTOP else (b"R", b"S", b"D"))
            signal_descendants(os.getpid(), self._proc, signum, without=states)

    def _kill_all(self) -> list[tuple[int, int]]:
        if self._is_confined:
            return kill_domain()
        return kill_descendants(os.getpid(), proc=self._proc)

    def _tell(self, ended: list[tuple[int, int]]) -> None:
        if any(pid == self._main for pid, _ in ended):
            ended = ended + self._kill_all()  # as with the end of a namespace's PID 1
        for pid, status in ended:
            if pid in self._alive:
                self._alive.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._say({"ended": pid, "code": 128 - code if code < 0 else code})

    def _say(self, fields: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            wire.send(self._channel, fields)

    def _spawn(self, fields: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(reader)
            os.close(writer)
            return {"failed": "fork", "errno": error.errno}
        if pid == 0:
            _become(fields, fds, writer)
        os.close(writer)
        with open(reader, "rb") as status:
            failure = status.read().decode()
        if failure:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            code, _, step = failure.partition(" ")
            return {"failed": step, "errno": int(code)}
        self._alive.add(pid)
        if fields.get("main"):
            self._main = pid
        return {"pid": pid}


def _become(fields: dict[str, Any], fds: list[int], status: int) -> NoReturn:
    """Become a program; say in a pipe what fails."""
    step = "setsid"
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        if fields.get("tty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for name, limits in fields.get("limits", {}).items():
            step = f"limit {name}"
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), tuple(limits))
        if fields.get("uid") is not None:
            step = "take the user"
            for number in range(len(fds)):
                # So that the user may open /dev/stdout, which is the pipe of the test's user.
                with contextlib.suppress(OSError):
                    if not stat.S_ISCHR(os.fstat(number).st_mode) or fields.get("tty"):
                        os.fchown(number, fields["uid"], fields["gid"])
            os.setgroups(fields["groups"])
            os.setresgid(*(fields["gid"],) * 3)
            os.setresuid(*(fields["uid"],) * 3)
        step = f"enter {fields['cwd']}"
        os.umask(0o022)
        os.chdir(fields["cwd"])
        step = "run"
        os.execvpe(fields["args"][0], fields["args"], fields["env"])
    except OSError as error:
        os.write(status, f"{error.errno} {step}".encode())
    except BaseException as error:  # noqa: BLE001 - the child must not go on as the init
        os.write(status, f"22 {step}: {error}".encode())
    os._exit(_NOT_FOUND)
