"""Where machines share what they have made: seeded states, and steps of builds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class SharedPlace:
    """A repository of a registry with the results of other machines.

    Attributes:
        repository: ``registry.example/ci/states``.
        read_only: True if nothing is pushed.
        wait_s: How long to wait for another machine that is making the same.
        max_age_s: Ignore older results; None uses all.
    """

    repository: str
    read_only: bool = False
    wait_s: float = WAIT_S
    max_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a test run shares with other machines.

    Attributes:
        states: The place of seeded states; None shares none.
        build_cache: The place of the steps of builds; None shares none.
        key_file: A file with the secret that signs them; None signs nothing.
        run: A name that all processes of a test run share.
        warn: Gets a sentence about each problem, once for a test run.
    """

    states: SharedPlace | None = None
    build_cache: SharedPlace | None = None
    key_file: str | None = None
    run: str | None = None
    warn: Callable[[str], object] = lambda message: None


@dataclass(frozen=True, slots=True)
class SharedPruned:
    """The result of `engines.choose.prune_shared`: numbers of removed and remaining results."""

    removed: int
    kept: int
