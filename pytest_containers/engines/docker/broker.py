"""A run that several test processes share: the controller of pytest-xdist and its workers.

Everything in the daemon has the label of the run, so its name is all that a worker needs. The
watcher of the controller removes what its workers leave.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from pytest_containers.engines.docker import labels
from pytest_containers.engines.docker.api import DockerApi
from pytest_containers.engines.docker.endpoint import find_endpoint
from pytest_containers.engines.docker.reaper import Reaper
from pytest_containers.model.errors import ContainersError
from pytest_containers.model.home import default_home

PREFIX = "docker:"


class DockerBroker:
    """The side of the controller.

    Args:
        home: The directory for locks; None is the default.
    """

    def __init__(self, home: str | None = None) -> None:
        self._run = secrets.token_hex(8)
        self._folder = Path(home or default_home()) / "docker-runs" / self._run
        self.address: str = f"{PREFIX}{self._run}"
        self._reaper: Reaper | None = None
        with suppress(ContainersError):  # a worker tells of it when it needs a container
            api = DockerApi(find_endpoint())
            self._reaper = Reaper(api.endpoint, api.version, [f"{labels.RUN}={self._run}"])
            api.close()

    def close(self) -> None:
        """Remove what workers have left; idempotent."""
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            reaper.finish()
        shutil.rmtree(self._folder, ignore_errors=True)
