"""The guardian: it forks the inits, and kills all when the supervisor has died.

Of one thread, so that it may fork. It stands between the supervisor and the inits: its orphans go
to the supervisor, and it kills when that is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path

from pytest_containers.engines.process import wire
from pytest_containers.engines.process.ending import (
    await_end,
    become_subreaper,
    children,
    descendants,
    kill_descendants,
    reap,
    remove_folders,
    remove_segments_of,
)
from pytest_containers.engines.process.init import run_init
from pytest_containers.linux.process import set_name


def run_guardian(
    channel: socket.socket, supervisor: int, folders: list[str], since_s: float
) -> None:
    """Serve until the supervisor has died.

    Args:
        channel: To the supervisor.
        supervisor: Its pidfd.
        folders: The directories of the run.
        since_s: The time of the start of the run.
    """
    set_name("containers:grd")
    become_subreaper()
    wake, wakes = socket.socketpair()
    for end in (wake, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    inits: set[int] = set()
    poll = select.poll()
    for fd in (channel.fileno(), supervisor, wake.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if supervisor in ready:
            break
        if wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            _bury(inits)
        if channel.fileno() in ready:
            message = wire.receive(channel)
            if message is None:
                break
            pid = os.fork()
            if pid == 0:
                try:
                    for end in (channel, wake, wakes):
                        end.close()
                    os.close(supervisor)
                    run_init(message)
                finally:
                    os._exit(1)
            inits.add(pid)
            for fd in message.fds:
                os.close(fd)
    await_end()
    kill_descendants(os.getpid())
    remove_segments_of(Path(folders[0]), since_s)
    remove_folders(folders)


def _bury(inits: set[int]) -> None:
    """Reap; kill what an init has left that was killed itself.

    Only children count, which orphans have become: a program that a living init forks meanwhile is
    never one. The end of each brings this here again, with those that it has left.
    """
    for pid, _ in reap():
        inits.discard(pid)
    for orphan in set(children(os.getpid())) - inits:
        for pid in (orphan, *descendants(orphan)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
