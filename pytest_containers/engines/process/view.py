"""What a container sees of the file system: its private files, and the programs of the machine.

Without mounts there are two kinds. A *tree* is an image that was unpacked, entered by chroot(2):
paths are what they are. A *shared* view (``host:``) has the root directory of the machine, which
Landlock makes read-only; private directories, such as ``/tmp`` and ``/var/lib``, are elsewhere, and
their paths are replaced in commands and variables.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pytest_containers.engines.process import opening
from pytest_containers.engines.process.trees import replace_in_files
from pytest_containers.linux.files import follow_links

_RECORD = ".private-paths"
_MOST_RECORD_BYTES = 1 << 18
PRIVATE = (
    "/data", "/home", "/media", "/mnt", "/root", "/run", "/srv", "/tmp", "/var",
)  # fmt: skip
"""Directories of the machine in whose place each container has its own."""
ETC = (
    "passwd", "group", "nsswitch.conf", "host.conf", "gai.conf", "hosts", "hosts.allow",
    "hosts.deny", "hostname",
    "resolv.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "ssl",
    "ca-certificates", "pki", "crypto-policies", "alternatives", "localtime", "timezone",
    "services", "protocols", "mime.types", "os-release", "debian_version", "alpine-release",
    "redhat-release", "locale.alias", "java", "fonts", "terminfo", "inputrc", "profile",
)  # fmt: skip
"""What of the machine's /etc a shared view shows: nothing with secrets. The rest is private."""
_LINKS = {"/var/run": "/run", "/var/lock": "/run/lock"}
_SHOWN = ("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc", "/sbin",
          "/sys", "/usr")  # fmt: skip
_SHOWN_WHOLE = tuple(path for path in _SHOWN if path != "/etc")
_OWN_ETC = rf"/etc/(?!(?:{'|'.join(map(re.escape, ETC))})(?![\w.-]))[\w.-]+"


class FileView:
    """The paths of a container.

    Args:
        root: The directory of its files on this machine.
        is_tree: True if programs enter it by chroot(2).
        shown: Directories of the machine that a shared view shows.
        mapped: Directories of the machine by the path in the container: volumes and binds.
        run_folders: Directories of the run, whose paths are never replaced.
    """

    def __init__(
        self,
        root: str,
        *,
        is_tree: bool,
        shown: Sequence[str] = (),
        mapped: Mapping[str, str] | None = None,
        run_folders: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.is_tree = is_tree
        self.shown: tuple[str, ...] = tuple(shown)
        self.mapped: dict[str, str] = dict(mapped or {})
        self._run_folders = tuple(run_folders)
        self._written: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        if not is_tree:
            self._settle()

    def _settle(self) -> None:
        """Make a copy of another container's files, a state for example, its own.

        What programs have written to private files of /etc names the places of that container.
        """
        old_root, written = _recorded(self.root)
        self._written = dict.fromkeys(written)
        if old_root not in ("", self.root):
            replace_in_files(f"{self.root}/etc", old_root, self.root)
        self._note()

    def _note(self) -> None:
        record = json.dumps({"root": self.root, "written": list(self._written)}).encode()
        opening.replace_file(self.root, f"{self.root}/{_RECORD}", record)

    # ------------------------------------------------------------------------- paths

    def place(self, path: str, *, write: bool = False) -> str:
        """Return the place on this machine of an absolute path in the container.

        Args:
            write: The path is about to be written; it becomes private.

        Raises:
            PermissionError: It is read-only.
        """
        normal = posixpath.normpath(f"/{path}".replace("//", "/"))
        for link, target in _LINKS.items():
            if not self.is_tree and (normal == link or normal.startswith(f"{link}/")):
                normal = target + normal.removeprefix(link)
        for target in sorted(self.mapped, key=len, reverse=True):
            if normal == target or normal.startswith(f"{target}/"):
                return self.mapped[target] + normal.removeprefix(target)
        if self.is_tree:
            return self._inside(normal)
        if self._is_private(normal):
            return self.root + normal
        is_shown = any(_is_below(normal, tree) for tree in (*_SHOWN, *self.shown))
        if write:
            if is_shown and not normal.startswith("/etc/"):
                raise PermissionError(13, "it is a file of the machine, which is read-only", path)
            self._written[normal] = None
            self._pattern = None
            self._note()
            return self.root + normal
        return normal if is_shown else self.root + normal

    def _inside(self, normal: str) -> str:
        """Return the place in the tree, with all links but the last as chroot(2) has them."""
        folder, leaf = posixpath.split(normal)
        return f"{self.root}{self._followed(folder).rstrip('/')}/{leaf}".rstrip("/")

    def _followed(self, normal: str) -> str:
        def link_at(path: str) -> str | None:
            try:
                return os.readlink(self.root + path)
            except OSError:
                return None

        return follow_links(normal, link_at)

    def resolved(self, path: str, *, write: bool = False) -> str:
        """Return the place of a path behind all links, none of which leads out.

        Programs of the container make links, and the caller may be root.

        Raises:
            PermissionError: It leads to a file that the container cannot read or write.
        """
        if self.is_tree:
            place = self._inside(posixpath.normpath(f"/{path}".replace("//", "/")))
            return self.root + self._followed(place.removeprefix(self.root)).rstrip("/")
        place = os.path.realpath(self.place(path, write=write))
        own = [self.root, *map(os.path.realpath, self.mapped.values())]
        readable = [*_SHOWN_WHOLE, *self.shown, *(f"/etc/{name}" for name in ETC)]
        if not any(_is_below(place, tree) for tree in (own if write else own + readable)):
            raise PermissionError(13, f"it leads to {place}, outside of the container", path)
        return place

    @contextmanager
    def folder_of(self, place: str) -> Iterator[tuple[int, str]]:
        """Open the directory of a place behind all links; see `opening.folder_of`."""
        bases = [self.root, os.path.realpath(self.root)]
        bases += filter(os.path.isdir, map(os.path.realpath, self.mapped.values()))
        base = max((base for base in bases if _is_below(place, base)), key=len, default="")
        with opening.folder_of(base, place) as found:
            yield found

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the contents of a file that has no business to be large; none if there is none.

        Raises:
            OSError: It is no regular file, or larger.
        """
        try:
            with self.folder_of(self.resolved(path)) as (folder, leaf):
                return opening.read_all(opening.open_file(folder, leaf, os.O_RDONLY), limit_bytes)
        except FileNotFoundError:
            return b""

    def _is_private(self, normal: str) -> bool:
        if any(_is_below(normal, tree) for tree in self.shown):
            return False  # an interpreter below /home, for example
        own = (*PRIVATE, *self._written)
        return any(_is_below(normal, path) for path in own) or bool(re.match(_OWN_ETC, normal))

    # -------------------------------------------------------------------------- text

    def words(self, words: Sequence[str]) -> list[str]:
        """Return words of a command with the places of private files."""
        return [self.text(word) for word in words]

    def text(self, text: str) -> str:
        """Return a text with the places of the private files that it names."""
        if self.is_tree or "/" not in text:
            return text
        return self._compiled().sub(self._replaced, text)

    def _compiled(self) -> re.Pattern[str]:
        if self._pattern is None:
            paths = sorted({*PRIVATE, *self.mapped, *self._written}, key=len, reverse=True)
            kept = [*self._run_folders, *self.shown]
            names = "|".join([*(re.escape(path) for path in paths), _OWN_ETC])
            alternatives = "|".join(re.escape(path) for path in sorted(kept, key=len)[::-1])
            skipped = rf"(?P<kept>(?:{alternatives})(?![\w.-]))|" if kept else ""
            self._pattern = re.compile(
                rf"(?<![\w./-])(?:{skipped}(?P<private>(?:{names})(?:/[\w./@%+,-]*)?)(?![\w.-]))"
            )
        return self._pattern

    def _replaced(self, match: re.Match[str]) -> str:
        path = match["private"]
        if not path:
            return match[0]
        end = path[len(path.rstrip("/.,")) :]  # the end of a sentence, or of a directory
        return self.place(path.rstrip("/.,") or path) + end


def _recorded(root: str) -> tuple[str, list[str]]:
    """Return where the files were, and the paths that were made private.

    Programs may have written the record.
    """
    try:
        listed = json.loads(opening.read_file(root, f"{root}/{_RECORD}", _MOST_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return "", []
    if not isinstance(listed, dict):
        return "", []
    old_root, paths = listed.get("root"), listed.get("written")
    if not isinstance(old_root, str) or not old_root.startswith("/") or old_root == "/":
        old_root = ""
    written = paths if isinstance(paths, list) else []
    return old_root, [path for path in written if isinstance(path, str) and path.startswith("/")]


def _is_below(path: str, tree: str) -> bool:
    return path == tree or path.startswith(f"{tree}/")
