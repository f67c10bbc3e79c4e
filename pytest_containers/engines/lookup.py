"""Finding a container by what its user calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from pytest_containers.model.errors import NotRunningError, SpecError, hide_frames

__tracebackhide__ = hide_frames


class Named(Protocol):
    """Anything with an id and a name."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


_C = TypeVar("_C", bound=Named)


def by_id_or_name(containers: Sequence[_C], id_or_name: str) -> _C:
    """Return one of the containers by its id, or by a name that no other one has.

    Raises:
        NotRunningError: No container has the id or name.
        SpecError: Several containers have the name.
    """
    for container in containers:
        if container.id == id_or_name:
            return container
    named = [container for container in containers if container.name == id_or_name]
    if not named:
        raise NotRunningError(f"there is no container {id_or_name!r} in this engine")
    if len(named) > 1:
        raise SpecError(f"{len(named)} containers are named {id_or_name!r}; use an id")
    return named[0]
