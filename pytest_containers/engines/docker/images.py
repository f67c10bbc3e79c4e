"""Images of a daemon: found, pulled, loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.images.manifest import parse_config
from pytest_containers.images.reference import (
    DEFAULT_REGISTRY,
    ArchiveSource,
    HostSource,
    Reference,
    RootfsSource,
    parse,
)
from pytest_containers.model.errors import (
    ContainersError,
    ImageError,
    ImageNotFoundError,
    RegistryError,
    SpecError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.image import ImageConfig

if TYPE_CHECKING:
    from pytest_containers.engines.docker.api import DockerApi
    from pytest_containers.model.engine_options import PullPolicy

__tracebackhide__ = hide_frames

_LOADED = "pytest-containers/loaded"
_NOT_FOUND = ("not found", "manifest unknown", "does not exist", "denied", "no such image")


@dataclass(frozen=True, slots=True)
class DockerImage:
    """An image of a daemon; see `model.image.Image`."""

    id: str
    name: str
    config: ImageConfig
    mounts: Sequence[Any] = ()
    digest: str = ""
    base_id: str = ""

    @property
    def volumes_apart(self) -> bool:
        """True: the daemon makes a volume for each place, with what the image has there."""
        return True


class ImageFinder:
    """Finds images in a daemon, and has the daemon fetch them.

    Args:
        policy: When to ask registries, unless a call says otherwise.
        hub_prefix: Prepended to names without a registry.
    """

    def __init__(self, api: DockerApi, policy: PullPolicy, hub_prefix: str = "") -> None:
        self._api = api
        self.policy: PullPolicy = policy
        self._hub_prefix = hub_prefix

    def get(self, reference: Any, pull: PullPolicy | None = None) -> DockerImage:
        """Return the image of that name, fetched if necessary; see `Engine.image`."""
        if isinstance(reference, DockerImage):
            return reference
        if not isinstance(reference, str):
            shown = getattr(reference, "name", reference)
            raise SpecError(
                f"image {shown!r} is not one of engine 'docker'; write 'name:tag', or pass "
                "what this engine has returned"
            )
        parsed = parse(reference)
        if isinstance(parsed, HostSource):
            raise UnsupportedError(
                f"engine 'docker' has no image {reference!r}, the programs of this machine; use "
                "engine 'native', or an image of a registry",
                engine="docker",
                engines=["native"],
            )
        if isinstance(parsed, Reference):
            return self._of_registry(reference, self._prefixed(parsed), pull or self.policy)
        return self._of_file(reference, parsed)

    def inspect(self, name: str, shown: str = "", base_id: str = "") -> DockerImage | None:
        """Return a stored image; None if there is none of that name or id."""
        try:
            facts = self._api.call(
                f"image {shown or name!r}", lambda client: client.inspect_image(name)
            )
        except DaemonRefusal as error:
            if error.status == 404:
                return None
            raise
        config = dict(facts.get("Config") or {})
        if "Healthcheck" not in config and self._api.is_podman:
            config["Healthcheck"] = self._healthcheck_of_podman(facts["Id"])
        return image_of({**facts, "Config": config}, shown or name, base_id)

    def _healthcheck_of_podman(self, image_id: str) -> object:
        """Return the HEALTHCHECK of an image: that is in Podman's own answer only."""
        path = f"/v4.0.0/libpod/images/{image_id.removeprefix('sha256:')}/json"
        facts = self._api.call(
            f"image {image_id}",
            lambda client: client._result(client._get(f"{client.base_url}{path}"), True),
        )
        return facts.get("Healthcheck")

    def _prefixed(self, parsed: Reference) -> str:
        if self._hub_prefix and parsed.registry == DEFAULT_REGISTRY:
            return self._hub_prefix + parsed.in_hub
        return parsed.familiar

    def _of_registry(self, reference: str, name: str, policy: PullPolicy) -> DockerImage:
        image = self.inspect(name, reference)
        if image is None and policy == "never":
            raise ImageNotFoundError(
                f"the Docker daemon has no image {reference!r}, and containers_pull is 'never'; "
                f"`docker pull {name}` fetches it",
                reference=reference,
            )
        if image is None or policy == "always":
            self.pull(name)
            image = self.inspect(name, reference)
        if image is None:
            raise ImageError(f"image {reference!r} was removed while it was pulled")
        return image

    def pull(self, name: str) -> None:
        """Have the daemon fetch an image.

        Raises:
            ImageNotFoundError: The registry has no image of that name.
            RegistryError: The registry could not be reached, or refused.
        """
        doing = f"pull of image {name!r}"
        try:
            self._api.call(doing, lambda client: _finish(client, name))
        except ContainersError as error:
            words = getattr(error, "explanation", None) or error.message.removeprefix(f"{doing}: ")
            status = getattr(error, "status", None)
            if not isinstance(error, DaemonRefusal | ImageError):
                raise
            missing = status == 404 or any(part in words.lower() for part in _NOT_FOUND)
            kind = ImageNotFoundError if missing else RegistryError
            raise kind(f"{doing}: {words}", reference=name) from None

    # ---------------------------------------------------------------- files

    def _of_file(self, reference: str, source: ArchiveSource | RootfsSource) -> DockerImage:
        path = Path(source.path)
        if not path.exists():
            raise ImageNotFoundError(
                f"image {reference!r}: {path} does not exist", reference=reference, path=str(path)
            )
        if isinstance(source, RootfsSource):
            return self._of_rootfs(reference, path)
        if path.is_dir():
            return self._of_layout(reference, path, source.name)
        with open(path, "rb") as file:
            names = self.load(file, reference)
        image_name = source.name or names[0]
        image = self.inspect(image_name, reference)
        if image is None:
            raise ImageNotFoundError(
                f"image {reference!r}: {path} has no image {image_name!r}; there are "
                f"{', '.join(names)}",
                reference=reference,
            )
        return image

    def load(self, file: IO[bytes], shown: str) -> list[str]:
        """Store the images of an archive; return their names or ids."""

        def load(client: Any) -> list[str]:
            names = []
            for line in client._stream_helper(
                client._post(client._url("/images/load"), data=file, stream=True), decode=True
            ):
                if "error" in line:
                    raise ImageError(f"image {shown!r}: {line['error']}", reference=shown)
                words = str(line.get("stream", ""))
                if words.startswith("Loaded image"):
                    names.append(words.partition(": ")[2].strip())
            return names

        names = self._api.call(f"image {shown!r}", load)
        if not names:
            raise ImageError(f"image {shown!r}: the archive has no image", reference=shown)
        return names

    def _of_layout(self, reference: str, folder: Path, name: str | None) -> DockerImage:
        manifest, key = _manifest_of(folder, name, reference)
        tag = f"{_LOADED}:{key[7:39]}"
        image = self.inspect(tag, reference)
        if image is None:
            with tempfile.TemporaryFile() as file:
                _write_archive(folder, manifest, tag, file)
                file.seek(0)
                self.load(file, reference)
            image = self.inspect(tag, reference)
        if image is None:
            raise ImageError(f"image {reference!r} could not be loaded", reference=reference)
        return dataclasses.replace(image, digest=key)

    def _of_rootfs(self, reference: str, path: Path) -> DockerImage:
        facts = path.stat()
        key = f"{path.resolve()}\0{facts.st_mtime_ns}\0{facts.st_size}\0{facts.st_ino}"
        tag = f"rootfs-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
        if path.is_dir() or (image := self.inspect(f"{_LOADED}:{tag}", reference)) is None:
            image = self.import_rootfs(path, f"{_LOADED}:{tag}", {}, shown=reference)
        return dataclasses.replace(image, name=reference)

    def import_rootfs(
        self, path: Path, name: str, config: Mapping[str, Any], *, shown: str = ""
    ) -> DockerImage:
        """Make an image of a root file system; see `ImageStore.import_rootfs`."""
        changes = list(_instructions(config))
        repository, tag = split_name(name)
        with tempfile.TemporaryFile() if path.is_dir() else open(path, "rb") as file:
            if path.is_dir():
                with tarfile.open(fileobj=file, mode="w") as tar:
                    tar.add(path, ".")
                file.seek(0)
            self._api.call(
                f"image {shown or name!r}",
                lambda client: client.import_image_from_data(
                    file, repository=repository, tag=tag, changes=changes
                ),
            )
        image = self.inspect(name, shown)
        if image is None:
            raise ImageError(f"image {shown or name!r} could not be imported")
        return image


def split_name(name: str) -> tuple[str, str]:
    """Return the repository and the tag of a name."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def image_of(facts: Mapping[str, Any], name: str, base_id: str = "") -> DockerImage:
    """Return an image from the answer of ``GET /images/NAME/json``."""
    document = {"config": facts.get("Config") or {}, "os": facts.get("Os")}
    config = parse_config(document, f"image {name!r}")
    config = dataclasses.replace(
        config, architecture=facts.get("Architecture") or "", variant=facts.get("Variant") or ""
    )
    digests = facts.get("RepoDigests") or []
    digest = digests[0].partition("@")[2] if digests else ""
    return DockerImage(facts["Id"], name, config, digest=digest, base_id=base_id)


def _finish(client: Any, name: str) -> None:
    for line in client.pull(name, stream=True, decode=True):
        if "error" in line:
            raise ImageError(str(line["error"]))


def _instructions(config: Mapping[str, Any]) -> Iterator[str]:
    """Return a configuration as the instructions that an import takes."""
    for key, value in config.items():
        match key:
            case "Cmd" | "Entrypoint":
                yield f"{key.upper()} {json.dumps(value)}"
            case "Env":
                for each in value:
                    variable, _, content = each.partition("=")
                    yield f"ENV {variable}={json.dumps(content)}"
            case "User" | "StopSignal":
                yield f"{key.upper()} {value}"
            case "WorkingDir":
                yield f"WORKDIR {value}"
            case "ExposedPorts" | "Volumes":
                word = "EXPOSE" if key == "ExposedPorts" else "VOLUME"
                for each in value:
                    yield f"{word} {each}"
            case "Labels":
                for label, content in value.items():
                    yield f"LABEL {json.dumps(label)}={json.dumps(content)}"
            case _:
                raise UnsupportedError(
                    f"engine 'docker' cannot import an image with {key!r} in its configuration",
                    engine="docker",
                    engines=["native"],
                )


def _manifest_of(folder: Path, name: str | None, shown: str) -> tuple[Mapping[str, Any], str]:
    """Return the manifest of an OCI layout for the first platform, and its digest."""
    try:
        entries = json.loads((folder / "index.json").read_text())["manifests"]
        named = [
            each
            for each in entries
            if name is None
            or each.get("annotations", {}).get("org.opencontainers.image.ref.name") == name
        ]
        if not named:
            raise ImageNotFoundError(
                f"image {shown!r}: the layout has no image of that name", reference=shown
            )
        digest = named[0]["digest"]
        body = json.loads(_blob(folder, digest).read_text())
        while "manifests" in body:
            digest = body["manifests"][0]["digest"]
            body = json.loads(_blob(folder, digest).read_text())
        return body, digest
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, ContainersError):
            raise
        raise ImageError(
            f"image {shown!r}: {folder} is not an OCI layout: {error}", reference=shown
        ) from None


def _blob(folder: Path, digest: str) -> Path:
    algorithm, _, name = digest.partition(":")
    return folder / "blobs" / algorithm / name


def _write_archive(folder: Path, manifest: Mapping[str, Any], tag: str, file: IO[bytes]) -> None:
    """Write an image of an OCI layout in the format of ``docker save``."""
    config, layers = manifest["config"]["digest"], [layer["digest"] for layer in manifest["layers"]]
    listing = [
        {
            "Config": f"{config[7:]}.json",
            "RepoTags": [tag],
            "Layers": [f"{digest[7:]}/layer.tar" for digest in layers],
        }
    ]
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(_blob(folder, config), f"{config[7:]}.json")
        for digest in dict.fromkeys(layers):
            tar.add(_blob(folder, digest), f"{digest[7:]}/layer.tar")
        data = json.dumps(listing).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
