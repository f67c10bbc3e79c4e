"""Jobs: functions that run as root of the run's user namespace, in the host's mount namespace."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pytest_containers.runtime.wire.message import Message

A = TypeVar("A")
R = TypeVar("R")


class JobResult(Message):
    """The fields of a job's result."""

    result: Mapping[str, Any]


class Job(Generic[A, R]):
    """A function ``(args: A, descriptors) -> R``, named so that its callers need not import it.

    The constants stand in the packages ``jobs`` of runtime, images and builder.

    Args:
        module, name: Of the function.
        args: Class of its argument, a `Message`; ``dict`` for one whose fields have no types yet.
        result: Class of what it returns, likewise.
    """

    __slots__ = ("args", "module", "name", "result")

    def __init__(self, module: str, name: str, args: type[A], result: type[R]) -> None:
        self.module: str = module
        self.name: str = name
        self.args: type[A] = args
        self.result: type[R] = result

    @property
    def function(self) -> str:
        """``module:name``."""
        return f"{self.module}:{self.name}"

    def __repr__(self) -> str:
        return f"<Job {self.function}>"


def argument_type(function: Callable[..., Any]) -> type[Message] | None:
    """The class of a job's argument; None if its fields have no types yet."""
    hint = function.__annotations__["args"]
    if isinstance(hint, str):
        hint = eval(hint, function.__globals__)
    return hint if isinstance(hint, type) and issubclass(hint, Message) else None
