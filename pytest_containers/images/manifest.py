"""Manifests, indexes and configs (image-spec 1.1, and Docker's, which differ in names only)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pytest_containers.errors import ImageError
from pytest_containers.images.image import HealthCheck, ImageConfig
from pytest_containers.images.reference import check_digest

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT_BYTES = 4 << 20
_MAX_LAYERS = 500
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NANO = 1_000_000_000


class Descriptor(NamedTuple):
    """What a document says of another (image-spec descriptor.md)."""

    media_type: str
    digest: str
    size_bytes: int
    platform: tuple[str, str]
    names: tuple[str, ...]


def architecture() -> str:
    """This machine as image configs call it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ImageError: It is none.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ImageError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ImageError(f"{what} is not a JSON object")
    return found


def descriptor(raw: Any, what: str) -> Descriptor:
    """Check a descriptor."""
    if not isinstance(raw, dict) or not isinstance(raw.get("size"), int) or raw["size"] < 0:
        raise ImageError(f"{what}: a descriptor lacks a size")
    where = raw.get("platform") or {}
    annotations = raw.get("annotations") or {}
    names = [
        annotations[key] for key in (REF_NAME, "io.containerd.image.name") if key in annotations
    ]
    return Descriptor(
        str(raw.get("mediaType", "")), check_digest(raw.get("digest")), raw["size"],
        (str(where.get("os", "")), str(where.get("architecture", ""))), tuple(names),
    )  # fmt: skip


def choose(candidates: Sequence[Descriptor], what: str) -> Descriptor:
    """Of an index's manifests the one for this machine.

    Raises:
        ImageError: There is none; it says which there are.
    """
    images = [one for one in candidates if one.platform != ("unknown", "unknown")]
    for one in images:
        if one.platform in (("linux", architecture()), ("", "")):
            return one
    offered = ", ".join("/".join(one.platform) for one in images) or "nothing"
    raise ImageError(
        f"{what} is for {offered}; this machine is linux/{architecture()}. Use an image for it"
    )


def layers_of(manifest: Mapping[str, Any], what: str) -> tuple[Descriptor, list[Descriptor]]:
    """Config and layers of a manifest."""
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise ImageError(f"{what}: its manifest has no layers, or more than {_MAX_LAYERS}")
    return descriptor(manifest.get("config"), what), [descriptor(one, what) for one in layers]


def diff_ids_of(config: Mapping[str, Any], what: str) -> list[str]:
    """The diffIDs of a config."""
    rootfs = config.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list):
        raise ImageError(f"{what}: its config has no rootfs.diff_ids")
    return [check_digest(one) for one in ids]


def parse_config(config: Mapping[str, Any], what: str) -> ImageConfig:
    """What a config says about running the image.

    Raises:
        ImageError: It is for another machine, or malformed.
    """
    made_for = str(config.get("architecture") or "")
    if (made_for and made_for != architecture()) or config.get("os") not in (None, "", "linux"):
        raise ImageError(
            f"{what} is for {config.get('os') or 'linux'}/{made_for}; this machine is "
            f"linux/{architecture()}. Use an image for it",
            architecture=made_for,
        )
    run = config.get("config") or {}
    if not isinstance(run, dict):
        raise ImageError(f"{what}: its config is malformed")
    env = dict(item.partition("=")[::2] for item in run.get("Env") or ())
    return ImageConfig(
        entrypoint=_words(run.get("Entrypoint")),
        cmd=_words(run.get("Cmd")),
        env=env,
        user=str(run.get("User") or ""),
        workdir=str(run.get("WorkingDir") or ""),
        exposed_ports=tuple(run.get("ExposedPorts") or ()),
        volumes=tuple(run.get("Volumes") or ()),
        stop_signal=run.get("StopSignal") or None,
        labels=dict(run.get("Labels") or {}),
        architecture=made_for,
        os=str(config.get("os") or "linux"),
        variant=str(config.get("variant") or ""),
        healthcheck=_health(run.get("Healthcheck")),
        shell=_words(run.get("Shell")) or ("/bin/sh", "-c"),
    )


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):  # old images have a line for the shell
        return ("/bin/sh", "-c", value)
    return tuple(str(word) for word in value or ())


def _health(raw: Any) -> HealthCheck | None:
    if not isinstance(raw, dict) or not raw.get("Test"):
        return None
    return HealthCheck(
        tuple(str(word) for word in raw["Test"]),
        (raw.get("Interval") or 0) / _NANO,
        (raw.get("Timeout") or 0) / _NANO,
        (raw.get("StartPeriod") or 0) / _NANO,
        raw.get("Retries") or 0,
    )
