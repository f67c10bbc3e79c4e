"""States of images that keep their data in volumes, which a commit does not include.

What is in such a volume becomes a layer of the state. The daemon fills a new volume with what the
image has in its place, so that the next container begins with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import tarfile
import tempfile
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from pytest_containers.engines.docker import labels
from pytest_containers.engines.docker.commits import anonymous_volumes, commit, quoted
from pytest_containers.engines.docker.images import DockerImage
from pytest_containers.model.errors import ContainersError, ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.docker.handle import DockerHandle

__tracebackhide__ = hide_frames


def with_volumes(container: DockerHandle, name: str, own: Mapping[str, str]) -> DockerImage:
    """Make an image of a container's files and of what is in its image's volumes.

    Args:
        container: The container; it has ended.
        name: The name of the image.
        own: Its labels, besides those of its base.
    """
    api = container.core.api
    facts = api.call(
        f"volumes of container {container.name!r}",
        lambda client: client.inspect_container(container.id),
    )
    targets = sorted(target for _, target in anonymous_volumes(facts))
    if not targets:
        return commit(container, name, changes={}, message="state", own=own)
    below = commit(
        container, f"{name}-files", changes={}, message="state", own=container.core.labels()
    )
    try:
        with tempfile.TemporaryFile() as context:
            _write_context(container, below.name, targets, own, context)
            context.seek(0)
            image_id = _built(container, context, name)
    finally:
        # Only its name goes: the state is made of its layers.
        with contextlib.suppress(ContainersError):
            api.call("removal of a name", lambda client: client.remove_image(below.name))
    found = container.core.finder.inspect(image_id, name)
    if found is None:
        raise ImageError(f"state {name!r} was removed meanwhile", reference=name)
    return found


def _write_context(
    container: DockerHandle,
    base: str,
    targets: list[str],
    own: Mapping[str, str],
    file: IO[bytes],
) -> None:
    """Write a build context that adds the contents of the volumes."""
    # The temporary labels of the run must not stay: the state would end with it.
    blank = dict.fromkeys(labels.ALL, "")
    lines = [f"FROM {base}"]
    lines += [f"LABEL {json.dumps(key)}={quoted(value)}" for key, value in {**blank, **own}.items()]
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, target in enumerate(targets):
            archive = f"volume-{number}.tar"
            with tempfile.TemporaryFile() as part:
                _rename(container, target, part)
                info = tarfile.TarInfo(archive)
                info.size = part.tell()
                part.seek(0)
                tar.addfile(info, part)
            lines.append(f"ADD {archive} /")
        text = "\n".join(lines).encode()
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))


def _rename(container: DockerHandle, target: str, file: IO[bytes]) -> None:
    """Write an archive of a volume whose members have their places in the root."""
    parent = posixpath.dirname(target.rstrip("/")).strip("/")

    def fetch(client: Any, source: IO[bytes]) -> None:
        parts, _ = client.get_archive(container.id, target)
        for part in parts:
            source.write(part)

    with tempfile.TemporaryFile() as source:
        container.core.api.call(
            f"contents of volume {target} of container {container.name!r}",
            lambda client: fetch(client, source),
        )
        source.seek(0)
        with tarfile.open(fileobj=source) as old, tarfile.open(fileobj=file, mode="w") as new:
            for member in old:
                member.name = f"{parent}/{member.name}".lstrip("/")
                if member.islnk():
                    member.linkname = f"{parent}/{member.linkname}".lstrip("/")
                data = old.extractfile(member) if member.isfile() else None
                new.addfile(member, data)


def _built(container: DockerHandle, context: IO[bytes], name: str) -> str:
    doing = f"state of container {container.name!r}"

    def build(client: Any) -> str:
        found = ""
        for line in client.build(
            fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True, decode=True
        ):
            if "error" in line:
                raise ImageError(f"{doing}: {line['error']}", reference=name)
            found = (line.get("aux") or {}).get("ID", found)
        return found or name

    return container.core.api.call(doing, build)
