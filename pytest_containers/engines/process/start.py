"""From the spec of a container to its files, its view and its init."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_containers.engines.process import refusals
from pytest_containers.engines.process.accounts import account_of
from pytest_containers.engines.process.core import (
    ProcessCore,
    ProcessNetwork,
    ProcessVolume,
    gateway_of,
)
from pytest_containers.engines.process.run import Init
from pytest_containers.engines.process.view import ETC, FileView
from pytest_containers.images.reference import HostSource, parse
from pytest_containers.model.errors import StartError, hide_frames
from pytest_containers.model.mounts import Bind, Tmpfs, VolumeMount, normal_target
from pytest_containers.model.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.images.image import Image

__tracebackhide__ = hide_frames

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_HOME = "/root"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOST_ACCOUNT_BYTES = 16 << 20
_UNUSABLE = re.compile(r"[^a-zA-Z0-9._-]")


class PreparedFiles(NamedTuple):
    """A container whose init is being confined.

    Attributes:
        view: Its files.
        init: Its init.
        address: Its address; empty without a network.
    """

    view: FileView
    init: Init
    address: str


def names_of(spec: ContainerSpec, name: str) -> list[str]:
    """Return the host names of a container."""
    host_name = _UNUSABLE.sub("-", name[:63])
    return list(dict.fromkeys([host_name, *spec.aliases]))


def environment(
    spec: ContainerSpec, image: Image, name: str, view: FileView, home: str
) -> dict[str, str]:
    """Return the variables of the programs of a container."""
    own = {"HOSTNAME": names_of(spec, name)[0], "PATH": _PATH}
    if not view.is_tree:
        own |= {"HOME": _HOME, "TMPDIR": "/tmp"}
    elif home:
        own["HOME"] = home
    merged = {**own, **image.config.env, **spec.env}
    return {key: view.text(value) for key, value in merged.items()}


def prepare(
    core: ProcessCore, key: str, name: str, spec: ContainerSpec, image: Image,
    network: ProcessNetwork | None,
) -> PreparedFiles:  # fmt: skip
    """Copy the files of a container, and begin to confine its init.

    Args:
        key: Its id.
        network: None gives it no address.

    Raises:
        UnsupportedError: An option cannot be kept.
        StartError: A file cannot be made.
    """
    is_tree = not image.mounts
    refusals.check(spec, is_tree=is_tree)
    places = core.run.places
    root = (places.trees if is_tree else places.files) / f"c{key}"
    try:
        core.fill(image, root)
        view = FileView(
            os.fspath(root),
            is_tree=is_tree,
            shown=[os.fspath(mount.source) for mount in image.mounts],
            run_folders=places.folders,
        )
        bound = _mount(core, spec, view)
        if is_tree:
            _complete_tree(view)
    except OSError as error:
        shutil.rmtree(root, ignore_errors=True)
        place = f"{error.filename}: " if error.filename else ""
        raise StartError(
            f"start of container {name!r}: {place}{error.strerror}", errno=error.errno
        ) from error
    address = places.take_address() if network is not None else ""
    fields: dict[str, Any] = {
        "address": address,
        "network": None if network is None else network.id,
        "names": [each.lower() for each in names_of(spec, name)],
        "egress": bool(spec.egress),
        "host_ports": list(spec.host_ports),
        "gateway": gateway_of(address) if spec.host_ports else "",
        "view": {
            "rules": _rules(image, view, bound),
            "root": view.root if is_tree else None,
            "single": not core.is_root,
        },
    }
    return PreparedFiles(view, core.run.create(key, name, fields), address)


def _mount(core: ProcessCore, spec: ContainerSpec, view: FileView) -> list[tuple[str, str]]:
    """Put the mounts of a spec where programs find them; return the rules that they need."""
    rules = []
    for mount in spec.parsed_mounts:
        target = normal_target(mount.target)
        if isinstance(mount, Tmpfs):
            place = view.resolved(target, write=True)
            shutil.rmtree(place, ignore_errors=True)
            os.makedirs(place)
            os.chmod(place, 0o1777 if mount.mode is None else mount.mode)
        elif isinstance(mount, VolumeMount):
            volume = mount.volume
            assert isinstance(volume, ProcessVolume)
            view.mapped[target] = os.fspath(volume.folder)
            rules.append((os.fspath(volume.folder), "read" if mount.read_only else "write"))
        elif view.is_tree:
            place = view.resolved(target, write=True)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.isdir(mount.source):
                core.copy(os.path.realpath(mount.source), Path(place))
            else:
                shutil.copy(mount.source, place)
        else:
            assert isinstance(mount, Bind)
            source = os.path.realpath(mount.source)
            os.stat(source)  # raises if it is not there
            view.mapped[target] = source
            rules.append((source, "read" if mount.read_only else "write"))
    return rules


def _rules(image: Image, view: FileView, bound: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what Landlock allows; see `confinement`."""
    rules = [(view.root, "write"), *bound]
    rules.append(("/proc", "read"))
    if view.is_tree:
        return rules
    # The interpreters and packages that `host:` shows, and what they need of the machine.
    rules += [(os.fspath(mount.source), "read") for mount in image.mounts]
    rules += [(f"/{name}", "read") for name in ("bin", "sbin", "lib", "lib64", "usr", "sys")]
    source = parse(image.name)
    named = source.etc if isinstance(source, HostSource) else ()
    rules += [(f"/etc/{name}", "read") for name in (*ETC, *named)]
    rules += [(path, "read") for path in _linked_etc()]
    rules += [(f"/dev/{name}", "device") for name in _DEVICES]
    return list(dict.fromkeys(rules))


def _linked_etc() -> list[str]:
    names = ("localtime", "resolv.conf", "os-release")
    return [os.path.realpath(f"/etc/{name}") for name in names]


def _complete_tree(view: FileView) -> None:
    """Make what programs expect in a tree and no image has: devices, /tmp, /dev/shm."""
    for path, mode in (("/tmp", 0o1777), ("/dev/shm", 0o1777), ("/run", 0o755), ("/etc", 0o755)):
        place = view.resolved(path)
        os.makedirs(place, exist_ok=True)
        os.chmod(place, mode)
    for name, major, minor in (
        ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9),
        ("tty", 5, 0),
    ):  # fmt: skip
        place = view.place(f"/dev/{name}")
        if not os.path.lexists(place):
            os.mknod(place, 0o666 | 0o020000, os.makedev(major, minor))
            os.chmod(place, 0o666)


def _read_account_files(view: FileView) -> list[bytes]:
    try:
        return [view.read(f"/etc/{name}", _MOST_ACCOUNT_BYTES) for name in ("passwd", "group")]
    except OSError as error:
        raise StartError(
            f"users of the container: {error.filename}: {error.strerror}", errno=error.errno
        ) from None


def spawn_fields(
    view: FileView,
    args: Sequence[str],
    env: Mapping[str, str],
    workdir: str,
    user: str,
    groups: Sequence[str],
    limits: Mapping[str, int | tuple[int, int]],
) -> dict[str, Any]:
    """Return the description of a program for `init`."""
    passwd, group_file = _read_account_files(view)
    account = account_of(passwd, group_file, user, groups)
    place = view.resolved(workdir or "/") if view.is_tree else view.place(workdir or "/")
    if not os.path.isdir(place):
        os.makedirs(view.resolved(workdir, write=True), exist_ok=True)
    inside = place.removeprefix(view.root) or "/" if view.is_tree else place
    full = dict(env)
    if view.is_tree:
        full.setdefault("HOME", account.home or "/")
    return {
        "args": view.words(args),
        "env": full,
        "cwd": inside,
        "uid": account.uid,
        "gid": account.gid,
        "groups": list(account.groups),
        "limits": {
            name.lower().removeprefix("rlimit_"): value
            if isinstance(value, tuple)
            else (value,) * 2
            for name, value in limits.items()
        },
    }
