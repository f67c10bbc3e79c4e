"""Chromium with its WebDriver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories, writing
from pytest_containers.services.service import Service
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import ServiceFixture


_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it makes namespaces, which containers may not
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
)


class Chromium(Service):
    """A headless Chromium browser with ChromeDriver, for Selenium's ``Remote`` and other clients.

    A session is a browser with a new profile; it needs no options of Chrome. Pages of other
    containers of the test have their internal addresses (``web.internal_dsn``), and those of the
    test process ``host.containers.internal`` (with ``host_ports=``). See `Service` for its options.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 4444
    programs: ClassVar[tuple[str, ...]] = ("chromedriver", "chromium")
    packages: ClassVar[str] = "chromium chromium-driver"
    configuration: ClassVar[tuple[str, ...]] = ("fonts",)
    scheme: ClassVar[str] = "http"
    port_options: ClassVar[tuple[str, ...]] = ("--port", "-port")
    clean: ClassVar[bool] = False  # it ends by its stop signal

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[ServiceFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of ChromeDriver, which starts a browser for each session."""
        # Without these, it refuses connections and requests from elsewhere.
        allowed = ["--allowed-ips=", "--allowed-origins=*"]
        ready = wait.http("/status", port=self.number)
        return self.spec(
            ["chromedriver", f"--port={self.number}", *allowed],
            ready,
            env={"HOME": "/root", **self.env},
            init=True,  # a browser leaves processes behind
        )

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that writes the flags of the browser, which the launcher reads."""
        flags = f'export CHROMIUM_FLAGS="$CHROMIUM_FLAGS {" ".join(_FLAGS)}"\n'
        return [
            directories(self.image, "/etc/chromium.d", script=writing("/etc/chromium.d/own", flags))
        ]
