"""The image that everybody pulls: about 465 MB in 13 to 14 thousand files, in five layers."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from benchmarks.machine import field
from pytest_containers.images.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    architecture,
)

_WANTED_BYTES, _WANTED_FILES = 465_000_000, 13_700
_SHARES = (0.45, 0.25, 0.15, 0.10, 0.05)
_PACKAGES = "python3,postgresql,git"


def layout(cache: Path) -> Path:
    """An OCI layout with the image; made once by mmdebstrap and kept in `cache`.

    Raises:
        RuntimeError: mmdebstrap is missing or failed.
    """
    target = cache / "pull-image"
    if (target / "index.json").exists():
        return target
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("the benchmarks need mmdebstrap: apt install mmdebstrap")
    cache.mkdir(parents=True, exist_ok=True)
    work = cache / f"pull-image-{os.getpid()}"
    (work / "blobs" / "sha256").mkdir(parents=True)
    tar = work / "root.tar"
    suite = field("/etc/os-release", "VERSION_CODENAME", "=")
    options = ["--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
    subprocess.run(["mmdebstrap", *options, suite, tar], check=True)
    _write(tar, work)
    tar.unlink()
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
    return target


def _write(tar: Path, work: Path) -> None:
    layers, diff_ids = [], []
    with tarfile.open(tar) as source:
        for members in _split(source.getmembers()):
            path = work / "layer.tar"
            with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
                for member in members:
                    made.addfile(member, source.extractfile(member) if member.isreg() else None)
            data = path.read_bytes()
            path.unlink()
            diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
            layers.append(_blob(work, gzip.compress(data, 6, mtime=0), f"{OCI_LAYER}+gzip"))
    config = {
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": _blob(work, json.dumps(config).encode(), OCI_CONFIG), "layers": layers,
    }  # fmt: skip
    entry = _blob(work, json.dumps(manifest).encode(), OCI_MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    (work / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (work / "index.json").write_text(json.dumps(index))


def _split(members: list[tarfile.TarInfo]) -> list[list[tarfile.TarInfo]]:
    """Layers in the order of the archive, and all of its hard links with what they link to."""
    linked = {one.linkname for one in members if one.islnk()}
    plain = [one for one in members if one.isreg() and one.name not in linked]
    bytes_over = sum(one.size for one in members) - _WANTED_BYTES
    dropped = set()
    for one in sorted(plain, key=lambda member: -member.size):
        if one.size <= bytes_over:
            dropped.add(one.name)
            bytes_over -= one.size
    texts = [one for one in plain if "/share/" in one.name and one.name not in dropped]
    files_over = len(members) - len(dropped) - _WANTED_FILES
    texts.sort(key=lambda member: member.size)
    dropped |= {one.name for one in texts[: max(0, files_over)]}
    kept = [one for one in members if one.name not in dropped]
    total = sum(member.size for member in kept)
    layers: list[list[tarfile.TarInfo]] = [[] for _ in _SHARES]
    bounds = [sum(_SHARES[: index + 1]) * total for index in range(len(_SHARES))]
    at = 0
    where: dict[str, int] = {}
    for member in kept:
        number = next((n for n, bound in enumerate(bounds) if at <= bound), len(bounds) - 1)
        number = where.get(member.linkname, number) if member.islnk() else number
        where[member.name] = number
        layers[number].append(member)
        at += member.size
    return layers


def _blob(work: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (work / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
