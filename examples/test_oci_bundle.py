"""A suite that drives OCI bundles: create, start, exec, kill, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc


@pytest.fixture(scope="module")
def engine() -> Iterator[pc.Engine]:
    with pc.Engine() as engine:
        yield engine


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """An empty root, with links to what a bind mount shows."""
    root = tmp_path / "rootfs"
    root.mkdir()
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    return root


@pytest.fixture
def config() -> dict[str, Any]:
    kinds = ("pid", "network", "mount", "ipc", "uts", "cgroup")
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": ["sleep", "1000"],
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/usr",
                "type": "bind",
                "source": "/usr",
                "options": ["rbind", "rro", "rnosuid"],
            },
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }


def test_the_life_of_a_bundle(engine: pc.Engine, config: dict[str, Any], rootfs: Path) -> None:
    with engine.run_oci(config, rootfs, container_id="life", start=False) as container:
        assert container.state().status == "created"
        container.start()
        assert container.state().status == "running"
        result = container.exec(["cat", "/proc/self/comm"], text=True)
        assert result.stdout == "cat\n"
        container.kill("KILL")
        assert container.wait(timeout_s=10) == 137
        assert container.state().status == "stopped"


def test_what_is_not_supported_is_named(
    engine: pc.Engine, config: dict[str, Any], rootfs: Path
) -> None:
    config["linux"]["intelRdt"] = {"closID": "fast"}
    with pytest.raises(pc.SpecError, match=r"linux\.intelRdt is not supported") as caught:
        engine.run_oci(config, rootfs)
    assert caught.value.field == "linux.intelRdt"
