"""Archives out of choices: layers that try to get out, and images that lie about themselves."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

from pytest_containers.images.manifest import architecture

from .choices import Choices, mutated

_KINDS = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
    tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, b"S", b"x", b"g", b"L", b"K", b"M", b"\0",
)  # fmt: skip
_LEAVES = (
    "a",
    "b",
    "link",
    "d",
    "d/e",
    "link/x",
    ".wh.a",
    ".wh..wh..opq",
    ".wh.",
    ".wh...",
    "x" * 200,
)
_WAYS = ("", "./", "/", "../", "d/../", "../../", "a/../../", "link/../", "//", "d/e/../../../")


def _name(choices: Choices, outside: str) -> str:
    kind = choices.byte() % 8
    if kind < 5:
        return choices.of(_WAYS) + choices.of(_LEAVES)
    if kind == 5:
        return choices.of(
            (
                outside,
                f"{outside}/victim",
                "../../outside/victim",
                f"../{outside}/new",
                "/proc/self/root" + outside,
                "/proc/self/cwd/x",
            )
        )
    return choices.text("a", "d").replace("\ud800", "")


def layer(choices: Choices, outside: str) -> bytes:
    """A layer's tar.

    Args:
        outside: A path of the host that its links and names lead to.
    """
    buffer = io.BytesIO()
    format = choices.of((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=format, errors="surrogateescape") as tar:
        for _ in range(1 + choices.number(7)):
            info = tarfile.TarInfo(_name(choices, outside) or "a")
            info.type = choices.of(_KINDS[:8]) if choices.often() else choices.of(_KINDS)
            info.linkname = _name(choices, outside)
            info.mode = choices.of((0o644, 0o755, 0o4755, 0o2777, 0, 0o7777))
            info.uid = choices.of((0, 0, 0, 1000, 65536, (1 << 32) - 1, 1 << 32, -1))
            info.mtime = choices.of((0, 1, -1, 1 << 33, 1 << 40, 1 << 62, 0.5))
            info.devmajor, info.devminor = choices.of(((0, 0), (1, 3), (8, 0), (4095, 1)))
            if choices.rarely():
                info.pax_headers = {
                    choices.text(*_RECORDS): choices.text("1", outside, "0,1", "d/../../x")
                    for _ in range(2)
                }
            data = choices.raw(20) if info.isreg() else b""
            info.size = len(data)
            try:
                tar.addfile(info, io.BytesIO(data))
            except (ValueError, OverflowError, UnicodeError):
                continue  # no archive can say so
    data = bytearray(buffer.getvalue())
    if choices.rarely():
        for _ in range(choices.number(6)):
            data[choices.number(len(data))] = choices.byte()
    if choices.rarely():
        del data[choices.number(len(data)) :]
    compress = (
        choices.of((bytes, bytes, gzip.compress, bz2.compress)) if choices.rarely() else bytes
    )
    return compress(bytes(data))


_RECORDS = (
    "path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.xattr.user.a", "SCHILY.xattr.trusted.overlay.opaque",
    "SCHILY.xattr.security.capability", "SCHILY.xattr.user.overlay.redirect", "GNU.sparse.major",
    "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.offset",
    "GNU.sparse.numbytes", "hdrcharset",
)  # fmt: skip


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


CONFIG: dict[str, Any] = {
    "architecture": architecture(), "os": "linux", "variant": "",
    "config": {
        "Env": ["PATH=/bin", "A=b"], "Cmd": ["/bin/sh"], "Entrypoint": ["/x"], "User": "1:2",
        "WorkingDir": "/w", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}},
        "StopSignal": "TERM", "Labels": {"a": "b"}, "Shell": ["/bin/sh", "-c"],
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 10**9, "Timeout": 1, "StartPeriod": 1, "Retries": 3},
    },
    "rootfs": {"type": "layers", "diff_ids": [_digest(b"layer")]},
}  # fmt: skip


def manifest(config: bytes, layers: list[bytes]) -> dict[str, Any]:
    oci = "application/vnd.oci.image"
    return {
        "schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json",
        "config": _descriptor(config, f"{oci}.config.v1+json"),
        "layers": [_descriptor(data, f"{oci}.layer.v1.tar") for data in layers],
        "annotations": {"a": "b"},
    }  # fmt: skip


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def index(manifest: bytes, nested: bool = False) -> dict[str, Any]:
    oci = "application/vnd.oci.image"
    kind = f"{oci}.{'index' if nested else 'manifest'}.v1+json"
    entry = {
        **_descriptor(manifest, kind), "urls": ["https://x"],
        "platform": {"os": "linux", "architecture": architecture(), "variant": ""},
        "annotations": {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "a:1"},
    }  # fmt: skip
    return {"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": [entry]}


def dumped(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def image(choices: Choices, kind: str) -> bytes:
    """An archive of an image, some documents of which are changed; their digests fit."""
    layer_data = b"layer"
    config = dumped(mutated(choices, CONFIG))
    files: dict[str, bytes] = {}
    if kind == "docker-archive":
        entry = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}
        files = {
            "c.json": config,
            "l.tar": layer_data,
            "manifest.json": dumped(mutated(choices, [entry])),
        }
    else:
        body = dumped(mutated(choices, manifest(config, [layer_data])))
        blobs = [layer_data, config, body]
        top = mutated(choices, index(body))
        if choices.rarely():
            blobs.append(dumped(top))
            top = mutated(choices, index(blobs[-1], nested=True))
        files = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in blobs}
        files["index.json"] = dumped(top)
    if choices.rarely():
        del files[choices.of(list(files))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if choices.rarely():
                info.type, info.linkname = (
                    choices.of((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"S")),
                    choices.of((name, "../x", *files)),
                )
            tar.addfile(info, io.BytesIO(data))
    archive = bytearray(buffer.getvalue())
    if choices.rarely():
        for _ in range(choices.number(6)):
            archive[choices.number(len(archive))] = choices.byte()
    return bytes(archive)
