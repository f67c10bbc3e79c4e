"""What launcher and supervisor ask of the network helper, and what it reports."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pytest_containers.runtime.wire.message import Descriptor, Message, Operation


class SetUpNetworks(Operation[None]):
    """Enter the run's namespaces and set them up. From the launcher, once, without an answer.

    Attributes:
        connect: True to link the run to the host.
        userns, netns: The run's namespaces.
    """

    connect: bool
    userns: Descriptor
    netns: Descriptor


class NetworksReady(Operation[None]):
    """The helper's report to the supervisor: it serves from now on. Has no answer.

    Attributes:
        octet: x of the run's ``10.x.0.0/16``.
        global_id: Of its IPv6 prefix, in hexadecimal digits.
        connected: True if the host reaches containers by their addresses.
        reason: Why not.
        ipv6: True if the kernel has IPv6.
    """

    octet: int
    global_id: str
    connected: bool
    reason: str
    ipv6: bool


class NetworksFailed(Operation[None]):
    """The helper's report to the supervisor: there will be no networks. Has no answer.

    Attributes:
        error: As in the answer of a refused request.
    """

    error: Sequence[Any]


class NetworkNamespace(Message):
    """A network namespace with a link to a network."""

    netns: Descriptor


class MakeNetwork(Operation[NetworkNamespace]):
    """Make a bridge with a first port.

    Attributes:
        number: Of the network.
        low: Lower 16 bits of the port's IPv4 address.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    number: int
    low: int


class MakePort(Operation[NetworkNamespace]):
    """Make one more port of a network; the fields are those of `MakeNetwork`."""

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    number: int
    low: int


class AddBlock(Operation[None]):
    """Add addresses to a network that has used up its own.

    Attributes:
        linked: Numbers of the networks that it is linked with.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    number: int
    block: int
    linked: Sequence[int]


class LinkNetworks(Operation[None]):
    """Let packets pass between a network and others, both ways.

    Attributes:
        child: Number of the network, and its blocks.
        parents: The same of each of the others.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    child: Sequence[int]
    parents: Sequence[Sequence[int]]


class ResetNetworks(Operation[None]):
    """Make networks as if new, to be used again by `MakeNetwork`.

    Attributes:
        networks: The blocks of each.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError",)

    networks: Sequence[Sequence[int]]
