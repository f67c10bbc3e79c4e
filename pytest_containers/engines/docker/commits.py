"""Images from the files of a container."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_containers.engines.docker import labels
from pytest_containers.engines.docker.api import DaemonRefusal
from pytest_containers.engines.docker.images import DockerImage, split_name
from pytest_containers.model.errors import ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.engines.docker.handle import DockerHandle

__tracebackhide__ = hide_frames

_SNAPSHOTS = "pytest-containers/snapshot"


def commit(
    container: DockerHandle,
    name: str,
    *,
    changes: Mapping[str, Any],
    message: str = "",
    author: str = "",
    own: Mapping[str, str] | None = None,
) -> DockerImage:
    """Make an image of a container's files; see `Container.commit`.

    Args:
        own: Labels that the image has besides those of its base.
    """
    doing = f"commit of container {container.name!r}"
    base = container.image.config
    # The container has labels of its run, and of the state that it is made of: not so the image.
    kept = dict(base.labels) | dict.fromkeys(labels.ALL, "") | dict(own or {})
    config = {"Labels": kept} | dict(changes)
    repository, tag = split_name(name)

    def post(client: Any, **parameters: Any) -> str:
        response = client._post_json(
            client._url("/commit"),
            data=config,
            params={
                **parameters,
                "container": container.id, "repo": repository, "tag": tag,
                "comment": message, "author": author, "pause": True,
            },
        )  # fmt: skip
        return str(client._result(response, True)["Id"])

    try:
        image_id = container.core.api.call(doing, post)
    except DaemonRefusal as error:
        raise ImageError(error.message, reference=name) from None
    image = container.core.finder.inspect(image_id, name)
    own_labels = config["Labels"]
    if image is not None and not own_labels.items() <= image.config.labels.items():
        # Podman takes labels as instructions only.
        lines = [f"LABEL {json.dumps(key)}={quoted(value)}" for key, value in own_labels.items()]
        image_id = container.core.api.call(doing, lambda client: post(client, changes=lines))
        image = container.core.finder.inspect(image_id, name)
    if image is None:
        raise ImageError(f"{doing}: the image {name!r} was removed meanwhile", reference=name)
    return image


def snapshot(container: DockerHandle, name: str | None) -> DockerImage:
    """Make an image for more containers; see `Container.snapshot`."""
    if name is not None:
        return commit(container, name, changes={}, message="snapshot")
    core = container.core
    tag = core.next_docker_name("snapshot")
    return commit(
        container, f"{_SNAPSHOTS}:{tag}", changes={}, message="snapshot", own=core.labels()
    )


def quoted(value: str) -> str:
    """Return a value as a Dockerfile has it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def anonymous_volumes(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Iterate over ``(name, target)`` of the volumes that an image has asked for."""
    asked = (facts.get("Config") or {}).get("Volumes") or {}
    for mount in facts.get("Mounts") or ():
        if mount.get("Type") == "volume" and mount.get("Destination") in asked:
            yield mount["Name"], mount["Destination"]
