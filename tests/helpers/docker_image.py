"""A small image for tests with a daemon of Docker: programs of this machine, and its Python."""

from __future__ import annotations

import tarfile
from pathlib import Path

from helpers.layouts import busybox, layer, member

PROGRAMS = ("sleep", "cat", "stat", "getent", "true", "false", "echo", "env", "id", "ls", "chmod")
_PYTHON = Path("/usr/bin/python3")
_LEFT_OUT = {
    "test", "__pycache__", "idlelib", "tkinter", "ensurepip", "lib2to3", "unittest", "pydoc_data",
    "distutils", "config",
}  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def write_tar(path: Path) -> Path:
    """Write the root file system as a tar, for ``docker import``."""
    python = _PYTHON.resolve()
    members = [
        *busybox(*PROGRAMS, str(python)),
        *(member(name, text.encode(), mode=0o644) for name, text in _FILES.items()),
        member("tmp", type=tarfile.DIRTYPE, mode=0o1777),
        member("root", type=tarfile.DIRTYPE, mode=0o700),
        member("srv", type=tarfile.DIRTYPE, mode=0o755),
        member("usr/bin/python3", type=tarfile.SYMTYPE, linkname=f"/bin/{python}"),
    ]
    members = [each for each in members if not each[0].startswith("bin//")]
    members[-1] = member("usr/bin/python3", python.read_bytes())
    path.write_bytes(layer(members))
    library = Path("/usr/lib") / python.name
    with tarfile.open(path, "a") as tar:
        tar.add(library, str(library).lstrip("/"), filter=_needed)
    return path


def _needed(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = info.name.split("/")
    if _LEFT_OUT.intersection(parts) or any(part.startswith("config-3") for part in parts):
        return None
    return info
