"""Features of the machine that containers need or profit from, for `pytest-containers doctor`."""

from __future__ import annotations

from typing import NamedTuple


class MachineFeature(NamedTuple):
    """A feature that a machine may offer.

    Attributes:
        name: Its name: ``"user namespaces"``.
        present: True if the machine offers it.
        required: True if no container can run without it.
        detail: The result of the check.
        fallback: The behaviour without it.
        fix: How to get it, as a sentence.
        commands: The same as shell commands for root.
    """

    name: str
    present: bool
    required: bool
    detail: str
    fallback: str = ""
    fix: str = ""
    commands: tuple[str, ...] = ()
