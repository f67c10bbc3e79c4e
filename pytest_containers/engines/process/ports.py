"""The ports of a container, as its handle gives them to tests."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_containers.engines.process.listening import ports_at
from pytest_containers.engines.process.low_ports import real_port
from pytest_containers.model.arguments import LIMIT, check, require
from pytest_containers.model.errors import (
    ContainersError,
    ExitedError,
    SpecError,
    WaitTimeoutError,
    hide_frames,
)

if TYPE_CHECKING:
    from pytest_containers.engines.forwarding import ThreadLead
    from pytest_containers.engines.process.run import BoxProgram

__tracebackhide__ = hide_frames

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.01


class ContainerPorts(ABC):
    """The part of a container that others connect to.

    Attributes:
        name: See the contract.
        ip: Its address; empty without a network.
    """

    name: str
    ip: str
    _leads: dict[tuple[int, str], ThreadLead]

    @abstractmethod
    def _live(self) -> None:
        """Raise if the container was removed."""

    @abstractmethod
    def _running_program(self) -> BoxProgram:
        """Return its program."""

    @property
    def reachable(self) -> bool:
        """True with a network: its address is one of this machine, and its ports are real."""
        return bool(self.ip) and real_port(1) == 1

    @property
    def host(self) -> str:
        """Its address."""
        return self.ip or "127.0.0.1"

    def port(self, number: int, protocol: str = "tcp") -> int:
        """Return the port at `host`: the same number, if this user may listen on it."""
        return self.address(number, protocol)[1]

    def address(self, number: int, protocol: str = "tcp") -> tuple[str, int]:
        """Return the ``(host, port)`` of port `number` of the container."""
        check("address()", number=number, protocol=protocol)
        if not self.ip:
            raise SpecError(f"port {number}/{protocol} of {self.name!r}: it has no network")
        lead = self._leads.get((number, protocol))
        if lead is not None:
            return "127.0.0.1", lead.number
        return self.ip, real_port(number)

    def connect(
        self, port: int, timeout_s: float | None = 10.0, *, protocol: str = "tcp"
    ) -> socket.socket:
        """Connect to a port in the container."""
        check("connect()", port=port, protocol=protocol, timeout_s=timeout_s)
        self._live()
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
        try:
            sock.settimeout(timeout_s)
            sock.connect((self.ip, real_port(port)))
            sock.settimeout(None)
        except OSError as error:
            sock.close()
            raise ContainersError(
                f"connect to port {port}/{protocol} of container {self.name!r}: {error.strerror}",
                errno=error.errno,
            ) from error
        return sock

    def wait_listening(self, ports: Sequence[tuple[int, str]], timeout_s: float) -> None:
        """Wait until each ``(number, protocol)`` has a listening socket in the container."""
        check("wait_listening()", ports=ports)
        require("wait_listening()", "timeout_s", timeout_s, LIMIT)
        program = self._running_program()
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while True:
            open_ports = {
                (number, protocol)
                for protocol in {protocol for _, protocol in ports}
                for number in ports_at(self.ip or "0.0.0.0", protocol)
            }
            missing = [port for port in ports if (real_port(port[0]), port[1]) not in open_ports]
            if not missing:
                return
            if program.ended.wait(min(pause_s, max(deadline - time.monotonic(), 0))):
                raise ExitedError(
                    f"container {self.name!r} ended with exit code {program.code} before it "
                    "listened",
                    exit_code=program.code,
                )
            if time.monotonic() >= deadline:
                wanted = ", ".join(f"{number}/{protocol}" for number, protocol in missing)
                raise WaitTimeoutError(
                    f"container {self.name!r}: nothing listens on {wanted} after {timeout_s:g} s",
                    missing=missing,
                    timeout_s=timeout_s,
                )
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
