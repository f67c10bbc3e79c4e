"""A first request to a server that was started ahead: what it does only once is done by then."""

from __future__ import annotations

import base64
import contextlib
import os

from pytest_containers.runtime.network.dial import dial_inside
from pytest_containers.runtime.supervisor.container import RunContainer
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.operations.starts import WarmupRequest
from pytest_containers.runtime.wire.tasks import Future

_LONGEST_S = 5.0
_BYTES = 1 << 16


async def warm_up(container: RunContainer, net_ns: int, loop: Loop, warmup: WarmupRequest) -> None:
    """Send a request to a container once its log shows a text.

    Runs beside everything else and holds no lock: nothing waits for it, the container may end at
    any wait, and a failure has no consequence but a slower first request of the test.

    Invariant: the socket is made while the container has its port. Later the descriptor of its
    network namespace may stand for another container's.

    Args:
        container: Just started.
        net_ns: The supervisor's own network namespace.
        loop: Runs it.
        warmup: The text, and the request.
    """
    if not await _shown(container, warmup.text.encode()):
        return
    if container.port is None or container.exit_code is not None:
        return
    with contextlib.suppress(FaultError, OSError):
        netns = container.port.netns_fd
        sock = await dial_inside(loop, netns, net_ns, "tcp", warmup.port, _LONGEST_S)
        with sock:
            sock.send(base64.b64decode(warmup.data))
            await _hung_up(loop, sock.fileno())


async def _shown(container: RunContainer, words: bytes) -> bool:
    """Wait until `words` are in the log; False if the container has ended without them."""
    position, recent = 0, b""
    while True:
        position, records = container.log.since(position)
        recent = (recent + records)[-_BYTES:]  # headers of records do no harm in between
        if words in recent:
            return True
        if container.exit_code is not None:
            return False
        await container.log.next_change()


async def _hung_up(loop: Loop, fd: int) -> None:
    """Read and drop what comes, until the server closes or too much time has passed."""
    over: Future[None] = Future()

    def read() -> None:
        try:
            open_still = bool(os.read(fd, _BYTES))
        except BlockingIOError:
            return
        except OSError:
            open_still = False
        if not open_still:
            over.set(None)

    loop.add_reader(fd, read)
    timer = loop.call_later(_LONGEST_S, lambda: over.set(None))
    try:
        await over
    finally:
        loop.cancel(timer)
        loop.remove_reader(fd)
