"""The images of a daemon as the doors see them; see `model.images.ImageStore`."""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_containers.engines.docker.api import DaemonRefusal, DockerApi
from pytest_containers.engines.docker.images import DockerImage, ImageFinder, split_name
from pytest_containers.model.errors import (
    ImageNotFoundError,
    RegistryError,
    UnsupportedError,
    hide_frames,
)
from pytest_containers.model.images import (
    ArchiveForm,
    Finding,
    HistoryStep,
    ImageDetails,
    ImageSummary,
    Pruned,
)

if TYPE_CHECKING:
    from pytest_containers.model.engine_options import PullPolicy

__tracebackhide__ = hide_frames


class DockerImages:
    """The images of a daemon, by name.

    Args:
        api: The daemon.
        finder: Finds and pulls images.
    """

    def __init__(self, api: DockerApi, finder: ImageFinder) -> None:
        self._api = api
        self._finder = finder

    def _named(self, name: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self._api.call(
                f"image {name!r}", lambda client: client.inspect_image(name)
            )
        except DaemonRefusal as error:
            if error.status != 404:
                raise
            raise ImageNotFoundError(
                f"the Docker daemon has no image {name!r}", reference=name
            ) from None
        return found

    def pull(self, name: str, *, policy: PullPolicy = "always") -> DockerImage:
        """Fetch an image from its registry."""
        return self._finder.get(name, policy)

    def push(self, name: str, target: str | None = None) -> str:
        """Upload an image to the registry of its name, or of `target`; return its digest."""
        if target is not None:
            self.tag(name, target)
        pushed, digest = target or name, ""
        doing = f"push of image {pushed!r}"
        for line in self._api.call(
            doing, lambda client: list(client.push(pushed, stream=True, decode=True))
        ):
            if "error" in line:
                raise RegistryError(f"{doing}: {line['error']}", reference=pushed)
            digest = (line.get("aux") or {}).get("Digest", digest)
        return digest

    def load(self, path: str | os.PathLike[str], *, name: str | None = None) -> Sequence[str]:
        """Store the images of an OCI layout or of a tar of ``docker save``; return the names."""
        source = Path(path)
        if source.is_dir():
            image = self._finder.get(f"oci:{source}")
            names: list[str] = [image.id]
        else:
            with open(source, "rb") as file:
                names = self._finder.load(file, os.fspath(path))
        if name is not None:
            self.tag(names[0], name)
            return [name]
        return names

    def save(
        self, names: Sequence[str], path: str | os.PathLike[str], *, form: ArchiveForm = "archive"
    ) -> None:
        """Write images to a tar that Docker, Podman and skopeo can read."""
        if form != "archive":
            self._refuse("save(form='layout')")
        for name in names:
            self._named(name)
        with open(path, "wb") as file:
            for name in names[:1]:
                parts = self._api.call(
                    f"save of image {name!r}",
                    lambda client: client._stream_raw_result(
                        client._get(
                            client._url("/images/get"), params={"names": list(names)}, stream=True
                        ),
                        1 << 20,
                        False,
                    ),
                )
                for part in parts:
                    file.write(part)

    def import_rootfs(
        self, path: str | os.PathLike[str], name: str, config: Mapping[str, Any] | None = None
    ) -> DockerImage:
        """Make an image of a root file system, a tar or a directory."""
        return self._finder.import_rootfs(Path(path), name, config or {})

    def tag(self, name: str, other: str) -> None:
        """Give an image the name `other` as well."""
        self._named(name)
        repository, tag = split_name(other)
        self._api.call(f"tag {other!r}", lambda client: client.tag(name, repository, tag))

    def remove(self, name: str) -> None:
        """Remove a name, and the image with its last one."""
        self._named(name)
        self._api.call(f"removal of image {name!r}", lambda client: client.remove_image(name))

    def list(self) -> Sequence[ImageSummary]:
        """Return all images that have a name."""
        rows = self._api.call("list of images", lambda client: client.images())
        return [
            _summary(row, name)
            for row in rows
            for name in row.get("RepoTags") or ()
            if name != "<none>:<none>"
        ]

    def inspect(self, name: str) -> ImageDetails:
        """Return all that the daemon says about an image."""
        facts = self._named(name)
        layers = (facts.get("RootFS") or {}).get("Layers") or ()
        return {
            "name": name,
            "id": facts["Id"],
            "digest": next(iter(facts.get("RepoDigests") or ()), "").partition("@")[2],
            "created": facts.get("Created") or "",
            "size_bytes": facts.get("Size") or 0,
            "compressed_bytes": 0,
            "used_at": _seconds(facts.get("Created") or ""),
            "names": list(facts.get("RepoTags") or ()),
            "origin": "docker",
            "media_type": "",
            "os": facts.get("Os") or "",
            "architecture": facts.get("Architecture") or "",
            "variant": facts.get("Variant") or "",
            "layers": [
                {"digest": "", "diff_id": layer, "media_type": "", "size_bytes": 0}
                for layer in layers
            ],
            "config": facts.get("Config") or {},
        }

    def history(self, name: str) -> Sequence[HistoryStep]:
        """Return the steps that made an image, the newest first."""
        self._named(name)
        rows = self._api.call(f"history of image {name!r}", lambda client: client.history(name))
        return [
            {
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["Created"])),
                "created_by": row.get("CreatedBy") or "",
                "comment": row.get("Comment") or "",
                "digest": "",
                "size_bytes": row.get("Size") or 0,
            }
            for row in rows
        ]

    def prune(
        self,
        *,
        unused_for_s: float | None = None,
        keep_bytes: int | None = None,
        all_unused: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Refuse: the images of a daemon are not only ours to remove."""
        self._refuse("prune()", "`docker image prune` does it")

    def verify(self) -> Sequence[Finding]:
        """Refuse: a daemon does not show its bytes."""
        self._refuse("verify()")

    def cache_export(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Refuse: use `save`."""
        self._refuse("cache_export()", "save() writes images to one file")

    def cache_import(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Refuse: use `load`."""
        self._refuse("cache_import()", "load() stores the images of a file")

    def cache_clear(self) -> None:
        """Refuse: the images of a daemon are not only ours to remove."""
        self._refuse("cache_clear()", "`docker image prune` does it")

    def _refuse(self, operation: str, advice: str = "use engine 'native'") -> NoReturn:
        raise UnsupportedError(
            f"the images of engine 'docker' have no {operation}; {advice}",
            engine="docker",
            engines=["native"],
        )


def _summary(row: Mapping[str, Any], name: str) -> ImageSummary:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row["Created"]))
    return {
        "name": name,
        "id": row["Id"],
        "digest": next(iter(row.get("RepoDigests") or ()), "").partition("@")[2],
        "created": created,
        "size_bytes": row.get("Size") or 0,
        "compressed_bytes": 0,
        "used_at": float(row["Created"]),
    }


def _seconds(created: str) -> float:
    try:
        return float(calendar.timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return 0.0
