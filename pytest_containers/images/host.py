"""The `host:` image: this machine's programs, read-only, under a fresh `/etc /var /tmp /home`.

A skeleton layer (made by the caller, so no process has to be started for it) plus a list of
host directories that the runtime shows read-only at their own paths.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_containers.errors import ImageError
from pytest_containers.images import machine
from pytest_containers.images.image import HostMount, Image, ImageConfig, Layer
from pytest_containers.images.reference import HostSource
from pytest_containers.images.skeleton import ETC, Skeleton
from pytest_containers.images.store import Store, storing

_FORMAT = 1  # counts changes of what is made from the same machine
_CLASS = "caller"
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNELS = ("/proc", "/sys", "/dev", "/etc")
_log = logging.getLogger(__name__)


def host_image(
    store: Store, source: HostSource, *, project: Path | None = None, name: str = "host:"
) -> Image:
    """The image of this machine, made if it is not in the store or something changed.

    Args:
        store: Keeps the skeleton.
        source: What is shown beside the defaults.
        project: The checkout for ``project=1``; None finds it from the working directory.
        name: What the image was asked for as.

    Raises:
        ImageError: A path does not exist or may not be shown.
    """
    shown = _wanted(source, project)
    key = _signature(source, shown)
    record_path = store.home / "host" / f"{key}.json"
    record = store.read_json(record_path)
    if record is None or not _is_whole(store, record):
        record = _make(store, source, shown)
        with storing("the host: image", store.home):
            store.write_atomically(record_path, json.dumps(record).encode())
    return _image(store, record, name)


def _wanted(source: HostSource, project: Path | None) -> list[str]:
    """The paths beyond the defaults, checked."""
    wanted = list(source.paths)
    if source.project:
        wanted.append(os.fspath(project or find_project(Path.cwd())))
    for path in wanted:
        if not os.path.isdir(path):
            what = "is not a directory" if os.path.exists(path) else "does not exist"
            raise ImageError(f"host: cannot show {path}: it {what}", path=path)
        real = os.path.realpath(path)
        if any(real == at or real.startswith(f"{at}/") for at in _KERNELS):
            raise ImageError(
                f"host: cannot show {path}: {real} is the container's own there; "
                "for a part of /etc write etc=NAME",
                path=path,
            )
        if machine.contains_home(real):
            raise ImageError(
                f"host: will not show {path}: a whole home directory is in it; "
                "name the directory that is needed",
                path=path,
            )
    if source.project:
        installs = machine.editable_installs(machine.site_packages())
        wanted += [path for path in installs if not machine.contains_home(os.path.realpath(path))]
    return wanted


def find_project(start: Path) -> Path:
    """The checkout that `start` is in: the nearest directory that looks like the top of one."""
    marks = ("pyproject.toml", "setup.cfg", "setup.py", "pytest.ini", "tox.ini", ".git")
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in marks):
            return folder
    return start


def _signature(source: HostSource, shown: Sequence[str]) -> str:
    """Changes whenever the image could; costs some hundred stats and no reading."""
    parts: list[object] = [_FORMAT, source.etc, list(shown), os.geteuid()]
    parts += [machine.homes(), machine.interpreter_paths(), os.path.realpath(_executable())]
    parts += [_link_of(f"/{name}") for name in (*_TOP, "opt")]
    parts += machine.packages_signature()
    parts += [machine.binary_signature(name) for name in source.binaries]
    for name in (*ETC, *source.etc):
        path = f"/etc/{name}"
        parts.append(_link_of(path))
        parts += machine.tree_signature(path)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _executable() -> str:
    import sys

    return sys.executable or ""


def _link_of(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return "" if os.path.isdir(path) else None


def _is_whole(store: Store, record: dict[str, Any]) -> bool:
    return (store.layer_dir(_CLASS, record["skeleton"]) / "tree").is_dir()


def _make(store: Store, source: HostSource, shown: Sequence[str]) -> dict[str, Any]:
    skeleton, view = Skeleton(), View()
    view.show("/usr")
    for name in _TOP:
        view.show(f"/{name}")
    _show_opt(view)
    for path in machine.interpreter_paths():
        if machine.contains_home(os.path.realpath(path)):
            _log.warning("host: does not show the interpreter: %s contains a home directory", path)
        else:
            view.show(path)
    for path in shown:
        view.show(path)
    view.follow(_executable())
    mounts = view.trees()
    for tree in mounts:
        skeleton.add_directory(tree)
    for path, target in view.links.items():
        skeleton.directories.pop(path, None)
        skeleton.add_link(path, target)
    for name in (*ETC, *source.etc):
        skeleton.copy_etc(name)
    skeleton.hide_passwords()
    skeleton.below(mounts)
    digest = skeleton.digest()
    _write(store, skeleton, digest)
    record: dict[str, Any] = {
        "skeleton": digest,
        "mounts": mounts,
        "path": _search_path(mounts),
        "packages": machine.packages_digest(),
        "binaries": [machine.binary_signature(name) for name in source.binaries],
    }
    canonical = json.dumps(record, sort_keys=True).encode()
    return {**record, "id": "sha256:" + hashlib.sha256(canonical).hexdigest()}


def _show_opt(view: View) -> None:
    """All of /opt; where somebody's home is in there, all but that."""
    if not machine.contains_home("/opt"):
        view.show("/opt")
        return
    for entry in os.scandir("/opt"):
        if entry.is_dir() and not machine.contains_home(os.path.realpath(entry.path)):
            view.show(entry.path)


def _search_path(mounts: Sequence[str]) -> str:
    """PATH with the environment that runs the tests first, so that `python3` is its Python."""
    import sys

    own = os.path.join(sys.prefix, "bin")
    if own in _PATH.split(":") or not os.path.isdir(own):
        return _PATH
    return f"{own}:{_PATH}"


def _write(store: Store, skeleton: Skeleton, digest: str) -> None:
    layer = store.layer_dir(_CLASS, digest)
    with storing("the host: image", store.home), store.temp_dir() as temp:
        if not layer.is_dir():
            (temp.path / "tree").mkdir()
            skeleton.write(temp.path / "tree")
            store.finish_layer(temp, layer, {"kind": "skeleton"})


def _image(store: Store, record: dict[str, Any], name: str) -> Image:
    tree = store.layer_dir(_CLASS, record["skeleton"]) / "tree"
    return Image(
        id=record["id"],
        name=name,
        layers=(Layer(tree, "caller", record["skeleton"]),),
        config=ImageConfig(
            cmd=("/bin/sh",), env={"PATH": record["path"]}, architecture=platform.machine()
        ),
        mounts=tuple(HostMount(Path(tree), tree) for tree in record["mounts"]),
    )


class View:
    """Which trees of the host are shown, and which links lead to them.

    Attributes:
        links: Symbolic links outside of the trees, target by path.
    """

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self._trees: list[str] = []

    def show(self, path: str) -> None:
        """Show the directory `path` under every name it has on the way there."""
        real = self.follow(path)
        if os.path.isdir(real) and not self._is_shown(real):
            self._trees.append(real)

    def follow(self, path: str) -> str:
        """Note each link on the way to `path`; returns where it ends."""
        at, rest, hops = "", path.strip("/").split("/"), 0
        while rest:
            part = rest.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                at = os.path.dirname(at).rstrip("/")
                continue
            step = f"{at}/{part}"
            try:
                target = os.readlink(step)
            except OSError:
                at = step
                continue
            hops += 1
            if hops > 40:  # the kernel's own limit (path_resolution(7))
                break
            if not self._is_shown(step):
                self.links[step] = target
            rest = target.strip("/").split("/") + rest
            at = "" if target.startswith("/") else at
        return at or "/"

    def trees(self) -> list[str]:
        """What has to be mounted: no tree that another one contains."""
        return sorted(
            tree
            for tree in self._trees
            if not any(tree.startswith(f"{other}/") for other in self._trees)
        )

    def _is_shown(self, path: str) -> bool:
        return any(path == tree or path.startswith(f"{tree}/") for tree in self._trees)
