"""Hooks that a `conftest.py` or another plugin may implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_containers.services.base import Service
    from pytest_containers.spec import ContainerSpec


@pytest.hookspec(firstresult=True)
def pytest_containers_spec(
    config: pytest.Config, name: str, spec: ContainerSpec
) -> ContainerSpec | None:
    """Change what a container of a test will be, before it is started.

    Args:
        config: Of the test run.
        name: Of the container: the fixture's, or what `run` was given.
        spec: What the test asks for, with overrides of the command line.

    Returns:
        Another spec, or None to leave it.
    """


def pytest_containers_started(config: pytest.Config, container: Any) -> None:
    """A container was started and is ready."""


def pytest_containers_services(config: pytest.Config) -> Mapping[str, type[Service]]:  # type: ignore[empty-body]  # a specification
    """Services of a plugin, by the names under which `Containers.service` starts them."""
