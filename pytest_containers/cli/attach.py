"""Copying between the standard streams of the command and a container, like `docker run -i -t`."""

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
    """Copy the streams of a container until its output ends.

    Args:
        streams: Descriptors of standard input (if `stdin`), output and error. The caller closes
            the one of standard output.
        stdin: Copy standard input too.

    Raises:
        BrokenPipeError: The reader of the output is gone; the container still runs.
    """
    *inputs, out, err = streams
    if stdin:
        _StreamCopier(_STDIN, inputs[0], close=inputs[0]).start()
    errors = _StreamCopier(err, _STDERR, close=err)
    errors.start()
    _copy_output(out)
    errors.join()


def terminal(stream: int, *, stdin: bool) -> None:
    """Connect to the terminal of a container until all its programs have closed it.

    Args:
        stream: The outer end of the terminal; the caller closes it.
        stdin: Send all keys to the container, Ctrl-C included.
    """
    with _sized(stream), _raw(stdin):
        if stdin:
            _StreamCopier(_STDIN, stream).start()
        _copy_output(stream)


def is_terminal() -> bool:
    """Return True if standard input is a terminal."""
    return os.isatty(_STDIN)


class _StreamCopier(threading.Thread):
    """A thread that copies a stream. If it waits for input, it ends with the process.

    Args:
        close: A descriptor to close at the end of the source, or when the target is closed.
    """

    def __init__(self, source: int, target: int, close: int | None = None) -> None:
        super().__init__(daemon=True)
        self._source, self._target, self._close = source, target, close

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the other streams continue
            _copy(self._source, self._target)
        if self._close is not None:
            os.close(self._close)


def _copy_output(source: int) -> None:
    """Copy to standard output in the main thread until the end of the source, or Ctrl-C.

    A signal just before read(2) does not interrupt it, so that Python would run the handler only
    after the next output. Therefore this polls for signals as well.
    """
    signals, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    poll = select.poll()
    for fd in (source, signals):
        poll.register(fd, select.POLLIN)
    try:
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if signals in ready:
                os.read(signals, _BLOCK_BYTES)  # the handler has run and did not raise
            if source in ready:
                data = _read(source)
                if not data:
                    return
                _write(_STDOUT, data)
    finally:
        signal.set_wakeup_fd(before)
        os.close(signals)
        os.close(wakeup)


def _copy(source: int, target: int) -> None:
    """Copy until the end of the source."""
    while data := _read(source):
        _write(target, data)


def _write(target: int, data: bytes) -> None:
    unwritten = memoryview(data)
    while unwritten:
        unwritten = unwritten[os.write(target, unwritten) :]


def _read(source: int) -> bytes:
    try:
        return os.read(source, _BLOCK_BYTES)
    except OSError as error:
        if error.errno == errno.EIO:  # no program has the terminal open any more
            return b""
        raise


@contextlib.contextmanager
def _raw(enabled: bool) -> Iterator[None]:
    """Put the terminal of the command into raw mode, and restore it afterwards."""
    if not enabled:
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
    """Keep the terminal of the container at the size of the terminal of the command."""
    outer = next((fd for fd in (_STDOUT, _STDIN, _STDERR) if os.isatty(fd)), None)
    if outer is None:
        yield
        return

    def resize(*_: object) -> None:
        size = fcntl.ioctl(outer, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
        with contextlib.suppress(OSError):
            fcntl.ioctl(stream, termios.TIOCSWINSZ, size)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
