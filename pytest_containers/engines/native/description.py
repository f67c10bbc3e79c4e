"""From the spec of a container to the request that starts it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.engines.native import config as configs
from pytest_containers.engines.native import egress
from pytest_containers.engines.native.filters import filter_of
from pytest_containers.model.command import program_words
from pytest_containers.runtime.wire.operations.starts import PortRequest, StartRequest

if TYPE_CHECKING:
    from pytest_containers.engines.native.core import Core
    from pytest_containers.images.image import Image
    from pytest_containers.model.engine import Network
    from pytest_containers.model.spec import ContainerSpec

_MAX_HOST_NAME = 63
_UNUSABLE = re.compile(r"[^a-zA-Z0-9._-]")


class Description(NamedTuple):
    """A start as the supervisor is told of it.

    Attributes:
        network: The network of the container.
        command: Entrypoint and arguments.
        config: The OCI config.
        request: What an OCI config does not have.
    """

    network: Network | None
    command: Sequence[str]
    config: Mapping[str, Any]
    request: StartRequest


def describe(
    core: Core,
    spec: ContainerSpec,
    image: Image,
    name: str,
    network: Network | None,
    *,
    numbered: bool = False,
    mounts: Sequence[Mapping[str, Any]] = (),
    **extra: Any,
) -> Description:
    """Describe a start; the arguments are those of `Container._start`."""
    args = program_words(spec, image.config)
    host_name = _host_name(name)
    hostname = spec.hostname or host_name
    short = hostname.partition(".")[0]  # of "box.example.com"
    usable = [name] if host_name == name[:_MAX_HOST_NAME] else []
    shown = None if numbered and spec.hostname is None else hostname
    config = configs.config_of(spec, image, args, shown)
    config["mounts"] += mounts
    if network is None and spec.network:
        network = core.default_network()
    user = image.config.user if spec.user is None else str(spec.user)
    request = StartRequest(
        image=core.make_ready(image),
        name=name,
        hostname=hostname,
        names=list(dict.fromkeys([hostname, short, *usable, *spec.aliases])),
        network=network.id if network is not None and spec.network else None,
        user=user,
        groups=[str(group) for group in spec.groups],
        args=args,
        init=spec.init,
        log_limit_bytes=spec.log_limit_bytes,
        scratch=spec.scratch,
        scratch_size_bytes=spec.scratch_size_bytes,
        ports=[
            PortRequest(number=port.number, protocol=port.protocol, host=port.host)
            for port in spec.parsed_ports
        ],
        host_ports=list(spec.host_ports),
        **(egress.request_fields(name) if spec.egress else {}),
        syscall_filter=filter_of(spec, configs.granted(spec)),
        **extra,
    )
    return Description(network, args, config, request)


def _host_name(name: str) -> str:
    """Return a name that is valid for gethostname(2) and /etc/hosts."""
    return _UNUSABLE.sub("-", name[:_MAX_HOST_NAME])
