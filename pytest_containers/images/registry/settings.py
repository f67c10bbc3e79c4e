"""The settings of registries at work: mirrors, loopback exceptions, the prefix of Docker Hub."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from pytest_containers.images.reference import DEFAULT_REGISTRY, Reference, parse_reference
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import ImageError, SettingsError, hide_frames

__tracebackhide__ = hide_frames


def substitute(settings: RegistrySettings, reference: Reference) -> Reference:
    """Return the reference to fetch: names of Docker Hub get the prefix.

    Raises:
        SettingsError: The prefix does not make a name.
    """
    prefix = settings.hub_prefix
    if not prefix or reference.registry != DEFAULT_REGISTRY:
        return reference
    joint = "" if prefix.endswith("/") else "/"
    name = f"{prefix}{joint}{reference.in_hub}"
    try:
        return parse_reference(name)
    except ImageError as error:
        raise SettingsError(
            f"hub prefix {prefix!r} does not make a name of an image: {error}"
        ) from None


@dataclass(frozen=True, slots=True)
class Place:
    """An address at which images of a registry are asked for.

    Attributes:
        host: ``host[:port]`` as certificates, credentials and settings name it.
        prefix: Of repositories there, with a slash at its end; or empty.
        scheme: Where it was written out; else found out.
    """

    host: str
    prefix: str = ""
    scheme: str = ""


def places(settings: RegistrySettings, registry: str) -> list[Place]:
    """Return the places for a registry: mirrors first, the registry itself last."""
    mirror_places = []
    for mirror in settings.mirrors.get(registry, ()):
        scheme, separator, rest = mirror.rpartition("://")
        host, _, path = rest.partition("/")
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        mirror_places.append(Place(host, prefix, scheme if separator else ""))
    return [*mirror_places, Place(registry)]


def is_loopback(host: str) -> bool:
    """Check whether ``host[:port]`` is this machine's own."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
