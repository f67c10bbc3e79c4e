"""Manifests, indexes and configs (image-spec 1.1, and Docker's, which differ in names only)."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pytest_containers.images.image import HealthCheck, ImageConfig
from pytest_containers.images.reference import check_digest
from pytest_containers.model.errors import ImageError
from pytest_containers.model.harmless import quoted, shown

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
    """The kind of machine that an image is for (image-spec image-index.md)."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return shown("/".join(part for part in self if part))


class Descriptor(NamedTuple):
    """A document's reference to another one (image-spec descriptor.md).

    Attributes:
        platform: Empty where the document does not say.
        names: What it is called, in an index that names images.
        urls: Where else it may be had.
        attestation: True for a statement about an image, which is none itself.
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
    """Name this machine's architecture as image configs do."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def variants() -> tuple[str, ...]:
    """Return the variants of its architecture that this machine runs, best first."""
    return _VARIANTS.get(platform.machine()) or _VARIANTS.get(architecture()) or ("",)


def document(data: bytes, subject: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ImageError: The data is no JSON object, or too large.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ImageError(f"{subject} has {len(data)} bytes; more than 4 MiB is refused")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{subject} is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ImageError(f"{subject} is not a JSON object")
    return body


def descriptor(raw: Any, subject: str) -> Descriptor:
    """Check a descriptor."""
    size = raw.get("size") if isinstance(raw, dict) else None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{subject}: a descriptor lacks a size")
    where = raw.get("platform")
    where = where if isinstance(where, dict) else {}
    annotations = raw.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    names = [
        annotations[key] for key in (REF_NAME, "io.containerd.image.name") if key in annotations
    ]
    return Descriptor(
        str(raw.get("mediaType", "")),
        check_digest(raw.get("digest")),
        size,
        Platform(*(str(where.get(key) or "") for key in ("os", "architecture", "variant"))),
        tuple(dict.fromkeys(str(name) for name in names)),
        tuple(url for url in _list(raw.get("urls")) if isinstance(url, str)),
        _ATTESTATION in annotations,
    )


def choose(candidates: Sequence[Descriptor], subject: str) -> Descriptor:
    """Choose the manifest for this machine from an index: the first of the best variant.

    Raises:
        ImageError: There is none; it says which there are.
    """
    media_types = (*MANIFEST_TYPES, *INDEX_TYPES, "")
    images = [
        image
        for image in candidates
        if image.media_type in media_types
        and not image.attestation
        and image.platform[:2] != ("unknown", "unknown")
    ]
    for variant in variants():
        for image in images:
            if image.platform in (("linux", architecture(), variant), ("", "", "")):
                return image
    offered = ", ".join(str(image.platform) for image in images) or "nothing"
    raise ImageError(
        f"{subject} is for {offered}; this machine is linux/{architecture()}. Use an image for it"
    )


def kind_of(body: Mapping[str, Any], media_type: str, subject: str) -> Literal["index", "manifest"]:
    """Tell whether a document is an index or a manifest.

    Args:
        media_type: What came with it; empty where nothing did.

    Raises:
        ImageError: It is neither, or says two things at once (CVE-2021-41190).
    """
    written = body.get("mediaType") or ""
    if not isinstance(written, str):
        raise ImageError(f"{subject}: its media type {quoted(written)} is not a text")
    if media_type and written and written != media_type:
        raise ImageError(
            f"{subject} calls itself {quoted(written)} and came as {quoted(media_type)}; it is "
            "refused"
        )
    if "manifests" in body and ("layers" in body or "config" in body):
        raise ImageError(f"{subject} is both an index and a manifest; it is refused")
    kind = written or media_type
    if body.get("schemaVersion") == 1 or (".v1+" in kind and "distribution.manifest" in kind):
        raise ImageError(
            f"{subject} has the format of before 2016 (schema 1), which is not supported; push it "
            "again with a tool of today"
        )
    if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and "manifests" in body):
        return "index"
    if kind in MANIFEST_TYPES or ((not kind or kind == "application/json") and "layers" in body):
        return "manifest"
    raise ImageError(f"{subject} has media type {quoted(kind)}, which is not one of an image")


def resolve(
    data: bytes, digest: str, media_type: str, fetch: Callable[[Descriptor], bytes], subject: str
) -> Manifest:
    """Return the manifest for this machine that a document is or leads to.

    Args:
        fetch: Gets, and verifies, what an index names.
    """
    for _ in range(_MAX_NESTED):  # an index of indexes is allowed, endless ones are not
        body = document(data, subject)
        if kind_of(body, media_type, subject) == "manifest":
            return parse(data, digest, media_type, subject)
        listed = body.get("manifests")
        if not isinstance(listed, list):
            raise ImageError(f"{subject}: its index lists nothing")
        chosen = choose([descriptor(entry, subject) for entry in listed], subject)
        data, digest, media_type = fetch(chosen), chosen.digest, chosen.media_type
    raise ImageError(
        f"{subject}: more than {_MAX_NESTED} indexes lead to each other; it is refused"
    )


def parse(data: bytes, digest: str, media_type: str, subject: str) -> Manifest:
    """Parse a manifest, and check its config and layers."""
    body = document(data, subject)
    config, layers = layers_of(body, subject)
    if config.media_type not in (*CONFIG_TYPES, ""):
        raise ImageError(f"{subject} is no image but something else ({quoted(config.media_type)})")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES and layer.media_type:
            raise ImageError(
                f"{subject}: layer {layer.digest[7:19]} has media type "
                f"{quoted(layer.media_type)}, which is not supported; tar, gzip and zstd are"
            )
    kind = str(body.get("mediaType") or media_type or OCI_MANIFEST)
    return Manifest(kind, digest, data, config, tuple(layers))


def layers_of(manifest: Mapping[str, Any], subject: str) -> tuple[Descriptor, list[Descriptor]]:
    """Return the config and the layers of a manifest."""
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise ImageError(f"{subject}: its manifest has no layers, or more than {_MAX_LAYERS}")
    return descriptor(manifest.get("config"), subject), [
        descriptor(layer, subject) for layer in layers
    ]


def diff_ids_of(config: Mapping[str, Any], subject: str) -> list[str]:
    """Return the diffIDs of a config."""
    rootfs = config.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list):
        raise ImageError(f"{subject}: its config has no rootfs.diff_ids")
    return [check_digest(diff_id) for diff_id in ids]


def parse_config(config: Mapping[str, Any], subject: str) -> ImageConfig:
    """Parse the settings for running the image from its config.

    Raises:
        ImageError: It is for another machine, or malformed.
    """
    made_for = str(config.get("architecture") or "")
    if (made_for and made_for != architecture()) or config.get("os") not in (None, "", "linux"):
        other = Platform(str(config.get("os") or "linux"), made_for)
        raise ImageError(
            f"{subject} is for {other}; this machine is linux/{architecture()}. Use an image for "
            "it",
            architecture=made_for,
        )
    run = config.get("config") or {}
    if not isinstance(run, dict):
        raise ImageError(f"{subject}: its config is malformed")
    try:
        return _config(config, run, made_for)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImageError(f"{subject}: its config is malformed: {error}") from None


def _config(config: Mapping[str, Any], run: Mapping[str, Any], made_for: str) -> ImageConfig:
    """Read the settings; a TypeError or ValueError names the one that is malformed."""
    return ImageConfig(
        entrypoint=_words(run, "Entrypoint"),
        cmd=_words(run, "Cmd"),
        env=dict(item.partition("=")[::2] for item in _texts(run, "Env")),
        user=str(run.get("User") or ""),
        workdir=str(run.get("WorkingDir") or ""),
        exposed_ports=_texts(run, "ExposedPorts"),
        volumes=_texts(run, "Volumes"),
        stop_signal=str(run.get("StopSignal") or "") or None,
        labels=_labels(run.get("Labels") or {}),
        architecture=made_for,
        os=str(config.get("os") or "linux"),
        variant=str(config.get("variant") or ""),
        healthcheck=_health(run.get("Healthcheck")),
        shell=_words(run, "Shell") or ("/bin/sh", "-c"),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(run: Mapping[str, Any], key: str, name: str = "") -> tuple[str, ...]:
    """Return a list of texts, or the names in an object, as ports and volumes are written."""
    value = run.get(key) or ()
    texts = tuple(value) if isinstance(value, list | dict) else (None,) if value else ()
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name or key} {quoted(value)} is not a list of texts")
    return texts


def _words(run: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = run.get(key)
    if isinstance(value, str) and value:  # old images have a line for the shell
        return ("/bin/sh", "-c", value)
    return _texts(run, key)


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"Labels {quoted(value)} is not an object")
    return {key: text if isinstance(text, str) else str(text or "") for key, text in value.items()}


def _health(raw: Any) -> HealthCheck | None:
    if not isinstance(raw, dict) or not raw.get("Test"):
        return None
    return HealthCheck(
        _texts(raw, "Test", "Healthcheck.Test"),
        _count(raw, "Interval") / _NANO,
        _count(raw, "Timeout") / _NANO,
        _count(raw, "StartPeriod") / _NANO,
        _count(raw, "Retries"),
    )


def _count(raw: Mapping[str, Any], key: str) -> int:
    """Return a number of Go's ``int64``, as Healthcheck has them."""
    value = raw.get(key) or 0
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise TypeError(f"Healthcheck.{key} {quoted(value)} is not a number, 0 or more")
    return int(value)
