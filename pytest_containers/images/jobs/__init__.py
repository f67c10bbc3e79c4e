"""Jobs of the image store (see `wire.operations.job`)."""

from typing import Any

from pytest_containers.runtime.wire.operations.job import Job

_HERE = "pytest_containers.images.jobs"

UNPACK: Job[Any, Any] = Job(f"{_HERE}.unpack", "unpack_layer", dict, dict)
PARENTS: Job[Any, Any] = Job(f"{_HERE}.parents", "make_parents", dict, dict)
COMPARE: Job[Any, Any] = Job(f"{_HERE}.compare", "compare_trees", dict, dict)
SETTLE: Job[Any, Any] = Job(f"{_HERE}.unpack", "settle", dict, dict)
REMOVE: Job[Any, Any] = Job(f"{_HERE}.unpack", "remove_tree", dict, dict)
PACK: Job[Any, Any] = Job(f"{_HERE}.pack", "pack_upper", dict, dict)
FREEZE: Job[Any, Any] = Job(f"{_HERE}.freeze", "freeze_upper", dict, dict)
