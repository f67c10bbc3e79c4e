"""Images made of others: snapshots, commits and builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_containers.images.image import Image
from pytest_containers.images.images import Images
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.store.blobs import digest_of
from pytest_containers.images.store.layers import Freeze
from pytest_containers.model.errors import hide_frames

__tracebackhide__ = hide_frames


def freeze(images: Images, base: Image, copy: Freeze) -> Image:
    """Make an image of `base` and a writable layer, without a name.

    It is for runs that have begun: only holds (`Images.hold`) keep its layer, so the caller is
    among others (`Store.among_others`) until it is held.
    """
    layer = images.library.layers.freeze(copy, f"a snapshot of {base.name}")
    return base.with_layer(layer, layer.diff_id)


def freeze_as(
    images: Images,
    base: Image,
    copy: Freeze,
    name: str,
    *,
    changes: Mapping[str, Any] | None = None,
) -> Image:
    """Freeze a ``host:`` image under a name; only this machine can use it.

    Args:
        changes: Replace what the image says of running it: ``{"Cmd": […]}``.
    """
    reference = parse_reference(name)
    images.on_host.freeze(base, copy, reference, changes or {})
    images.given_to_host(reference)
    image = images.on_host.find(reference)
    assert image is not None
    return image


def commit(
    images: Images,
    base: Image,
    pack: Callable[[int], None],
    name: str,
    *,
    changes: Mapping[str, Any] | None = None,
    message: str = "",
    author: str = "",
) -> Image:
    """Make an image of `base` and a layer on top of it.

    Args:
        pack: Writes the layer's tar to a pipe.
        changes: Replace what the image says of running it: ``{"Cmd": […]}``.
    """
    from pytest_containers.images.commit import commit

    reference = parse_reference(name)
    with images.library.store.among_others():
        commit(
            images.library,
            base,
            pack,
            reference,
            changes=changes or {},
            message=message,
            author=author,
        )
    images.given_to_image(name)
    return images.sources.by_name(reference, "never")


def keep_built(images: Images, image: Image, config_data: bytes, names: Sequence[str]) -> Image:
    """Keep the result of a build; call in `Store.among_others`.

    Args:
        image: Its layers, with any config.
        config_data: Its config.
        names: Names to give it in the store; it needs none.
    """
    from pytest_containers.images.store.library import documents

    library = images.library
    subject = names[0] if names else "an image that was built"
    image_documents = documents(None, config_data, subject)
    library.blobs.write(config_data)
    config = digest_of(config_data)
    for name in names:
        reference = parse_reference(name)
        if image.mounts:
            images.on_host.keep_built(reference, image, image_documents.config)
            images.given_to_host(reference)
        else:
            library.names.set(reference, config=config, digest="")
            images.given_to_image(name)
    built = library.image(image_documents, (), "", subject)
    return replace(built, layers=image.layers, mounts=image.mounts, devices=image.devices)
