"""The writable-looking part of the `host:` image: a small layer of directories, links and files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

ETC = (
    "passwd", "group", "nsswitch.conf", "host.conf", "gai.conf",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates/extracted",
    "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
    "crypto-policies/back-ends", "crypto-policies/config", "crypto-policies/state",
    "alternatives", "localtime", "timezone", "services", "protocols", "mime.types",
    "os-release", "debian_version", "alpine-release", "redhat-release",
)  # fmt: skip
"""What of /etc programs need to run. Names that do not exist are passed over."""

_DIRECTORIES = {
    "/": 0o755, "/dev": 0o755, "/etc": 0o755, "/home": 0o755, "/media": 0o755, "/mnt": 0o755,
    "/opt": 0o755, "/proc": 0o555, "/root": 0o700, "/run": 0o755, "/run/lock": 0o1777,
    "/srv": 0o755, "/sys": 0o555, "/tmp": 0o1777, "/usr": 0o755, "/var": 0o755,
    "/var/cache": 0o755, "/var/lib": 0o755, "/var/log": 0o755, "/var/mail": 0o755,
    "/var/spool": 0o755, "/var/tmp": 0o1777,
}  # fmt: skip
_LINKS = {"/var/run": "/run", "/var/lock": "/run/lock", "/etc/mtab": "/proc/self/mounts"}
# The runtime binds its own over these; a read-only root file system needs the targets.
_EMPTY_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


class Skeleton:
    """A file tree in memory; every file is container root's.

    Attributes:
        directories: Mode by path.
        links: Target by path.
        files: Mode and content by path.
    """

    def __init__(self) -> None:
        self.directories: dict[str, int] = dict(_DIRECTORIES)
        self.links: dict[str, str] = dict(_LINKS)
        self.files: dict[str, tuple[int, bytes]] = dict.fromkeys(_EMPTY_FILES, (420, b""))

    def add_directory(self, path: str) -> None:
        """Add a directory for a mount, and those above it."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            directory = "/" + "/".join(parts[:depth])
            if directory not in self.links:
                self.directories.setdefault(directory, 0o755)
        if path.startswith("/root/"):
            # Other users of the container must get through to an interpreter that lives there.
            self.directories["/root"] = 0o711

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link, and the directories above it."""
        self.add_directory(os.path.dirname(path))
        if self.directories.get(path) is None:
            self.links[path] = target

    def copy_etc(self, name: str, *, etc: str = "/etc") -> None:
        """Copy ``/etc/<name>``: only what every user of the machine may read, so no secrets."""
        source = f"{etc}/{name}"
        try:
            status = os.lstat(source)
        except OSError:
            return
        if stat.S_ISLNK(status.st_mode) and self._leads_to_view(source):
            self.add_link(f"/etc/{name}", os.readlink(source))
            return
        self._copy(os.path.realpath(source), f"/etc/{name}")

    @staticmethod
    def _leads_to_view(source: str) -> bool:
        real = os.path.realpath(source)
        return real.startswith(("/usr/", "/opt/", "/proc/"))

    def _copy(self, source: str, target: str) -> None:
        try:
            mode = os.lstat(source).st_mode
            if stat.S_ISLNK(mode):
                self.add_link(target, os.readlink(source))
            elif stat.S_ISREG(mode) and mode & stat.S_IROTH:
                self.add_directory(os.path.dirname(target))
                with open(source, "rb") as file:
                    self.files[target] = (stat.S_IMODE(mode) & 0o755, file.read())
            elif stat.S_ISDIR(mode) and mode & 0o005 == 0o005:
                self.add_directory(target)
                for entry in os.scandir(source):
                    if entry.is_symlink():  # told by the directory itself, no further lstat
                        leads_to = os.readlink(entry.path)
                        # Manuals are four in five of Debian's alternatives, and a link costs 15 µs.
                        if "/man/man" not in leads_to:
                            self.links[f"{target}/{entry.name}"] = leads_to
                    else:
                        self._copy(entry.path, f"{target}/{entry.name}")
        except (FileNotFoundError, PermissionError):
            return  # gone since it was listed, or hidden by more than its mode

    def hide_passwords(self) -> None:
        """Drop all hashes from passwd and group, and add a shadow file that permits no login."""
        for name in ("/etc/passwd", "/etc/group"):
            mode, content = self.files.get(name, (0o644, b""))
            lines = [line.split(b":") for line in content.splitlines() if line.count(b":") >= 3]
            without = (b":".join([fields[0], b"x", *fields[2:]]) + b"\n" for fields in lines)
            self.files[name] = (mode, b"".join(without))
            if name == "/etc/passwd":
                self.files["/etc/shadow"] = (
                    0o600,
                    b"".join(fields[0] + b":*:::::::\n" for fields in lines),
                )

    def below(self, trees: list[str]) -> None:
        """Forget what lies below `trees`, where mounts will hide it."""
        prefixes = tuple(f"{tree}/" for tree in trees)
        for table in (self.directories, self.links, self.files):
            for path in [path for path in table if path.startswith(prefixes)]:
                del table[path]

    def digest(self) -> str:
        """Return a digest that is equal for equal trees."""
        hasher = hashlib.sha256(b"pytest-containers skeleton 1\0")
        for line in self._listing():
            hasher.update(line)
        return "sha256:" + hasher.hexdigest()

    def _listing(self) -> Iterator[bytes]:
        for path, mode in sorted(self.directories.items()):
            yield b"d%o %s\0" % (mode, os.fsencode(path))
        for path, target in sorted(self.links.items()):
            yield b"l%s\0%s\0" % (os.fsencode(path), os.fsencode(target))
        for path, (mode, data) in sorted(self.files.items()):
            yield b"f%o %s\0%d\0" % (mode, os.fsencode(path), len(data)) + data

    def write(self, root: Path) -> None:
        """Write the tree into the empty directory `root`, which other users cannot reach."""
        base = os.fspath(root)
        for path in sorted(self.directories):
            if path != "/":
                os.mkdir(base + path)
        for path, target in self.links.items():
            os.symlink(target, base + path)
        for path, (mode, data) in self.files.items():
            fd = os.open(base + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            with open(fd, "wb", buffering=0) as file:
                file.write(data)
                os.fchmod(fd, mode)
        # Deepest first, and explicitly: mkdir's own mode would pass through the umask.
        for path in sorted(self.directories, reverse=True):
            os.chmod(base + path, self.directories[path])
