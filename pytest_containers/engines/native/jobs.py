"""Calls of jobs, which are functions that run as root of the user namespace of the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_containers.model.errors import (
    ContainersError,
    ImageError,
    NotRunningError,
    RunLostError,
)
from pytest_containers.runtime.wire.message import Message, pack, unpack
from pytest_containers.runtime.wire.operations.session import CallJob

if TYPE_CHECKING:
    from pytest_containers.runtime.wire.client import Client
    from pytest_containers.runtime.wire.operations.job import Job

_A = TypeVar("_A")
_R = TypeVar("_R")
_E = TypeVar("_E", bound=ContainersError)
_KEPT = (ImageError, NotRunningError, RunLostError)
"""Errors that say more than the kind that a caller asks for."""


def call_job(
    client: Client,
    job: Job[_A, _R],
    args: _A,
    fds: Sequence[int],
    *,
    root_of: str = "",
    upper_of: str = "",
    views: Sequence[str] = (),
    kind: type[ContainersError] = ContainersError,
    doing: str = "",
) -> _R:
    """Run a job and return its result.

    Args:
        fds: Descriptors for the job; the caller keeps ownership.
        root_of: A container whose root directory is passed before `fds`.
        upper_of: A container whose upper directory is passed before `fds`.
        views: Keys of images whose root directories are passed after `fds`.
        kind: The class that errors are raised as.
        doing: A prefix of their message.

    Raises:
        ContainersError: The job failed; of class `kind`, unless the container or the run is gone,
            or the error is about an image.
    """
    fields: Any = pack(args)[0] if isinstance(args, Message) else args
    call = CallJob(
        function=job.function,
        args=fields,
        # The interpreter of the job knows only this package and the standard library.
        search_path=[path for path in sys.path if path],
        root_of=root_of,
        upper_of=upper_of,
        views=views,
        descriptors=fds,
    )
    try:
        result: Any = client.call(call).result
    except ContainersError as error:
        if not isinstance(error, (kind, *_KEPT)):
            raise as_kind(kind, error, doing) from error
        if doing:
            raise as_kind(type(error), error, doing) from None
        raise
    if issubclass(job.result, Message):
        result = unpack(job.result, result)
    return cast("_R", result)


def as_kind(kind: type[_E], error: ContainersError, doing: str = "") -> _E:
    """Return an error of class `kind` with the message, data and notes of `error`.

    Args:
        doing: A prefix for the message.
    """
    message = f"{doing}: {error.message}" if doing else error.message
    other = kind.from_data(message, error.data)
    for note in getattr(error, "__notes__", ()):
        other.add_note(note)
    return other
