"""OCI bundles, and the runtimes that are compared with."""

from __future__ import annotations

import copy
import json
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.layouts import busybox

PROGRAMS = (
    "cat", "chmod", "env", "grep", "id", "ls", "mkdir", "mount", "sleep", "stat", "stty", "true",
)  # fmt: skip

WITH_CGROUP2 = [
    "unshare", "--mount", "sh", "-c",
    "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"", "sh",
]  # fmt: skip
"""How crun is started: it takes no cgroups of version 1."""


def write_root(path: Path) -> Path:
    """Write a root file system with a shell and `PROGRAMS`."""
    for name, _, contents in busybox(*PROGRAMS):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents)
        file.chmod(0o755)
    for name in ("etc", "tmp"):
        (path / name).mkdir(exist_ok=True)
    return path


def example_config(path: Path) -> dict[str, Any]:
    """Return the config that `runc spec` writes."""
    path.mkdir(exist_ok=True)
    subprocess.run(["runc", "spec"], cwd=path, check=True)
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    return config


def changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a config with other values at dotted paths."""
    result = copy.deepcopy(dict(config))
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return result


class Bundle:
    """A directory with a config and the name of a root file system."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(config))

    def run(self, runtime: str) -> tuple[int, str]:
        """Run the bundle with `runc` or `crun`; return the exit code and all output."""
        start = (
            [*WITH_CGROUP2, "crun", "--cgroup-manager=disabled"] if runtime == "crun" else ["runc"]
        )
        command = [*start, "--root", str(self.path / f"state-{runtime}"), "run",
                   "--bundle", str(self.path), f"test-{uuid.uuid4().hex}"]  # fmt: skip
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
