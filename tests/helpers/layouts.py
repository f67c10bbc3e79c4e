"""Images made by the tests: layers of given members, and OCI layouts of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest_containers as pc
from pytest_containers.images.manifest import architecture

Member = tuple[str, dict[str, Any], bytes]


def member(name: str, data: bytes = b"", **facts: Any) -> Member:
    return name, facts, data


def layer(members: Iterable[Member]) -> bytes:
    """A layer's tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, facts, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in {"mode": 0o755, **facts}.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


@lru_cache(maxsize=64)
def gzipped(data: bytes) -> bytes:
    """Equal for equal data; fast, since most tests compress a shell and its libraries."""
    return gzip.compress(data, 1, mtime=0)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """Writes an OCI layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, kind: str = "") -> dict[str, Any]:
        (self.path / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(
        self, layers: list[bytes], config: dict[str, Any] | None = None, arch: str = "",
        compress: Callable[[bytes], bytes] = gzipped, diff_ids: list[str] | None = None,
    ) -> str:  # fmt: skip
        document = {
            "architecture": arch or architecture(), "os": "linux", "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(one) for one in layers]},
        }  # fmt: skip
        kind = "application/vnd.oci.image.manifest.v1+json"
        oci = "application/vnd.oci.image"
        layer_kind = f"{oci}.layer.v1.tar+gzip" if compress is gzipped else f"{oci}.layer.v1.tar"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": self.blob(json.dumps(document).encode(), f"{oci}.config.v1+json"),
            "layers": [self.blob(compress(one), layer_kind) for one in layers],
        }
        entry = self.blob(json.dumps(manifest).encode(), kind)
        entry["platform"] = {"os": "linux", "architecture": arch or architecture()}
        entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
        (self.path / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": [entry]})
        )
        return f"oci:{self.path}"


def busybox(*programs: str) -> list[Member]:
    """A root that can run something: programs of this machine, the shell, and their libraries."""
    return list(_busybox(*programs))


@cache
def _busybox(*programs: str) -> tuple[Member, ...]:
    found = {"bin/sh": os.path.realpath("/bin/sh")}
    for program in programs:
        found[f"bin/{program}"] = os.path.realpath(shutil.which(program) or program)
    for path in list(found.values()):
        lines = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for word in lines.split():
            if word.startswith("/"):
                found[word.lstrip("/")] = os.path.realpath(word)
    return tuple(member(name, Path(path).read_bytes()) for name, path in found.items())


def output(engine: pc.Engine, image: str | pc.Image, script: str, **options: Any) -> str:
    with engine.run(image, ["/bin/sh", "-c", script], wait_ready=False, **options) as container:
        container.wait(10)
        return str(container.logs())
