"""What this machine is: its release, installed packages, interpreter, and who lives on it."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
PACKAGE_TEXTS = ("/var/lib/dpkg/status", "/lib/apk/db/installed")
"""Package databases that are text: the same packages give the same bytes on another machine."""
PACKAGE_FILES = (
    "/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages.db", "/var/lib/rpm/Packages",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db",
)  # fmt: skip
"""Package databases that are large and binary: known by size and time."""
PACKAGE_FOLDERS = ("/var/lib/pacman/local",)
"""Package databases with a folder named for each package and its version."""

Signature = tuple[object, ...]


def stat_signature(path: str) -> Signature | None:
    """Return a signature that changes whenever the file at `path` may have; None if missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (path, status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)


def tree_signature(path: str) -> Iterator[Signature | None]:
    """Yield `stat_signature` of all below `path`; links count by their directory's time."""
    try:
        entries = list(os.scandir(path))
    except OSError:
        yield stat_signature(path)
        return
    yield stat_signature(path)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from tree_signature(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield stat_signature(entry.path)


def packages_signature() -> Iterator[Signature | None]:
    """Yield signatures that change whenever the release or a package may have changed."""
    for path in (*OS_RELEASE, *PACKAGE_TEXTS, *PACKAGE_FILES, *PACKAGE_FOLDERS):
        yield stat_signature(path)


def packages_digest() -> str:
    """Digest the release and the package database; takes milliseconds."""
    hasher = hashlib.sha256()
    for path in (*OS_RELEASE[-1:], *PACKAGE_TEXTS):
        try:
            with open(path, "rb") as file:
                hasher.update(path.encode() + b"\0" + file.read())
        except OSError:
            continue
    for path in PACKAGE_FILES:
        try:
            status = os.stat(path)
        except OSError:
            continue
        hasher.update(f"{path} {status.st_size} {status.st_mtime_ns}\0".encode())
    for path in PACKAGE_FOLDERS:
        if os.path.isdir(path):
            hasher.update(json.dumps(sorted(os.listdir(path))).encode())
    return hasher.hexdigest()


def binary_signature(name: str) -> tuple[str, str, int, int] | tuple[str]:
    """Return name, path, size and time of a program; just the name if PATH does not have it."""
    path = name if "/" in name else shutil.which(name)
    if path is None:
        return (name,)
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except OSError:
        return (name,)
    return (name, real, status.st_size, status.st_mtime_ns)


def homes() -> tuple[str, ...]:
    """Return the caller's home directories by the environment and by the user database."""
    directories = {os.path.realpath(os.path.expanduser("~"))}
    with suppress(KeyError):  # a user without an entry, as in many CI containers
        directories.add(os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir))
    return tuple(sorted(directories - {"/"}))


def contains_home(path: str) -> bool:
    """Check whether showing `path` would show a whole home directory."""
    return path == "/" or any(f"{home}/".startswith(f"{path}/") for home in homes())


def interpreter_paths() -> tuple[str, ...]:
    """Return the directories that make the running interpreter and its environment."""
    prefixes = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    return tuple(path for path in prefixes if os.path.isdir(path))


def editable_installs(site_packages: Iterable[str]) -> Iterator[str]:
    """Return directories outside of `site_packages` that packages there are imported from.

    Those are the lines of ``.pth`` files that are paths, and the sources that PEP 610's
    ``direct_url.json`` calls editable (which covers finder hooks too).
    """
    for folder in map(Path, site_packages):
        for pth in sorted(folder.glob("*.pth")):
            for line in pth.read_text(errors="replace").splitlines():
                if line.startswith("/") and os.path.isdir(line.strip()):
                    yield line.strip()
        for file in sorted(folder.glob("*.dist-info/direct_url.json")):
            try:
                record = json.loads(file.read_bytes())
            except (OSError, ValueError):
                continue
            url = record.get("url", "")
            if record.get("dir_info", {}).get("editable") and url.startswith("file://"):
                from urllib.parse import unquote

                path = unquote(url[len("file://") :])
                if os.path.isdir(path):
                    yield path


def site_packages() -> tuple[str, ...]:
    """Return the directories in which the running environment has its packages."""
    import sysconfig

    return tuple(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
