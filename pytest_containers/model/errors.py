"""The exceptions of the project.

A message is one sentence or two: operation, object, cause, and the way out. The facts that a
program may need are declared fields as well. Fields survive copying and pickling (an xdist worker
sends its exceptions to the controller); a field without a value is None or empty.

``docs/reference/errors.md`` is written from this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, dataclass_transform

_FIRST_REPORT = "__first_report__"
_SIGNS = ("::", "##", "section_")
"""Of what `harmless` looks for, those that are printable."""


def _positional(*, kw_only: Literal[False] = False) -> Any:
    """Declare a field as the positional argument, for type checkers."""


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(_positional,))
class _Fields(Exception):
    """An exception whose annotations are its fields, like those of a dataclass.

    Real dataclasses would cost some milliseconds in every process that reports an error.
    """

    if not TYPE_CHECKING:

        def __init__(self, message: str, **fields: Any) -> None:
            if not message.isprintable() or any(sign in message for sign in _SIGNS):
                # Names and answers of others are part of messages.
                message = _harmless(message)
            super().__init__(message)
            self.message = message
            for name, value in fields.items():
                if name not in self.fields:
                    raise TypeError(f"{type(self).__name__} has no field {name!r}")
                setattr(self, name, value)

    fields: ClassVar[tuple[str, ...]] = ()
    """Names of the declared fields."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherited = [name for base in cls.__bases__ for name in getattr(base, "fields", ())]
        own = [name for name in cls.__annotations__ if name != "message"]
        cls.fields = tuple(dict.fromkeys([*inherited, *own]))


def _harmless(message: str) -> str:
    try:
        from pytest_containers.model.harmless import harmless
    except (ImportError, OSError):  # a job whose ids cannot read packages; its caller does this
        return message
    return harmless(message)


class ContainersError(_Fields):
    """The base class of all errors of this project.

    Attributes:
        message: One clear sentence: operation, object, cause, and the way out.
        errno: The error number of the kernel, if a system call failed.
        path: The file or directory that the error is about.
        operation: The wire operation whose message was malformed.
        field: The malformed field of that message, or the malformed property of an OCI config.
    """

    message: str = _positional(kw_only=False)
    errno: int | None = None
    path: str | None = None
    operation: str | None = None
    field: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The fields that have a value, by name."""
        return {name: vars(self)[name] for name in self.fields if name in vars(self)}

    @classmethod
    def from_data(cls, message: str, data: Mapping[str, Any]) -> Self:
        """Create an error from the fields that another process sent; skip unknown fields."""
        return cls(message, **{name: data[name] for name in cls.fields if name in data})

    def __str__(self) -> str:
        return self.message


def hide_frames(excinfo: Any) -> bool:
    """Return True for errors of this project: the value of `__tracebackhide__` in its modules.

    The frames of our modules explain nothing about an error that was raised on purpose. For other
    exceptions they are shown.
    """
    return bool(excinfo.errisinstance(ContainersError))


def first_report_of(error: BaseException) -> str | None:
    """Return the test whose report has told of an error already, by `tell_of_first`."""
    test: str | None = vars(error).get(_FIRST_REPORT)
    return test


def tell_of_first(error: BaseException, test: str) -> None:
    """Note the first test that an error fails; the reports of others refer to it.

    Copies of the error know it as well.
    """
    vars(error).setdefault(_FIRST_REPORT, test)


class SettingsError(ContainersError, ValueError):
    """An option, ini value, environment variable or factory argument is not usable.

    Attributes:
        source: The option, variable or key.
        value: Its value.
    """

    source: str | None = None
    value: str | None = None


class SpecError(ContainersError, ValueError):
    """A container, service, fixture or build is described wrongly, so that it can never start.

    Attributes:
        option: The name of an option that the service does not have.
    """

    option: str | None = None


class UnsupportedError(ContainersError, OSError):
    """The machine, or this version, does not support the operation; the message names the fix.

    Attributes:
        missing: Programs to install.
        user: The user whose id cannot be mapped.
        refused: The step in the start of the run that the machine does not permit.
        engine: The engine that lacks the capability.
        capability: The capability.
        engines: The engines that have it.
    """

    missing: Sequence[str] = ()
    user: str | None = None
    refused: str | None = None
    engine: str | None = None
    capability: str | None = None
    engines: Sequence[str] = ()


class ImageError(ContainersError):
    """An image could not be read, stored or used.

    Attributes:
        reference: The name of the image.
        home: The directory of the image store.
        expected: The expected digest.
        actual: The digest of the actual contents.
        architecture: The processor architecture of the image.
    """

    reference: str | None = None
    home: str | None = None
    expected: str | None = None
    actual: str | None = None
    architecture: str | None = None


class ImageNotFoundError(ImageError, LookupError):
    """Neither the store nor the registry nor the path has such an image.

    Attributes:
        registry: The ``host[:port]`` of the registry.
        repository: The repository in the registry.
        status: The HTTP status of the response.
    """

    registry: str | None = None
    repository: str | None = None
    status: int | None = None


class RegistryError(ImageError):
    """A registry could not be reached, refused the request, or violated the protocol.

    Attributes:
        registry: The ``host[:port]`` of the registry.
        repository: The repository in the registry.
        status: The HTTP status of the response, if there was one.
    """

    registry: str | None = None
    repository: str | None = None
    status: int | None = None


class BuildError(ContainersError):
    """An image could not be built.

    Attributes:
        exit_code: The exit code of the program of a `RUN`, as a shell reports it.
        log_tail: The last lines of its output.
    """

    exit_code: int | None = None
    log_tail: Sequence[str] = ()


class StartError(ContainersError, OSError):
    """A container, or a program in one, could not be started.

    Attributes:
        exit_code: 126 (not executable), 127 (not found), or None if the setup failed.
        source: The source of the bind mount that failed.
        port: The port of the host that is not available.
        user: The user that does not exist, or whose id cannot be mapped.
        group: The group that does not exist.
    """

    exit_code: int | None = None
    source: str | None = None
    port: int | None = None
    user: str | None = None
    group: str | None = None


class ExitedError(ContainersError):
    """A container ended unexpectedly.

    Attributes:
        exit_code: The exit code as a shell reports it (128 + signal number for signals).
        log_tail: The last lines of its output.
    """

    exit_code: int | None = None
    log_tail: Sequence[str] = ()


class NotReadyError(ContainersError, TimeoutError):
    """A container runs but did not become ready in time.

    Attributes:
        timeout_s: The time limit in seconds.
        log_tail: The last lines of its output.
    """

    timeout_s: float | None = None
    log_tail: Sequence[str] = ()


class SeedError(ContainersError):
    """A seed failed, ran too long, or crashed its server; no state is stored.

    Its ``__cause__`` is the exception that the seed raised.

    Attributes:
        exit_code: The exit code of the server, if it ended.
        timeout_s: The time limit in seconds.
        log_tail: The last lines of output of the container.
    """

    exit_code: int | None = None
    timeout_s: float | None = None
    log_tail: Sequence[str] = ()


class ExecError(ContainersError):
    """A program run in a container with ``check=True`` failed.

    The fields are those of `subprocess.CalledProcessError`.

    Attributes:
        cmd: The program and its arguments.
        returncode: Its exit code.
        stdout: Its standard output.
        stderr: Its standard error.
    """

    cmd: Sequence[str] = ()
    returncode: int | None = None
    stdout: Any = None
    stderr: Any = None


class WaitTimeoutError(ContainersError, TimeoutError):
    """An operation took longer than ``timeout_s``.

    The container keeps running, but the program of an ``exec`` is killed.

    Attributes:
        timeout_s: The time limit in seconds.
        exit_code: The exit code of a program that was killed, as a shell reports it.
        stdout: The standard output of the program so far.
        stderr: Its standard error so far.
        missing: The ports that have no listening socket.
    """

    timeout_s: float | None = None
    exit_code: int | None = None
    stdout: Any = None
    stderr: Any = None
    missing: Any = None


class NotRunningError(ContainersError, ProcessLookupError):
    """The operation needs a running container, and this one has ended or was removed.

    Attributes:
        exit_code: The exit code as a shell reports it, if it is known.
    """

    exit_code: int | None = None


class RunLostError(ContainersError, ConnectionError):
    """The supervisor of the run is gone (killed, or its pytest ended), with all containers."""


def _publish() -> None:
    """Make tracebacks and pickles name the errors as users import them: ``pytest_containers.…``."""
    for cls in list(globals().values()):
        if isinstance(cls, type) and issubclass(cls, ContainersError):
            cls.__module__ = "pytest_containers"


_publish()
