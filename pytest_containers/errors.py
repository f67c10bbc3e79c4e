"""Every exception the project raises on purpose.

A message is one sentence or two: operation, object, cause, and the way out.
What a program may want to look at stands in attributes as well, and survives pickling
(an xdist worker sends its exceptions to the controller).
"""

from __future__ import annotations

from typing import Any


class ContainersError(Exception):
    """Base of all errors of this project.

    Args:
        message: One clear sentence: operation, object, cause, and the way out.
        **data: Facts of the failure; each becomes an attribute.
    """

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def __getattr__(self, name: str) -> Any:
        data: dict[str, Any] = self.__dict__.get("data", {})
        try:
            return data[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.data)

    def __str__(self) -> str:
        return self.message


def hide_frames(excinfo: Any) -> bool:
    """For `__tracebackhide__` of our modules: whether pytest leaves their frames out.

    They say nothing about an error that was raised on purpose; about any other, they do.
    """
    return bool(excinfo.errisinstance(ContainersError))


def _rebuild(cls: type[ContainersError], message: str, data: dict[str, Any]) -> ContainersError:
    return cls(message, **data)


class SettingsError(ContainersError, ValueError):
    """An option, ini value, environment variable or factory argument is not usable."""


class SpecError(ContainersError, ValueError):
    """A container was described in a way that can never start (a bad port, a duplicate …)."""


class UnsupportedError(ContainersError, OSError):
    """The machine, or this version, cannot do what was asked; the message names the fix."""


class ImageError(ContainersError):
    """An image could not be read, stored or used."""


class ImageNotFoundError(ImageError, LookupError):
    """No image of that name is in the store or at that path."""


class RegistryError(ImageError):
    """A registry could not be reached, refused, or did not keep to the protocol.

    Attributes:
        registry: Its host, and port if any.
        status: Of its answer (HTTP), where there was one.
    """


class BuildError(ContainersError):
    """An image could not be built."""


class StartError(ContainersError, OSError):
    """A container, or a program in one, could not be started.

    Attributes:
        exit_code: 126 (found, not executable), 127 (not found), or None when setup failed.
    """


class ExitedError(ContainersError):
    """A container ended although it should be running.

    Attributes:
        exit_code: As a shell reports it (128 + signal number for signals).
        log_tail: The last lines the container wrote.
    """


class NotReadyError(ContainersError, TimeoutError):
    """A container runs but did not become ready in time.

    Attributes:
        timeout_s: The limit that was reached, in seconds.
        log_tail: The last lines the container wrote.
    """


class SeedError(ContainersError):
    """A seed failed, did not end in time, or left its server dead; nothing of it is kept.

    Its ``__cause__`` is what the seed raised.

    Attributes:
        log_tail: The last lines the container wrote.
    """


class ExecError(ContainersError):
    """A program run in a container with ``check=True`` failed.

    Attributes:
        returncode, stdout, stderr: As in `subprocess.CalledProcessError`.
    """


class WaitTimeoutError(ContainersError, TimeoutError):
    """Something did not end within ``timeout_s``; it goes on."""


class NotRunningError(ContainersError, ProcessLookupError):
    """The operation needs a running container and this one has ended or was removed."""


class RunLostError(ContainersError, ConnectionError):
    """The run's supervisor is gone (killed, or its pytest ended), and all containers with it."""
