"""A container as the parts of the engine see it that its class is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pytest_containers.engines.docker.core import DockerCore, DockerNetwork

if TYPE_CHECKING:
    from pytest_containers.engines.docker.images import DockerImage
    from pytest_containers.model.results import ExecResult, Status
    from pytest_containers.model.spec import ContainerSpec


class DockerHandle(Protocol):
    """The parts of `DockerContainer` that others use; see there."""

    core: DockerCore
    spec: ContainerSpec
    image: DockerImage
    name: str
    network: DockerNetwork | None
    id: str
    labels: Mapping[str, str]
    streams: Sequence[int]

    @property
    def status(self) -> Status: ...
    def take_facts(self, facts: Mapping[str, Any]) -> None: ...
    def ended_with(self) -> int | None: ...
    def pause_until_end(self, seconds: float) -> None: ...
    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]: ...
    def exec(
        self,
        command: Sequence[str] | str,
        *,
        user: str | int | None = None,
        input: str | bytes | None = None,
        check: bool = False,
        timeout_s: float | None = None,
    ) -> ExecResult: ...
    def note_start(self) -> int: ...
    def note_end(self, code: int) -> None: ...
    def note_loss(self) -> None: ...
    def note_removal(self) -> None: ...
