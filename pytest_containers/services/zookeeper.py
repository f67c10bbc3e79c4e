"""Apache ZooKeeper."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.errors import UnsupportedError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


__tracebackhide__ = hide_frames

_DATA, _FOLDER = "/var/lib/own-zookeeper", "/etc/own-zookeeper"
_CONFIG = f"""
clientPort=2181
dataDir={_DATA}
tickTime=200
admin.enableServer=false
4lw.commands.whitelist=*
"""
# The part of a JVM's start that is for long runs is left out.
_JVM = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
# The package of ZooKeeper logs nothing without the second.
_JARS = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar"


class ZooKeeper(Service):
    """A ZooKeeper server; see `Service` for its options.

    It is a Java program, whose start takes seconds. Clients have sessions of 0.4 to 4 s.
    """

    reference: ClassVar[str] = "zookeeper:3.8"
    number: ClassVar[int] = 2181
    programs: ClassVar[tuple[str, ...]] = ("java",)
    packages: ClassVar[str] = "zookeeper"
    configuration: ClassVar[tuple[str, ...]] = tuple(
        f"java-{version}-openjdk" for version in (11, 17, 21, 25)
    )
    scheme: ClassVar[str] = "zookeeper"
    fast: ClassVar[tuple[str, ...]] = ("-Dzookeeper.forceSync=no",)

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def source(self) -> str | Image:
        """Return the image, or the reference of the image to fetch.

        Raises:
            UnsupportedError: This machine lacks the package that ``host:`` needs.
        """
        source = super().source()
        jar = _JARS.partition(":")[0]
        if isinstance(source, str) and source.startswith("host:") and not os.path.exists(jar):
            raise UnsupportedError(
                f"ZooKeeper of host: needs {jar} on this machine: apt install {self.packages}, or "
                "name an image",
                missing=[jar],
            )
        return source

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        flags = [*_JVM, *([] if self.durable else self.fast)]
        if self.is_packaged(image):
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            command = ["java", *flags, "-cp", _JARS, main, f"{_FOLDER}/zoo.cfg"]
            env = self.env
        else:
            command = ["zkServer.sh", "start-foreground", f"{_FOLDER}/zoo.cfg"]
            env = {"SERVER_JVMFLAGS": " ".join(flags), **self.env}
        return self.spec(command, wait.tcp(self.number, b"srvr", b"Mode: "), env=env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the configuration."""
        script = writing(f"{_FOLDER}/zoo.cfg", _CONFIG)
        return [directories(self.image, _DATA, _FOLDER, script=script)]

    def command(self, word: str) -> str:
        """Send a four-letter command and return the answer: ``"srvr"``, ``"mntr"``, ``"dump"``."""
        with self.container.connect(self.number) as sock:
            sock.sendall(word.encode())
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["sh", "-c", "java -version 2>&1 | head -n 1"]
