"""What the supervisor does for test processes, by what it is about. Importing it registers all."""

from __future__ import annotations

from pytest_containers.runtime.supervisor.handlers import containers as containers
from pytest_containers.runtime.supervisor.handlers import keeping as keeping
from pytest_containers.runtime.supervisor.handlers import networks as networks
from pytest_containers.runtime.supervisor.handlers import processes as processes
from pytest_containers.runtime.supervisor.handlers import sharing as sharing
