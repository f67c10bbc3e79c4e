"""Options of the tmpfs mounts of a container, which depend on the directories that they hide."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_containers.linux.files import open_in_root
from pytest_containers.linux.program import Value
from pytest_containers.runtime.plan.mounts import is_user_tmpfs, options, with_size
from pytest_containers.runtime.plan.targets import is_below
from pytest_containers.runtime.supervisor.rootfs import ReadyImage

_DEFAULT = "1777"


def tmpfs_parameters(
    mounts: Sequence[Mapping[str, Any]],
    image: ReadyImage,
    root_fd: int,
    mount_fds: Sequence[int],
    ids: tuple[int, int],
    size_bytes: int,
) -> dict[str, Value]:
    """Return the parameters ``tmpfs:N`` of a start.

    A tmpfs over a directory has its mode and owner, unless its options have others.

    Args:
        mounts: All of the config.
        image: The container's, whose own mounts have directories, too.
        root_fd: The container's root, without mounts.
        mount_fds: For each of `mounts`, its detached mount, or -1.
        ids: How many users and groups exist in the container.
        size_bytes: The size of one that has none; 0 is the kernel's choice.
    """
    parameters: dict[str, Value] = {}
    for number, entry in enumerate(mounts):
        if not is_user_tmpfs(entry):
            continue
        data = options(entry)[1]
        names = {option.partition("=")[0] for option in data.split(",")}
        if not {"mode", "uid", "gid"} <= names:
            earlier = [
                (other["destination"], fd)
                for other, fd in zip(mounts[:number], mount_fds, strict=False)
            ]
            status = _status(entry["destination"], image, root_fd, earlier)
            data = ",".join(filter(None, [data, *_like(status, names, ids)]))
        if "size" not in names:
            data = with_size(data, size_bytes)
        parameters[f"tmpfs:{number}"] = data.encode()
    return parameters


def _status(
    target: str, image: ReadyImage, root_fd: int, earlier: Sequence[tuple[str, int]]
) -> os.stat_result | None:
    """Return the status of the directory that is at `target`, or None."""
    place, folder = "/", root_fd
    shown = ""
    for source, path in image.mounts:
        if is_below(target, path):
            place, shown = path, source
    for path, fd in earlier:  # the last one is on top
        if is_below(target, path):
            place, folder, shown = path, fd, ""
    opened: list[int] = []
    try:
        if shown:
            opened.append(os.open(shown, os.O_PATH | os.O_CLOEXEC))
            folder = opened[0]
        if folder < 0:  # a tmpfs, which is empty
            return None
        opened.append(open_in_root(folder, target[len(place) :].strip("/") or ".", os.O_PATH))
        status = os.fstat(opened[-1])
    except OSError:
        return None
    finally:
        for fd in opened:
            os.close(fd)
    return status if stat.S_ISDIR(status.st_mode) else None


def _like(status: os.stat_result | None, names: set[str], ids: tuple[int, int]) -> list[str]:
    """Return options that are not among `names`, for a root directory like that of `status`."""
    if status is None:
        return [] if "mode" in names else [f"mode={_DEFAULT}"]
    values = {"mode": f"{stat.S_IMODE(status.st_mode):o}"}
    for name, number, count in (("uid", status.st_uid, ids[0]), ("gid", status.st_gid, ids[1])):
        if number < count:  # else its owner is nobody of the container
            values[name] = str(number)
    return [f"{name}={value}" for name, value in values.items() if name not in names]
