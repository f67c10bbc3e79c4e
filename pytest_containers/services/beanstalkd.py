"""Beanstalkd, a work queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


_DATA = "/var/lib/own-beanstalkd"


class Beanstalkd(Service):
    """A beanstalkd work queue, whose jobs are in a log on disk; see `Service` for its options."""

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 11300
    programs: ClassVar[tuple[str, ...]] = ("beanstalkd",)
    packages: ClassVar[str] = "beanstalkd"
    scheme: ClassVar[str] = "beanstalk"
    port_options: ClassVar[tuple[str, ...]] = ("-p",)
    fast: ClassVar[tuple[str, ...]] = ("-F",)
    clean: ClassVar[bool] = False

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server, which reads the jobs of its log when it starts."""
        arguments = ["-l", "::", "-p", str(self.number), "-b", _DATA]
        arguments += [] if self.durable else self.fast
        ready = wait.tcp(self.number, b"stats\r\n", b"OK ")
        # As PID 1 it catches SIGTERM and goes on. Each job is in the log before the answer.
        return self.spec(["beanstalkd", *arguments], ready, env=self.env, stop_signal="KILL")

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the directory of the log."""
        return [directories(self.image, _DATA)]

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["beanstalkd", "-v"]
