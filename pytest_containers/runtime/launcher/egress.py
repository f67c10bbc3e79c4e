"""A way out for containers that may reach other machines: slirp4netns or pasta, one for each.

Both connect a network namespace to the host's by a process that opens ordinary sockets. It has the
host's network and a container's packets, so it has as little as possible of the rest: it is root
of the run's user namespace and nobody on the host, whoever runs the tests, and the host's loopback
device is closed to it by its options.

Three processes, so that nothing of it outlives its container, whoever is killed::

    launcher
      └─ guard     dies with the launcher (PR_SET_PDEATHSIG); SIGTERM ends all of it
           └─ init     PID 1 of a namespace, dies with the guard
                └─ slirp4netns or pasta, and what they start: the kernel ends it with PID 1

The program itself could not be asked to die with its parent: a change of credentials makes the
kernel forget that, and both of them change theirs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn

from pytest_containers.linux import mount, process
from pytest_containers.linux.duplicates import duplicate_above
from pytest_containers.linux.process import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER
from pytest_containers.runtime.network.outside import NAME_SERVER, TUN
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.host import EgressStarted

_NETNS_FD, _USERNS_FD, _WORDS_FD = 3, 4, 5
_SLIRP = (
    "--configure", "--mtu=65520", "--disable-host-loopback",
    "--netns-type=path", f"/proc/self/fd/{_NETNS_FD}", "tap0",
)  # fmt: skip
# Its device would be called as the host's is by default, which may be a name that is taken.
_PASTA = (
    "--foreground", "--quiet", "--config-net", "--no-map-gw", "--dns-forward", NAME_SERVER,
    "--ns-ifname", "tap0",
    "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
    "--netns-only", "--netns", f"/proc/self/fd/{_NETNS_FD}",
)  # fmt: skip
_OTHERS_MAY = stat.S_IROTH | stat.S_IWOTH


class Egress:
    """The processes; each dies with the launcher, or when its pipe is closed."""

    def __init__(self, loop: Loop, userns_fd: int) -> None:
        self._loop = loop
        self._userns_fd = userns_fd

    def start(self, program: str, netns_fd: int, alive_fd: int) -> EgressStarted:
        """Connect a network namespace.

        Args:
            program: Path of slirp4netns or pasta.
            netns_fd: The namespace.
            alive_fd: A pipe; all of it ends when that is closed. Owned from now on.

        Raises:
            OSError: There is no process for it.
        """
        with ExitStack() as undo:
            undo.callback(os.close, alive_fd)
            words, writer = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, words)
            try:
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    last_words = LastWords(writer)
                    last_words.last_of_all(
                        lambda: _guard(parent, program, netns_fd, self._userns_fd, last_words)
                    )
            finally:
                os.close(writer)
            undo.callback(_end, pid)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            own = os.dup(pidfd)
            undo.pop_all()
        self._loop.add_reader(alive_fd, lambda: self._forsaken(alive_fd, own))
        self._loop.add_reader(own, lambda: self._ended(pid, alive_fd, own))
        return EgressStarted(pidfd=pidfd, words=words)

    def _forsaken(self, alive_fd: int, pidfd: int) -> None:
        self._loop.remove_reader(alive_fd)
        process.pidfd_kill(pidfd, signal.SIGTERM)

    def _ended(self, pid: int, alive_fd: int, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        self._loop.remove_reader(alive_fd)
        os.waitpid(pid, 0)
        os.close(pidfd)
        os.close(alive_fd)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class LastWords:
    """A pipe to the supervisor, by which these processes tell why they end: an errno.

    Args:
        fd: Its end; the program does not get it.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int = fd

    def last_of_all(self, function: Callable[[], None]) -> NoReturn:
        """Call what a child does, and end."""
        try:
            function()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(self.fd, str(error.errno).encode())
        except BaseException:  # noqa: BLE001 - the last frame of a process
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)


def _guard(parent: int, program: str, netns_fd: int, userns_fd: int, words: LastWords) -> None:
    _keep_only(netns_fd, userns_fd, words)
    process.set_name("pc-egress")
    if os.stat(TUN).st_mode & _OTHERS_MAY != _OTHERS_MAY and os.geteuid() == 0:
        _make_tun()
    process.setns(_USERNS_FD, CLONE_NEWUSER)
    with contextlib.suppress(PermissionError):  # denied for good with a single id
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.die_with_parent(parent)
    process.unshare(CLONE_NEWPID)
    lifeline, held = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(held)
        words.last_of_all(lambda: _init(program, lifeline, words))
    signal.signal(signal.SIGTERM, lambda signum, frame: os.kill(init, signal.SIGKILL))
    os.waitpid(init, 0)  # over when all of its namespace is gone


def _init(program: str, lifeline: int, words: LastWords) -> None:
    process.set_name("pc-egress-init")
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([lifeline], [], [], 0)[0]:  # the guard died before: nobody would tell
        return
    child = os.fork()
    if child == 0:
        words.last_of_all(lambda: _execute(program))
    while os.wait()[0] != child:
        pass


def _execute(program: str) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.closerange(_WORDS_FD + 1, 1 << 20)
    os.set_inheritable(_NETNS_FD, True)
    # pasta takes "was ignored", which Python makes of it, for a failure to ignore it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    arguments = _SLIRP if os.path.basename(program) == "slirp4netns" else _PASTA
    os.execve(program, [program, *arguments], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def _keep_only(netns_fd: int, userns_fd: int, words: LastWords) -> None:
    """Close all that is the launcher's: ports that it listens on, the ends of its channels."""
    high = [duplicate_above(fd, 16) for fd in (netns_fd, userns_fd, words.fd)]
    words.fd = high[-1]
    for fd, target in zip(high, (_NETNS_FD, _USERNS_FD, _WORDS_FD), strict=True):
        os.dup2(fd, target, inheritable=False)
    words.fd = _WORDS_FD
    os.closerange(_WORDS_FD + 1, 1 << 20)


def _make_tun() -> None:
    """As host root, make a device of its own where only root may open the machine's.

    In a mount namespace of this process's own. The program that is to open it is not root.
    """
    process.unshare(CLONE_NEWNS)
    mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
    device = os.stat(TUN).st_rdev
    mount.mount("tmpfs", os.path.dirname(TUN), "tmpfs", 0, "mode=755")
    os.mknod(TUN, stat.S_IFCHR | 0o666, device)
    os.chmod(TUN, 0o666)
