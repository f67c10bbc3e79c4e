"""The hooks of this plugin, for a `conftest.py` or another plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_containers.model.spec import ContainerSpec
    from pytest_containers.services.service import Service


@pytest.hookspec(firstresult=True)
def pytest_containers_spec(
    config: pytest.Config, name: str, spec: ContainerSpec
) -> ContainerSpec | None:
    """Change the spec of a container before it is started.

    Args:
        config: The configuration of the test run.
        name: The host name of the container.
        spec: The spec, with the overrides of the command line.

    Returns:
        Another spec, or None to keep this one.
    """


def pytest_containers_started(config: pytest.Config, container: Any) -> None:
    """Called when a container was started and is ready."""


def pytest_containers_services(config: pytest.Config) -> Mapping[str, type[Service]]:  # type: ignore[empty-body]  # a specification
    """Return more services for `Containers.service`, by name."""
