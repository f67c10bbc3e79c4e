"""What a project says of its registries: mirrors, exceptions from encryption, a prefix."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pytest_containers.errors import ImageError, SettingsError, hide_frames
from pytest_containers.images.reference import DEFAULT_REGISTRY, Reference, parse_reference

__tracebackhide__ = hide_frames


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What a project or a machine says of its registries.

    Attributes:
        insecure: Registries (``host[:port]``) that may be asked in plain http, or with a
            certificate that nobody vouches for.
        mirrors: Registry → what is asked first for its images, in order:
            ``[scheme://]host[:port][/path]``.
        hub_prefix: Prepended to names without a registry: ``"mirror.example/hub/"``.
        environ: For proxies, certificates and credentials.
    """

    insecure: frozenset[str] = frozenset()
    mirrors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    hub_prefix: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def substitute(self, reference: Reference) -> Reference:
        """The reference that is meant: names of Docker Hub get the prefix.

        Raises:
            SettingsError: The prefix does not make a name.
        """
        if not self.hub_prefix or reference.registry != DEFAULT_REGISTRY:
            return reference
        joint = "" if self.hub_prefix.endswith("/") else "/"
        name = f"{self.hub_prefix}{joint}{reference.familiar}"
        try:
            return parse_reference(name)
        except ImageError as error:
            raise SettingsError(
                f"hub prefix {self.hub_prefix!r} does not make a name of an image: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where images of a registry are asked for.

    Attributes:
        host: ``host[:port]`` as certificates, credentials and settings name it.
        prefix: Of repositories there, with a slash at its end; or empty.
        scheme: Where it was written out; else found out.
    """

    host: str
    prefix: str = ""
    scheme: str = ""


def places(settings: RegistrySettings, registry: str) -> list[Place]:
    """Mirrors first, the registry itself last."""
    found = []
    for mirror in settings.mirrors.get(registry, ()):
        scheme, separator, rest = mirror.rpartition("://")
        host, _, path = rest.partition("/")
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        found.append(Place(host, prefix, scheme if separator else ""))
    return [*found, Place(registry)]


def is_loopback(host: str) -> bool:
    """Whether ``host[:port]`` is this machine's own."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def settings_of(
    insecure: Sequence[str], mirrors: Sequence[tuple[str, str]], hub_prefix: str,
    environ: Mapping[str, str] = os.environ,
) -> RegistrySettings:  # fmt: skip
    """From what users write; testcontainers' variable for the prefix counts where ours is silent.

    Args:
        mirrors: ``(registry, mirror)``, in the order in which they are asked.
    """
    by_registry: dict[str, list[str]] = {}
    for registry, mirror in mirrors:
        by_registry.setdefault(registry, []).append(mirror)
    prefix = hub_prefix or environ.get("TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX", "")
    return RegistrySettings(frozenset(insecure), by_registry, prefix, environ)
