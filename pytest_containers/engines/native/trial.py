"""What a test would do, tried on this machine for `pytest-containers doctor`."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_containers.engines.native.engine import Engine
from pytest_containers.model.errors import ContainersError
from pytest_containers.model.home import default_home
from pytest_containers.model.machine import MachineFeature
from pytest_containers.model.sizes import format_size

_FICLONE = 0x40049409
_LIMITS: dict[str, dict[str, Any]] = {
    "memory": {"mem_limit": "64m"},
    "processors": {"cpus": 1},
    "processes": {"pids_limit": 64},
}
_TIMEOUT_S = 30


def try_machine(home: str | None, identity: str) -> list[MachineFeature]:
    """Run containers as tests would, with the same store and the programs of this machine.

    Args:
        home: The directory of the image store; None is the default.
        identity: The user mapping; see `Engine`.
    """
    try:
        with Engine(home=home, identity=identity) as engine:
            code = _end_of(engine, {})
            ran = MachineFeature(
                "a container", code == 0, True, f"`true` ended with exit code {code}"
            )
            return [ran, _limits(engine), _snapshots(engine), _disk(home)]
    except ContainersError as error:
        return [MachineFeature("a container", False, True, str(error))]


def _end_of(engine: Engine, options: Mapping[str, Any]) -> int:
    with engine.run("host:", ["true"], wait_ready=False, **options) as container:
        return container.wait(_TIMEOUT_S)


def _limits(engine: Engine) -> MachineFeature:
    applied, reasons = [], []
    for name, options in _LIMITS.items():
        try:
            _end_of(engine, options)
        except ContainersError as error:
            reasons.append(str(error).partition(": ")[2])
        else:
            applied.append(name)
    if not reasons:
        return MachineFeature("limits", True, False, f"of {', '.join(applied)}: applied")
    given = f"of {', '.join(applied)} only; " if applied else ""
    return MachineFeature(
        "limits", False, False, given + reasons[0],
        fallback="a container with such a limit is an error",
    )  # fmt: skip


def _snapshots(engine: Engine) -> MachineFeature:
    """Use a layer that is in the store, as seeded services do."""
    try:
        with engine.run("host:", ["touch", "/tmp/x"], wait_ready=False) as container:
            container.wait(_TIMEOUT_S)
            image = container.snapshot()
        with engine.run(image, ["test", "-e", "/tmp/x"], wait_ready=False) as container:
            kept = container.wait(_TIMEOUT_S) == 0
    except (ContainersError, OSError) as error:
        return MachineFeature("snapshots", False, True, str(error))
    try:
        with engine.run("host:", ["rmdir", "/home"], wait_ready=False) as container:
            container.wait(_TIMEOUT_S)
            container.snapshot()
    except ContainersError as error:
        return MachineFeature(
            "snapshots", False, False, str(error),
            fallback="images and snapshots in which no file was removed",
        )  # fmt: skip
    detail = "a layer of the store is a part of a container" if kept else "a snapshot lacks a file"
    return MachineFeature("snapshots", kept, True, detail)


def _disk(home: str | None) -> MachineFeature:
    folder = Path(home or default_home())
    free = format_size(shutil.disk_usage(folder).free)
    clones = _has_reflinks(folder)
    return MachineFeature(
        "disk",
        True,
        False,
        f"{free} free in {folder}; files are {'cloned' if clones else 'copied, not cloned'}",
    )


def _has_reflinks(folder: Path) -> bool:
    """Return True if the file system of a directory shares blocks of equal files."""
    try:
        with (
            tempfile.NamedTemporaryFile(dir=folder) as source,
            tempfile.NamedTemporaryFile(dir=folder) as target,
        ):
            source.write(bytes(os.sysconf("SC_PAGE_SIZE")))
            source.flush()
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True
