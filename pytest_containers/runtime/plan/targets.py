"""Where a mount goes: the links of an image on the way to its target."""

from __future__ import annotations

import os
from collections.abc import Collection

from pytest_containers.linux.files import follow_links
from pytest_containers.runtime.wire.faults import FaultError

_REASONS = {
    "/": "the root file system is the image's, so mount below it, or start from the directory "
    "itself with the image rootfs:PATH",
    "/proc": "programs trust that the kernel's own files are there",
    "/sys": "programs trust that the kernel's own files are there",
    "/dev": "the container's own devices are there, so mount below it, such as on /dev/NAME",
}


def is_below(path: str, folder: str) -> bool:
    """True if `path` is `folder` or in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def check_target(path: str, resolved: str) -> None:
    """Refuse a target that a container needs for itself.

    Args:
        path: As it was asked for.
        resolved: Where its links lead.

    Raises:
        FaultError: It is one.
    """
    place = resolved.rstrip("/") or "/"
    top = next((name for name in ("/proc", "/sys") if is_below(place, name)), place)
    if top in _REASONS:
        leads = f" leads to {resolved!r}" if resolved != path else ""
        raise FaultError(
            "SpecError",
            f"mount target {path!r}{leads}: nothing may be mounted there, since {_REASONS[top]}",
        )


def resolve_target(root_fd: int, path: str, mounted: Collection[str]) -> str:
    """Follow the links of an image to where a mount goes.

    What is not there is part of the answer, also behind a link, as Docker reads targets: the
    kernel follows no link that leads nowhere.

    Args:
        root_fd: The image.
        path: Absolute; links do not lead out of the root.
        mounted: Targets of earlier mounts, which hide the image's links.

    Raises:
        FaultError: The links go round in a circle.
    """

    def link_at(place: str) -> str | None:
        if any(is_below(place, target) for target in mounted):
            return None
        try:
            return os.readlink(place[1:], dir_fd=root_fd)
        except OSError:  # no link, or nothing
            return None

    try:
        return follow_links(path, link_at)
    except OSError:  # ELOOP
        raise FaultError(
            "StartError", f"mount target {path!r}: too many links on the way"
        ) from None
