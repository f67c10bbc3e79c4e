"""Jobs of builds (see `wire.operations.job`)."""

from typing import Any

from pytest_containers.runtime.wire.operations.job import Job

_HERE = "pytest_containers.builder.jobs"

WRITE: Job[Any, Any] = Job(f"{_HERE}.write", "write_layer", dict, dict)
TAKE: Job[Any, Any] = Job(f"{_HERE}.copy_from_image", "write_layer", dict, dict)
