"""What is known of a container: its facts, its end, its addresses."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from pytest_containers.engines.docker import listening
from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.core import DockerCore, DockerNetwork
from pytest_containers.model.arguments import check as check_arguments
from pytest_containers.model.command import program_words
from pytest_containers.model.errors import (
    ContainersError,
    NotRunningError,
    SpecError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.docker.images import DockerImage
    from pytest_containers.model.reports import ContainerReport
    from pytest_containers.model.results import Logs, Status
    from pytest_containers.model.spec import ContainerSpec

__tracebackhide__ = hide_frames

_ENDED = re.compile(r"is not (?:running|paused)|only kill running|state improper")
"""The words of Docker and of Podman for a container that has ended."""


class TrackedContainer:
    """A container whose state the events of its run tell; the base of `DockerContainer`."""

    def __init__(
        self,
        core: DockerCore,
        spec: ContainerSpec,
        image: DockerImage,
        name: str,
        network: DockerNetwork | None,
    ) -> None:
        self.core = core
        self.spec = spec
        self.image = image
        self.name = name
        self.network: DockerNetwork | None = network
        self.id: str = ""
        self.labels: Mapping[str, str] = {}
        self.streams: Sequence[int] = ()
        self._starting: Future[None] | None = None
        self._facts: Mapping[str, Any] = {}
        self._condition = threading.Condition()
        self._exit_code: int | None = None
        self._starts = 0
        self._removed = False
        self._last_logs: Logs | None = None
        self._table: listening.PortTable | None = None
        self._started_at = 0.0

    # ----------------------------------------------------------------- start

    def started(self) -> None:
        """Wait until its program runs."""
        pending = self._starting
        if pending is None:
            return
        try:
            pending.result()
        except BaseException:
            self._removed = True
            self._forget()
            raise
        finally:
            self._starting = None

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        """Take the answer of an inspection after a start."""
        self._facts, self._started_at = facts, time.time()
        self._table = None

    def join(self, facts: Mapping[str, Any]) -> None:
        """Become a container that another process has started."""
        self.id = facts["Id"]
        self._starts = 1
        self.take_facts(facts)
        self.core.containers[self] = None
        self.core.by_id[self.id] = self

    def _forget(self) -> None:
        self.core.containers.pop(self, None)
        self.core.by_id.pop(self.id, None)

    # ----------------------------------------------- what the events tell of it

    def note_start(self) -> int:
        """Count a start; return how many there were."""
        self._starts += 1
        return self._starts

    def note_end(self, code: int) -> None:
        """Note the end of its program."""
        with self._condition:
            self._exit_code = code
            self._condition.notify_all()

    def note_loss(self) -> None:
        """Wake those who wait: the daemon is gone."""
        with self._condition:
            self._condition.notify_all()

    def note_removal(self) -> None:
        """Note that the run has removed it."""
        self._removed = True
        self.note_loss()

    def ended_with(self) -> int | None:
        """Return the exit code if the container has ended, without asking the daemon."""
        self.core.check()
        return self._exit_code

    def pause_until_end(self, seconds: float) -> None:
        """Sleep; shorter if the container ends."""
        with self._condition:
            if self._exit_code is None:
                self._condition.wait(seconds)

    # ------------------------------------------------------------------ facts

    @property
    def command(self) -> Sequence[str]:
        """Entrypoint and arguments."""
        if not self._facts:
            return program_words(self.spec, self.image.config)
        return [self._facts["Path"], *self._facts["Args"]]

    @property
    def status(self) -> Status:
        """``running``, ``paused``, ``exited`` or ``removed``."""
        if self._removed:
            return "removed"
        state = self._inspect()["State"]
        status = state.get("Status") or ("running" if state["Running"] else "exited")
        statuses = {"dead": "exited", "removing": "removed", "restarting": "running"}
        statuses |= {"stopped": "exited", "stopping": "running"}  # of Podman
        return cast("Status", statuses.get(status, status))

    @property
    def exit_code(self) -> int | None:
        """Its exit code as a shell reports it; None while it runs."""
        if self._exit_code is None and not self._removed:
            state = self._inspect()["State"]
            if not state["Running"] and self._starts:
                self._exit_code = int(state["ExitCode"])
        return self._exit_code

    def _inspect(self) -> Mapping[str, Any]:
        return cast(
            "Mapping[str, Any]", self._call("state", lambda c: c.inspect_container(self.id))
        )

    def inspect(self) -> ContainerReport:
        """Return a report of the container as it is now."""
        from pytest_containers.model.reports import ContainerReport

        facts = self._inspect()
        keys = [(port.number, port.protocol) for port in self.spec.parsed_ports]
        return ContainerReport(
            id=self.id,
            name=self.name,
            image=self.image.name,
            image_id=self.image.id,
            command=tuple(self.command),
            status=self.status,
            exit_code=self.exit_code,
            pid=self.pid,
            ip=self.ip,
            ip6=self.ip6,
            network=self.network.id if self.network is not None else "",
            ports={key: self.address(*key) for key in keys},
            started_at=self._started_at,
            labels=dict(self.image.config.labels),
            oom_killed=bool(facts["State"].get("OOMKilled")),
        )

    @property
    def pid(self) -> int:
        """The process id of its program on the machine of the daemon."""
        return int(self._facts["State"]["Pid"])

    def _endpoint(self) -> Mapping[str, Any]:
        networks = self._facts["NetworkSettings"].get("Networks") or {}
        return networks.get(self.network.name) or {} if self.network is not None else {}

    @property
    def ip(self) -> str:
        """Its IPv4 address; empty without a network."""
        return str(self._endpoint().get("IPAddress") or "")

    @property
    def ip6(self) -> str:
        """Its IPv6 address; empty without a network."""
        return str(self._endpoint().get("GlobalIPv6Address") or "")

    @property
    def reachable(self) -> bool:
        """True if this process can connect to the address of the container."""
        return self.network is not None and self.network.direct and bool(self.ip)

    @property
    def host(self) -> str:
        """The host address to connect to: that of the container, or where ports are published."""
        return self.ip if self.reachable else self.core.place.host

    def port(self, number: int, protocol: str = "tcp") -> int:
        """Return the port at `host` for port `number` of the container."""
        return self.address(number, protocol)[1]

    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]:
        """Return the ``(host, port)`` of port `number` of the container."""
        check_arguments("address()", number=number, protocol=protocol)
        published = (self._facts["NetworkSettings"].get("Ports") or {}).get(f"{number}/{protocol}")
        if published:
            return (self.core.place.host, int(published[0]["HostPort"]))
        if self.reachable:
            return (self.ip, number)
        raise SpecError(
            f"port {number}/{protocol} of container {self.name!r} is not reachable from here: "
            f"list it, ports=[{number if protocol == 'tcp' else f'{number}/{protocol}'!r}]"
        )

    def connect(
        self, port: int, timeout_s: float | None = 10.0, *, protocol: str = "tcp"
    ) -> socket.socket:
        """Connect to a port in the container and return the socket, without a proxy."""
        check_arguments("connect()", port=port, protocol=protocol, timeout_s=timeout_s)
        self._live()
        doing = f"connection to port {port}/{protocol} of container {self.name!r}"
        table = self.port_table.read()
        if table is not None and not table.get((port, protocol)):
            raise ContainersError(f"{doing}: nothing listens on it")
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        address = self.address(port, protocol)
        sock = socket.socket(socket.AF_INET, kind)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            words = error.strerror or str(error)
            raise ContainersError(f"{doing}: {words.lower()}", errno=error.errno) from error
        return sock

    @property
    def port_table(self) -> listening.PortTable:
        """Its listening sockets."""
        if self._table is None:
            self._table = listening.PortTable(self.core, self.id, self.name, self.pid)
        return self._table

    # ----------------------------------------------------------------- helpers

    def _live(self) -> None:
        if self._removed:
            raise NotRunningError(f"container {self.name!r} was removed")
        self.core.check()

    def _call(self, doing: str, function: Any) -> Any:
        self._live()
        try:
            return self.core.api.call(f"{doing} of container {self.name!r}", function)
        except DaemonRefusal as error:
            if error.status == 404 or _ENDED.search(error.explanation):
                raise NotRunningError(error.message, exit_code=self._exit_code) from None
            raise
