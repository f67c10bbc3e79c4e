"""The options of an engine, as the settings of a test run or a command choose them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

from pytest_containers.model import settings
from pytest_containers.model.settings import Settings

if TYPE_CHECKING:
    from pytest_containers.model.sharing import Sharing

PullPolicy = Literal["missing", "always", "never"]
_PREFIX_VARIABLE = "TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How the registries of images are reached.

    Attributes:
        insecure: Registries (``host[:port]``) that may speak plain http, or show a certificate
            that no known authority has signed.
        mirrors: Mirrors by registry, in the order in which they are asked, before the registry
            itself: ``[scheme://]host[:port][/path]``.
        hub_prefix: Prepended to names without a registry: ``"mirror.example/hub/"``.
        environ: The environment, for proxies, certificates and credentials.
    """

    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hub_prefix: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


def registry_settings(
    insecure: Sequence[str] = (),
    mirrors: Sequence[tuple[str, str]] = (),
    hub_prefix: str = "",
    environ: Mapping[str, str] = os.environ,
) -> RegistrySettings:
    """Return the settings of registries; testcontainers' variable is the default of the prefix.

    Args:
        mirrors: ``(registry, mirror)`` pairs, in the order in which the mirrors are asked.
    """
    by_registry: dict[str, list[str]] = {}
    for registry, mirror in mirrors:
        by_registry.setdefault(registry, []).append(mirror)
    prefix = hub_prefix or environ.get(_PREFIX_VARIABLE, "")
    return RegistrySettings(frozenset(insecure), by_registry, prefix, environ)


class EngineOptions(TypedDict):
    """The arguments of `engines.choose.create_engine` that settings decide."""

    name: str
    home: str | None
    identity: str
    runner: str
    max_containers: int | None
    max_memory_bytes: int | None
    pull: PullPolicy
    debug: str | None
    registries: RegistrySettings
    sharing: Sharing | None


def engine_options(chosen: Settings) -> EngineOptions:
    """Return the options of an engine that the settings choose."""
    return {
        "name": chosen.get(settings.ENGINE),
        "home": chosen.get(settings.HOME),
        "identity": chosen.get(settings.IDENTITY),
        "runner": chosen.get(settings.RUNNER),
        "max_containers": chosen.get(settings.MAX_CONTAINERS),
        "max_memory_bytes": chosen.get(settings.MAX_MEMORY),
        "pull": chosen.get(settings.PULL),
        "debug": chosen.get(settings.DEBUG),
        "registries": registry_settings(
            chosen.get(settings.INSECURE_REGISTRY),
            chosen.get(settings.REGISTRY_MIRROR),
            chosen.get(settings.HUB_PREFIX),
        ),
        "sharing": sharing(chosen),
    }


def sharing(chosen: Settings) -> Sharing | None:
    """Return what the settings share with other machines; None is nothing."""
    states, build_cache = chosen.get(settings.STATES), chosen.get(settings.BUILD_CACHE)
    if states is None and build_cache is None:
        return None
    from pytest_containers.model.sharing import Sharing

    return Sharing(states, build_cache, chosen.get(settings.STATES_KEY))
