"""Images in the contract: a name, an id, and a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The HEALTHCHECK of an image. As in Docker, 0 means the default.

    Attributes:
        test: ``("NONE",)``, ``("CMD", arg, …)`` or ``("CMD-SHELL", line)``.
    """

    test: tuple[str, ...]
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    retries: int = 0

    def command(self, shell: Sequence[str] = ()) -> list[str]:
        """Return the command to run.

        Args:
            shell: The shell of the image, for a check in shell form.
        """
        kind, *words = self.test
        return words if kind == "CMD" else [*(shell or ("/bin/sh", "-c")), *words]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The configuration of an image (image-spec config.md; Docker adds the last three fields).

    Attributes:
        exposed_ports: Ports as they are written: ``"8000/tcp"``.
        stop_signal: The name or number of a signal, or None.
        shell: The shell for commands in shell form.
    """

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    healthcheck: HealthCheck | None = None
    shell: tuple[str, ...] = ("/bin/sh", "-c")


@runtime_checkable
class Image(Protocol):
    """An image to start containers from.

    Attributes:
        id: Its id; equal ids mean equal contents and configurations.
        name: The name by which it was requested.
        config: Its configuration.
        mounts: Read-only trees of the host on top of its layers; only ``host:`` has them.
        digest: The digest of its manifest; empty for ``host:``.
        base_id: The id of the image below a state, whose configuration the state has.
        volumes_apart: True if what containers have in its volumes is not part of their own files:
            a snapshot has to add it, and each container begins with a copy.
    """

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def mounts(self) -> Sequence[Any]: ...
    @property
    def digest(self) -> str: ...
    @property
    def base_id(self) -> str: ...
    @property
    def volumes_apart(self) -> bool: ...
