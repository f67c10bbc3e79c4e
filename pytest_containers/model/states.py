"""The contract of states: files on top of an image that are stored under a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pytest_containers.model.errors import SpecError
from pytest_containers.model.image import Image

_S = TypeVar("_S")

Freeze = Callable[[int], dict[str, Any]]
"""Copies the written files to a new directory ``tree`` below a directory (a descriptor)."""

Accept = Callable[[Mapping[str, Any], float], dict[str, Any] | None]
"""Returns the facts to keep of a state that others made at a time; None if it is of no use here."""


Following = Callable[[str], "tuple[str, Accept, Following] | None"]
"""Returns the key of the state that is asked for next, on top of the image with an id; with its
`Accept`, and what follows after it. None if there is none."""


class State(Protocol):
    """The record of a state: files on top of an image, stored under a key."""

    @property
    def key(self) -> str: ...
    @property
    def base(self) -> str: ...
    @property
    def made_at(self) -> float: ...
    @property
    def used_at(self) -> float: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...


def own_state(state: object, kind: type[_S], engine: str) -> _S:
    """Return a state that is one of an engine.

    Raises:
        SpecError: It is one of another engine.
    """
    if isinstance(state, kind):
        return state
    raise SpecError(
        f"this state is not one of engine {engine!r}, which does not know the states of other "
        f"engines ({type(state).__name__}); run the seed with this engine"
    )


class SharedStates(Protocol):
    """The states that machines share. No failure of theirs fails a test: it is a warning."""

    def obtain(self, key: str, base: Any, accept: Accept, following: Following = ...) -> Any | None:
        """Return a state that was made elsewhere, kept here now; wait if it is being made.

        What is needed next on top of it is fetched at the same time.

        None means that the caller makes it, and calls `offer` or `give_up` afterwards.
        """

    def offer(self, state: Any, base: Any, accept: Accept) -> None:
        """Let others use a state that was made here, unless they have one that is as good.

        Returns at once; `Engine.finish_sharing` waits until it is done.
        """

    def give_up(self, key: str) -> None:
        """Let others make the state of a key, since it could not be made here."""


class StateStore(Protocol):
    """The states on this machine, which outlive the run. Needs ``snapshots``."""

    @property
    def shared(self) -> SharedStates | None:
        """The states of other machines as well; None if they are not shared."""

    @property
    def home(self) -> Path:
        """The directory in which states are kept."""

    def lock(self, key: str) -> AbstractContextManager[object]:
        """Lock `key` against other processes that make a state for it."""

    def candidates(self, key: str) -> Sequence[Any]:
        """Return all complete states of a key, most recently used first."""

    def all(self) -> Sequence[Any]:
        """Return all states, most recently used first."""

    def keep(self, key: str, base: Any, freeze: Freeze, facts: Mapping[str, Any]) -> Any:
        """Store files on top of `base` as a state of `key`.

        Raises:
            ImageError: The files cannot be stored; nothing is left of them.
        """

    def image(self, base: Any, state: Any) -> Image | None:
        """Return `base` with the state on top; None if the state has been removed."""

    def used(self, state: Any) -> None:
        """Record that a state is used now."""

    def drop(self, states: Sequence[Any]) -> None:
        """Remove states, and files that are not used otherwise."""

    def note_failure(self, key: str, run: str, failure: Mapping[str, Any]) -> None:
        """Record, for all processes of a run, why a state cannot be made."""

    def failure_of(self, key: str, run: str) -> Mapping[str, Any] | None:
        """Return the failure that the run has recorded for `key`; None if there is none."""
