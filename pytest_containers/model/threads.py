"""The start of threads, where there may be none left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PYTHONS_WORDS = "can't start new thread"


@contextmanager
def starting_threads() -> Iterator[None]:
    """Turn Python's exception for a thread that the system refuses into the OSError that it was.

    Python drops the errno; pthread_create(3) has EAGAIN for limits of memory and of processes.

    Raises:
        OSError: EAGAIN.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != _PYTHONS_WORDS:
            raise
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), "a thread") from None
