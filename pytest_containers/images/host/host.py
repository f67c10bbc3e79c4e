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
from typing import TYPE_CHECKING, Any

from pytest_containers.images.host import host_signature
from pytest_containers.images.host.skeleton import ETC, Skeleton
from pytest_containers.images.image import HostMount, Image, ImageConfig, Layer
from pytest_containers.images.store import records
from pytest_containers.images.store.store import Store, storing
from pytest_containers.linux.files import follow_links
from pytest_containers.model.errors import ImageError

if TYPE_CHECKING:
    from pytest_containers.images.reference import HostSource

_FORMAT = 2  # counts changes of what is made from the same machine
_CLASS = "caller"
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNELS = ("/proc", "/sys", "/dev", "/etc")
_log = logging.getLogger(__name__)


def host_image(
    store: Store, source: HostSource, *, project: Path | None = None, name: str = "host:"
) -> Image:
    """Return the image of this machine, made anew if it is not stored or something changed.

    Args:
        store: Keeps the skeleton.
        source: What is shown beside the defaults.
        project: The checkout for ``project=1``; None finds it from the working directory.
        name: What the image was asked for as.

    Raises:
        ImageError: A path does not exist or may not be shown.
    """
    shown = _extra_paths(source, project)
    key = _signature(source, shown)
    record_path = store.home / "host" / f"{key}.json"
    record = records.read(record_path)
    if record is not None and _is_whole(store, record.fields):
        return _image(store, record.fields, name)
    fields = _make(store, source, shown)
    store.write_record(record_path, fields, "the host: image")
    return _image(store, fields, name)


def _extra_paths(source: HostSource, project: Path | None) -> list[str]:
    """Return the paths beyond the defaults, checked."""
    paths = list(source.paths)
    if source.project:
        paths.append(os.fspath(project or find_project(Path.cwd())))
    for path in paths:
        if not os.path.isdir(path):
            problem = "is not a directory" if os.path.exists(path) else "does not exist"
            raise ImageError(f"host: cannot show {path}: it {problem}", path=path)
        real = os.path.realpath(path)
        if any(
            real == kernel_path or real.startswith(f"{kernel_path}/") for kernel_path in _KERNELS
        ):
            raise ImageError(
                f"host: cannot show {path}: {real} is the container's own there; "
                "for a part of /etc write etc=NAME",
                path=path,
            )
        if host_signature.contains_home(real):
            raise ImageError(
                f"host: will not show {path}: a whole home directory is in it; "
                "name the directory that is needed",
                path=path,
            )
    if source.project:
        installs = host_signature.editable_installs(host_signature.site_packages())
        paths += [
            path for path in installs if not host_signature.contains_home(os.path.realpath(path))
        ]
    return paths


def find_project(start: Path) -> Path:
    """Find the checkout around `start`: the nearest directory that looks like the top of one."""
    marks = ("pyproject.toml", "setup.cfg", "setup.py", "pytest.ini", "tox.ini", ".git")
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in marks):
            return folder
    return start


def _signature(source: HostSource, shown: Sequence[str]) -> str:
    """Return a signature that changes whenever the image could, from some hundred stats."""
    parts: list[object] = [_FORMAT, source.etc, list(shown), os.geteuid()]
    parts += [
        host_signature.homes(),
        host_signature.interpreter_paths(),
        os.path.realpath(_executable()),
    ]
    parts += [_link_of(f"/{name}") for name in (*_TOP, "opt")]
    parts += host_signature.packages_signature()
    parts += [host_signature.binary_signature(name) for name in source.binaries]
    for name in (*ETC, *source.etc):
        path = f"/etc/{name}"
        parts.append(_link_of(path))
        parts += host_signature.tree_signature(path)
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
    _show_local(view)
    for path in host_signature.interpreter_paths():
        if host_signature.contains_home(os.path.realpath(path)):
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
        "public": view.public(),
        "path": _search_path(mounts),
        "packages": host_signature.packages_digest(),
        "binaries": [host_signature.binary_signature(name) for name in source.binaries],
    }
    canonical = json.dumps(record, sort_keys=True).encode()
    return {**record, "id": "sha256:" + hashlib.sha256(canonical).hexdigest()}


def _show_local(view: View) -> None:
    """Show what the machine's administrator has installed; where a home is in /opt, all but that.

    Packages have no secrets, but an administrator may: as root, only what everybody may read.
    """
    public = os.geteuid() == 0
    if public:
        view.show("/usr/local", public=True)
    if not host_signature.contains_home("/opt"):
        view.show("/opt", public=public)
        return
    for entry in os.scandir("/opt"):
        if entry.is_dir() and not host_signature.contains_home(os.path.realpath(entry.path)):
            view.show(entry.path, public=public)


def _search_path(mounts: Sequence[str]) -> str:
    """Return PATH with the tests' environment first, so that `python3` is its Python."""
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
        mounts=tuple(
            HostMount(Path(tree), tree, tree in record["public"]) for tree in record["mounts"]
        ),
    )


class View:
    """The trees of the host that are shown, and the links that lead to them.

    Attributes:
        links: Symbolic links outside of the trees, target by path.
    """

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self._trees: dict[str, bool] = {}

    def show(self, path: str, *, public: bool = False) -> None:
        """Show the directory `path` under every name it has on the way there.

        Args:
            public: Only what every user of this machine may read.
        """
        real = self.follow(path)
        if os.path.isdir(real) and real not in self._trees:
            self._trees[real] = public

    def follow(self, path: str) -> str:
        """Note each link on the way to `path`; return where it ends."""
        try:
            return follow_links(path, self._link_at)
        except OSError:  # a circle of links: nothing to show
            return path

    def _link_at(self, path: str) -> str | None:
        try:
            target = os.readlink(path)
        except OSError:
            return None
        if not self._is_shown(path):
            self.links[path] = target
        return target

    def trees(self) -> list[str]:
        """Return the trees to mount, without those that another one shows as well."""
        return sorted(
            tree for tree, public in self._trees.items() if self._around(tree) is not public
        )

    def public(self) -> list[str]:
        """Return those of `trees` that show only files which every user may read."""
        return [tree for tree in self.trees() if self._trees[tree]]

    def _around(self, path: str) -> bool | None:
        """Return whether the tree around `path` is public; None if there is none."""
        around = [tree for tree in self._trees if path.startswith(f"{tree}/")]
        return self._trees[max(around, key=len)] if around else None

    def _is_shown(self, path: str) -> bool:
        return path in self._trees or self._around(path) is not None
