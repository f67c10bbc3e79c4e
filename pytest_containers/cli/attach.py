"""Between our own standard streams and those of a container, as `docker run -i -t` has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import tty
from collections.abc import Iterator, Sequence

_BLOCK_BYTES = 1 << 16
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def pipes(streams: Sequence[int], *, stdin: bool) -> None:
    """Copy until the container's output ends.

    Args:
        streams: Of its standard input, if `stdin`, output and error output. The one of its output
            stays the caller's.

    Raises:
        BrokenPipeError: Nobody reads our output any more. The container did not notice.
    """
    *first, out, err = streams
    if stdin:
        _Copier(_STDIN, first[0], close=first[0]).start()
    errors = _Copier(err, _STDERR, close=err)
    errors.start()
    _copy_here(out)
    errors.join()


def terminal(stream: int, *, stdin: bool) -> None:
    """Be the container's terminal until its programs have left it.

    Args:
        stream: The outer end of its terminal; stays the caller's.
        stdin: Whether what is typed here goes there: then each key does, also Ctrl-C.
    """
    with _sized(stream), _raw(stdin):
        if stdin:
            _Copier(_STDIN, stream).start()
        _copy_here(stream)


def is_terminal() -> bool:
    """Whether somebody can type here."""
    return os.isatty(_STDIN)


class _Copier(threading.Thread):
    """Copies beside us. One that waits for our input when all is over ends with the process.

    Args:
        close: What to close when there is no more, or nobody takes it any more.
    """

    def __init__(self, source: int, target: int, close: int | None = None) -> None:
        super().__init__(daemon=True)
        self._source, self._target, self._close = source, target, close

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the other streams go on
            _copy(self._source, self._target)
        if self._close is not None:
            os.close(self._close)


def _copy_here(source: int) -> None:
    """Copy to our output in the main thread until there is no more, or Ctrl-C.

    A signal that comes right before read(2) does not end it, and Python would hear of it with the
    next output only. So this waits for signals, too.
    """
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (source, woken):
        poll.register(fd, select.POLLIN)
    try:
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if woken in ready:
                os.read(woken, _BLOCK_BYTES)  # its handler has run, and did not raise
            if source in ready:
                data = _read(source)
                if not data:
                    return
                _write(_STDOUT, data)
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wake)


def _copy(source: int, target: int) -> None:
    """Copy until there is no more."""
    while data := _read(source):
        _write(target, data)


def _write(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]


def _read(source: int) -> bytes:
    try:
        return os.read(source, _BLOCK_BYTES)
    except OSError as error:
        if error.errno == errno.EIO:  # nobody has the terminal open any more
            return b""
        raise


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Our terminal passes everything on as it is; afterwards it is what it was."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(_STDIN)
    try:
        tty.setraw(_STDIN)
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _sized(stream: int) -> Iterator[None]:
    """The container's terminal is as large as ours, also when ours changes."""
    ours = next((fd for fd in (_STDOUT, _STDIN, _STDERR) if os.isatty(fd)), None)
    if ours is None:
        yield
        return

    def resize(*_: object) -> None:
        size = fcntl.ioctl(ours, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
        with contextlib.suppress(OSError):
            fcntl.ioctl(stream, termios.TIOCSWINSZ, size)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
