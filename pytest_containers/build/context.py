"""The build context: a directory that is looked at, never left, and read as little as possible."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_containers.build.dockerfile.ignore import Patterns, glob_regex, ignore_file
from pytest_containers.build.filedigests import FileDigests
from pytest_containers.errors import BuildError, hide_frames

__tracebackhide__ = hide_frames

_MAX_LINKS = 40
_WILD = frozenset("*?[")


class Entry(NamedTuple):
    """A file, directory or symbolic link as it was seen.

    Attributes:
        path: Relative to the context, with ``/``; empty is the context itself.
        mode: Type and permissions.
        identity: ``(device, inode, size, mtime_ns, ctime_ns)``: the same identity, the same
            contents.
        target: Of a symbolic link.
    """

    path: str
    mode: int
    identity: tuple[int, int, int, int, int]
    target: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def size_bytes(self) -> int:
        """Of a file."""
        return self.identity[2]

    @property
    def mtime_ns(self) -> int:
        """When its contents changed."""
        return self.identity[3]


class Selected(NamedTuple):
    """What a source of COPY stands for.

    Attributes:
        name: Its own name, for a destination that is a directory.
        below: Of ``--parents``: the directories that come along.
        top: The file, or the directory whose contents are meant.
        entries: What is in that directory, parents before children.
    """

    name: str
    below: str
    top: Entry
    entries: tuple[Entry, ...]


class Context:
    """A directory of files to build from.

    What ``.dockerignore`` excludes is not there. Every directory is listed at most once, and only
    when it is asked for.

    Args:
        root: The directory.
        patterns: What is left out.
        digests: Knows files that were read before.
        what: What messages call it.
    """

    def __init__(
        self, root: Path, patterns: Patterns, digests: FileDigests, *, what: str = ""
    ) -> None:
        self.root = root
        self.what: str = what or f"the context {root}"
        self._patterns = patterns
        self._digests = digests
        self._folders: dict[str, list[Entry]] = {}
        self._matches: dict[str, int] = {"": 0}

    # ----------------------------------------------------------------- looking

    def select(
        self, source: str, *, exclude: Patterns | None = None, parents: bool = False
    ) -> list[Selected]:
        """What a source names: a path, or a pattern that may stand for several.

        Args:
            exclude: More that is left out, relative to what is selected.
            parents: Keep the directories of what is selected, those after ``/./`` if there is one.

        Raises:
            BuildError: It leads out of the context, or a path is not there.
        """
        pivot = _clean(source.rpartition("/./")[0]) if parents else ""
        plain = _clean(source)
        paths = self._glob(plain) if _WILD & set(plain) else [plain]
        selected = []
        for path in paths:
            entry = self._at(path)
            if exclude and exclude.excludes_path(path if parents else posixpath.basename(path)):
                continue
            entries = tuple(self._below(entry.path, exclude, path if parents else ""))
            name = posixpath.basename(path)
            below = ""
            if parents:
                kept = posixpath.relpath(path, pivot or ".")
                below = kept if entry.is_folder else posixpath.dirname(kept)
            selected.append(Selected(name, below, entry, entries))
        return selected

    def _at(self, path: str) -> Entry:
        """What is at `path`, with symbolic links followed inside the context."""
        links = 0
        done: list[str] = []
        todo = [part for part in path.split("/") if part]
        while todo:
            part = todo.pop(0)
            if part == "..":
                if done:
                    done.pop()
                continue
            entry = self._child("/".join(done), part)
            if entry is None:
                raise self._missing(path)
            if stat.S_ISLNK(entry.mode):
                links += 1
                if links > _MAX_LINKS:
                    raise BuildError(f"{path!r} of {self.what}: too many symbolic links")
                if entry.target.startswith("/"):
                    done = []
                todo = [one for one in entry.target.split("/") if one not in ("", ".")] + todo
                continue
            done.append(part)
        if not done:
            return Entry("", *_facts(os.stat(self.root)), "")
        last = self._child("/".join(done[:-1]), done[-1])
        if last is None:
            raise self._missing(path)
        return last

    def _child(self, folder: str, name: str) -> Entry | None:
        path = f"{folder}/{name}" if folder else name
        return next((one for one in self._listed(folder) if one.path == path), None)

    def _missing(self, path: str) -> BuildError:
        if os.path.lexists(self.root / path):
            return BuildError(
                f"{path!r} is in {self.what}, but .dockerignore excludes it",
                path=path,
            )
        folder = posixpath.dirname(path)
        near = ""
        if (self.root / folder).is_dir():
            import difflib

            names = [posixpath.basename(one.path) for one in self._listed(folder)]
            close = difflib.get_close_matches(posixpath.basename(path), names, 1, 0.6)
            near = f"; did you mean {posixpath.join(folder, close[0])!r}?" if close else ""
        return BuildError(f"there is no {path!r} in {self.what}{near}", path=path)

    def _glob(self, pattern: str) -> list[str]:
        found = [""]
        for part in pattern.split("/"):
            if part == "**":
                found = [
                    path for folder in found for path in (folder, *self._folders_below(folder))
                ]
            elif not _WILD & set(part):
                found = [
                    posixpath.join(folder, part)
                    for folder in found
                    if self._is_folder(folder) and self._child(folder, part) is not None
                ]
            else:
                regex = glob_regex(part)
                found = [
                    one.path
                    for folder in found
                    if self._is_folder(folder)
                    for one in self._listed(folder)
                    if regex.fullmatch(posixpath.basename(one.path))
                ]
        return sorted(path for path in dict.fromkeys(found) if path)

    def _is_folder(self, path: str) -> bool:
        return not path or self._at(path).is_folder

    def _folders_below(self, folder: str) -> list[str]:
        return [one.path for one in self._below(folder, None, "") if one.is_folder]

    def _below(self, folder: str, exclude: Patterns | None, prefix: str) -> Iterator[Entry]:
        """What is in a directory, parents first; of a file, nothing."""
        if folder and not self._at(folder).is_folder:
            return
        todo: list[tuple[str, int]] = [(folder, 0)]
        cut = len(folder) + 1 if folder else 0
        while todo:
            current, above = todo.pop()
            inner: list[tuple[str, int]] = []
            for entry in self._listed(current):
                matches = 0
                if exclude:
                    shown = posixpath.join(prefix, entry.path[cut:])
                    matches = exclude.matches(shown, above)
                    if exclude.excludes(matches):
                        if entry.is_folder and exclude.may_include_below(shown):
                            inner.append((entry.path, matches))
                        continue
                yield entry
                if entry.is_folder:
                    inner.append((entry.path, matches))
            todo.extend(reversed(inner))

    def _listed(self, folder: str) -> list[Entry]:
        """What is in a directory and not excluded, in the order of names."""
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = self._list(folder)
        return known

    def _list(self, folder: str) -> list[Entry]:
        above = self._matches.get(folder, 0)
        found: list[Entry] = []
        try:
            with os.scandir(self.root / folder) as items:
                names = sorted(items, key=lambda item: item.name)
        except NotADirectoryError:
            return []
        except OSError as error:
            raise self._unreadable(folder or ".", error) from None
        prefix = f"{folder}/" if folder else ""
        for item in names:
            path = prefix + item.name
            matches = self._patterns.matches(path, above) if self._patterns else 0
            is_folder = item.is_dir(follow_symlinks=False)
            if matches and self._patterns.excludes(matches):
                if not (is_folder and self._patterns.may_include_below(path)):
                    continue
                self._matches[path] = matches
                if not self._list_below(path):
                    continue
            self._matches[path] = matches
            try:
                status = item.stat(follow_symlinks=False)
                target = os.readlink(item.path) if stat.S_ISLNK(status.st_mode) else ""
            except OSError as error:
                raise self._unreadable(path, error) from None
            if stat.S_ISSOCK(status.st_mode):
                continue
            found.append(Entry(path, *_facts(status), target))
        return found

    def _list_below(self, folder: str) -> bool:
        """Whether anything in an excluded directory was included again."""
        return bool(self._listed(folder))

    def _unreadable(self, path: str, error: OSError) -> BuildError:
        return BuildError(
            f"{path!r} of {self.what} cannot be read: {error.strerror}; permit it, or "
            "exclude it in .dockerignore",
            path=path,
        )

    # ----------------------------------------------------------------- reading

    def digest(self, entry: Entry) -> str:
        """Of a file's contents.

        Raises:
            BuildError: It cannot be read, or changed meanwhile.
        """
        if not stat.S_ISREG(entry.mode):
            return entry.target
        known = self._digests.get(entry.path, entry.identity)
        if known is None:
            fd = self.open(entry)
            try:
                with open(fd, "rb", closefd=False) as file:
                    known = hashlib.file_digest(file, "sha256").hexdigest()
                self.check(entry, fd)
            finally:
                os.close(fd)
            self._digests.set(entry.path, entry.identity, known)
        return known

    def open(self, entry: Entry) -> int:
        """A descriptor of a file that is still what was seen.

        Raises:
            BuildError: It is not.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.root / entry.path, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                raise self._changed(entry) from None
            raise self._unreadable(entry.path, error) from None
        try:
            self.check(entry, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, entry: Entry, fd: int) -> None:
        """See that a file did not change since it was seen.

        Raises:
            BuildError: It did.
        """
        if _facts(os.fstat(fd))[1] != entry.identity:
            raise self._changed(entry)

    def _changed(self, entry: Entry) -> BuildError:
        return BuildError(
            f"{entry.path!r} of {self.what} changed while it was read; build again",
            path=entry.path,
        )


def _facts(status: os.stat_result) -> tuple[int, tuple[int, int, int, int, int]]:
    identity = (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip
    return status.st_mode, identity


def _clean(source: str) -> str:
    """A path relative to the context."""
    parts: list[str] = []
    for part in source.split("/"):
        if part == "..":
            if not parts:
                raise BuildError(
                    f"{source!r} leads out of the context; copy what is needed into it, or build "
                    "from the directory above",
                    path=source,
                )
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def read_patterns(candidates: Sequence[Path]) -> tuple[Patterns, Path | None]:
    """The first of some ``.dockerignore`` files that is there.

    Raises:
        BuildError: It is not understood.
    """
    for path in candidates:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BuildError(f"{path}: {error.strerror}", path=str(path)) from None
        try:
            return ignore_file(data), path
        except ValueError as error:
            raise BuildError(f"{path}:{error}", path=str(path)) from None
    return Patterns(()), None
