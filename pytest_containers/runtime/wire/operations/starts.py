"""What a test process asks of the supervisor: starts of containers."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pytest_containers.runtime.wire.message import Blob, Descriptor, Descriptors, Message, Operation


class PortRequest(Message):
    """A port of a container that is to be reached.

    Attributes:
        host: The port of 127.0.0.1 that leads to it, 0 for any; None for any, where one is
            needed.
    """

    number: int
    protocol: str
    host: int | None = None


class ForwardedPort(Message):
    """A port of a container, and the port of the host's 127.0.0.1 that leads to it."""

    number: int
    protocol: str
    host: int


class WarmupRequest(Message):
    """A first request to a server that was started ahead.

    Attributes:
        text: The request is sent once this is in the log.
        port: On the container's loopback device.
        data: The request, in base64.
    """

    text: str
    port: int
    data: str


class SyscallFilter(Message):
    """A filter of system calls (seccomp(2)).

    Attributes:
        code: Its ``struct sock_filter``, in base64; empty for Docker's default policy, as it is for
            a container with Docker's capabilities.
        flags: ``SECCOMP_FILTER_FLAG_…``.
    """

    code: str = ""
    flags: int = 0


class StartRequest(Message):
    """A start of a container: everything beside its OCI config.

    Attributes:
        image: Key of an image that was attached (`AttachImage`).
        name: Of the container.
        hostname: What it calls itself, unless the config says so.
        names: Names that other containers find it by: host name, name and aliases.
        network: Id of the network to join; None for none.
        user: A name or numbers, as in ``name:group``; empty is the config's, else root.
        groups: Supplementary groups.
        args: The command line; its first word is the config's. The others are no part of the
            config, so that a program with other arguments is the same plan.
        init: True for a reaping PID 1.
        log_limit_bytes: How much output is kept.
        scratch: Where the writable layer is.
        scratch_size_bytes: Its limit.
        ports: To be reached from the host.
        host_ports: Of the host's 127.0.0.1, that the container may reach.
        egress: Path of the program that connects it to other machines; empty for none. Without a
            network, such a container has an `init`.
        resolv: Its resolv.conf, if it reaches a name server.
        hosts: More lines for its hosts file.
        attach: Which streams the caller gets instead of the log: ``output``, or ``all`` with a
            standard input; empty for none.
        warmup: A first request to it; None for none.
        syscall_filter: What its system calls pass; None for nothing.
    """

    image: str
    name: str
    hostname: str
    names: Sequence[str]
    network: str | None
    user: str
    groups: Sequence[str]
    args: Sequence[str]
    init: bool
    log_limit_bytes: int
    scratch: Literal["auto", "tmpfs", "disk"]
    scratch_size_bytes: int | None
    ports: Sequence[PortRequest]
    host_ports: Sequence[int]
    egress: str = ""
    resolv: str = ""
    hosts: str = ""
    attach: Literal["", "output", "all"] = ""
    warmup: WarmupRequest | None = None
    syscall_filter: SyscallFilter | None = SyscallFilter()


class Started(Message):
    """A container whose program runs.

    Attributes:
        pid: Number of its program in the run's process namespace.
        ip, ip6: Its addresses; empty where it has none.
        forwards: Ports of 127.0.0.1 that lead to it.
        streams: With `StartRequest.attach`: standard input (for ``all``), output and error
            output; or its terminal, if it has one.
        notes: What its mounts lack, in sentences.
    """

    id: str
    pid: int
    ip: str
    ip6: str
    forwards: Sequence[ForwardedPort]
    streams: Descriptors = ()
    notes: Sequence[str] = ()


class Run(Operation[Started]):
    """Start a container.

    Attributes:
        config: An OCI config. In it, a mount of type ``bind`` names a path of the host (whose
            files have ids of containers already with the option ``mapped``), one of type
            ``volume`` a volume (or a file of it, ``name=…``), and one of type ``image`` an image
            (or what is at ``path=…`` in it; without ``ro``, what is written to it is dropped).
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError", "SpecError", "ImageError")

    request: StartRequest
    config: Blob


class BundleCreated(Message):
    """A container of a bundle that waits for its `Execute`.

    Attributes:
        process: A pidfd of its process.
        streams: As in `Started`.
    """

    id: str
    process: Descriptor
    streams: Descriptors = ()


class CreateBundle(Operation[BundleCreated]):
    """Create a container of an OCI bundle: all of its start but the execve.

    Attributes:
        name: For messages.
        rootfs: A directory of the host.
        config: An OCI config.
        log_limit_bytes, attach: As in `StartRequest`.
        namespaces: Those that the config gives by path, in its order.
        syscall_filter: What its ``linux.seccomp`` says, compiled; None without one.
    """

    raises: ClassVar[tuple[str, ...]] = (
        "StartError",
        "SpecError",
        "ImageError",
        "UnsupportedError",
    )

    name: str
    rootfs: str
    config: Blob
    log_limit_bytes: int
    attach: Literal["", "output", "all"] = ""
    namespaces: Descriptors = ()
    syscall_filter: SyscallFilter | None = None


class Execute(Operation[None]):
    """Start the program of a container that is created."""

    raises: ClassVar[tuple[str, ...]] = ("StartError", "NotRunningError")

    container: str


class Restart(Operation[Started]):
    """Start the program of a container that has ended again, on the same files and addresses.

    Attributes:
        request, config: As for `Run`.
    """

    raises: ClassVar[tuple[str, ...]] = ("StartError", "SpecError", "ImageError", "NotRunningError")

    container: str
    request: StartRequest
    config: Blob
