"""Manifests, indexes and configs (image-spec 1.1, and Docker's, which differ in names only)."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pytest_containers.errors import ImageError
from pytest_containers.images.image import HealthCheck, ImageConfig
from pytest_containers.images.reference import check_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
INDEX_TYPES = (OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
LAYER_TYPES = frozenset(
    (
        *(f"{OCI_LAYER}{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(
            f"application/vnd.oci.image.layer.nondistributable.v1.tar{suffix}"
            for suffix in ("", "+gzip", "+zstd")
        ),
        *(f"{DOCKER_LAYER}{suffix}" for suffix in ("", ".gzip", ".zstd")),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    )
)
REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT_BYTES = 4 << 20
_MAX_LAYERS = 500
_MAX_NESTED = 4
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}
# Best first. What a newer variant was compiled for, an older processor cannot run.
_VARIANTS = {
    "amd64": ("", "v1"), "arm64": ("v8", ""), "armv7l": ("v7", "v6", "v5", ""),
    "armv6l": ("v6", "v5", ""),
}  # fmt: skip
_ATTESTATION = "vnd.docker.reference.type"
_NANO = 1_000_000_000


class Platform(NamedTuple):
    """What an image is for (image-spec image-index.md)."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Descriptor(NamedTuple):
    """What a document says of another (image-spec descriptor.md).

    Attributes:
        platform: Empty where the document does not say.
        names: What it is called, in an index that names images.
        urls: Where else it may be had.
        attestation: Whether it is about an image rather than one.
    """

    media_type: str
    digest: str
    size_bytes: int
    platform: Platform = Platform()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    attestation: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """As documents have it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


class Manifest(NamedTuple):
    """An image's manifest, and the document as it was.

    Attributes:
        media_type: As the image's owner wrote it.
        digest: Of `data`.
    """

    media_type: str
    digest: str
    data: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]


def architecture() -> str:
    """This machine as image configs call it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def variants() -> tuple[str, ...]:
    """What of its architecture this machine runs, best first."""
    return _VARIANTS.get(platform.machine()) or _VARIANTS.get(architecture()) or ("",)


def document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ImageError: It is none, or too large.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ImageError(f"{what} has {len(data)} bytes; more than 4 MiB is refused")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ImageError(f"{what} is not a JSON object")
    return found


def descriptor(raw: Any, what: str) -> Descriptor:
    """Check a descriptor."""
    size = raw.get("size") if isinstance(raw, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{what}: a descriptor lacks a size")
    where = raw.get("platform")
    where = where if isinstance(where, dict) else {}
    annotations = raw.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    names = [
        annotations[key] for key in (REF_NAME, "io.containerd.image.name") if key in annotations
    ]
    return Descriptor(
        str(raw.get("mediaType", "")), check_digest(raw.get("digest")), size,
        Platform(*(str(where.get(key) or "") for key in ("os", "architecture", "variant"))),
        tuple(dict.fromkeys(str(name) for name in names)),
        tuple(str(url) for url in raw.get("urls") or () if isinstance(url, str)),
        _ATTESTATION in annotations,
    )  # fmt: skip


def choose(candidates: Sequence[Descriptor], what: str) -> Descriptor:
    """Of an index's manifests the one for this machine: the first of the best variant.

    Raises:
        ImageError: There is none; it says which there are.
    """
    known = (*MANIFEST_TYPES, *INDEX_TYPES, "")
    images = [
        one
        for one in candidates
        if one.media_type in known
        and not one.attestation
        and one.platform[:2] != ("unknown", "unknown")
    ]
    for variant in variants():
        for one in images:
            if one.platform in (("linux", architecture(), variant), ("", "", "")):
                return one
    offered = ", ".join(str(one.platform) for one in images) or "nothing"
    raise ImageError(
        f"{what} is for {offered}; this machine is linux/{architecture()}. Use an image for it"
    )


def kind_of(body: Mapping[str, Any], media_type: str, what: str) -> Literal["index", "manifest"]:
    """What a document is.

    Args:
        media_type: What came with it; empty where nothing did.

    Raises:
        ImageError: It is neither, or says two things at once (CVE-2021-41190).
    """
    written = body.get("mediaType") or ""
    if media_type and written and written != media_type:
        raise ImageError(
            f"{what} calls itself {written!r} and came as {media_type!r}; it is refused"
        )
    if "manifests" in body and ("layers" in body or "config" in body):
        raise ImageError(f"{what} is both an index and a manifest; it is refused")
    kind = written or media_type
    if body.get("schemaVersion") == 1 or (".v1+" in kind and "distribution.manifest" in kind):
        raise ImageError(
            f"{what} has the format of before 2016 (schema 1), which is not supported; push it "
            "again with a tool of today"
        )
    if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and "manifests" in body):
        return "index"
    if kind in MANIFEST_TYPES or ((not kind or kind == "application/json") and "layers" in body):
        return "manifest"
    raise ImageError(f"{what} has media type {kind!r}, which is not one of an image")


def resolve(
    data: bytes, digest: str, media_type: str, fetch: Callable[[Descriptor], bytes], what: str
) -> Manifest:
    """The manifest for this machine that a document is or leads to.

    Args:
        fetch: Gets, and verifies, what an index names.
    """
    for _ in range(_MAX_NESTED):  # an index of indexes is allowed, endless ones are not
        body = document(data, what)
        if kind_of(body, media_type, what) == "manifest":
            return parse(data, digest, media_type, what)
        listed = body.get("manifests")
        if not isinstance(listed, list):
            raise ImageError(f"{what}: its index lists nothing")
        chosen = choose([descriptor(one, what) for one in listed], what)
        data, digest, media_type = fetch(chosen), chosen.digest, chosen.media_type
    raise ImageError(f"{what}: more than {_MAX_NESTED} indexes lead to each other; it is refused")


def parse(data: bytes, digest: str, media_type: str, what: str) -> Manifest:
    """A manifest's config and layers, checked."""
    body = document(data, what)
    config, layers = layers_of(body, what)
    if config.media_type not in (*CONFIG_TYPES, ""):
        raise ImageError(f"{what} is no image but something else ({config.media_type})")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES and layer.media_type:
            raise ImageError(
                f"{what}: layer {layer.digest[7:19]} has media type {layer.media_type!r}, which is "
                "not supported; tar, gzip and zstd are"
            )
    kind = str(body.get("mediaType") or media_type or OCI_MANIFEST)
    return Manifest(kind, digest, data, config, tuple(layers))


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
