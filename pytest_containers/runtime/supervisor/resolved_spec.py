"""What a container is started from."""

from __future__ import annotations

from typing import NamedTuple

from pytest_containers.runtime.plan.oci import Config
from pytest_containers.runtime.plan.start import StartFacts
from pytest_containers.runtime.wire.operations.starts import StartRequest


class ResolvedSpec(NamedTuple):
    """A start request with everything that its plan depends on.

    Attributes:
        request: What the client asked for.
        config: Its OCI config, checked: equal documents are one object (`Plans.config`).
        args: The command line; its first word is that of the config.
        facts: The properties of this start that its plan depends on.
        hostname: What the container calls itself.
    """

    request: StartRequest
    config: Config
    args: tuple[str, ...]
    facts: StartFacts
    hostname: str
