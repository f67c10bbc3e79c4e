"""The build context: a directory that is looked at, never left, and read as little as possible."""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pytest_containers.builder.dockerfile.globs import PatternError, name_regex
from pytest_containers.builder.dockerfile.ignore import Patterns, ignore_file
from pytest_containers.builder.filedigests import FileDigests
from pytest_containers.model.errors import BuildError, hide_frames
from pytest_containers.runtime.copying.writer import MAX_PATH_BYTES

__tracebackhide__ = hide_frames

_MAX_LINKS = 40
_WILDCARD = re.compile(r"(?:[^\\]|\\.)*?[*?\[]", re.DOTALL)


class ContextEntry(NamedTuple):
    """A file, directory or symbolic link, as it was when its directory was listed.

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
        """Return whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def size_bytes(self) -> int:
        """The size of a file."""
        return self.identity[2]

    @property
    def mtime_ns(self) -> int:
        """The time at which its contents changed."""
        return self.identity[3]


class Selected(NamedTuple):
    """A file or directory that a source of COPY stands for.

    Attributes:
        name: Its own name, for a destination that is a directory.
        below: Of ``--parents``: the directories that come along.
        top: The file, or the directory whose contents are meant.
        entries: What is in that directory, parents before children.
    """

    name: str
    below: str
    top: ContextEntry
    entries: tuple[ContextEntry, ...]


class _Missing(NamedTuple):
    """The place where a path leads nowhere.

    Attributes:
        folder: The last directory on it, without links.
        name: What is not in there.
        link: The last link that was followed, for messages.
    """

    folder: str
    name: str
    link: str


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
        self, root: Path, patterns: Patterns, digests: FileDigests, *, name: str = ""
    ) -> None:
        self.root = root
        self.name: str = name or f"the context {root}"
        self._patterns = patterns
        self._digests = digests
        self._folders: dict[str, dict[str, ContextEntry]] = {}
        self._matches: dict[str, int] = {"": 0}

    # ----------------------------------------------------------------- looking

    def select(
        self, source: str, *, exclude: Patterns | None = None, parents: bool = False
    ) -> list[Selected]:
        """Return the files and directories that a source names: by a path, or by a pattern.

        Args:
            exclude: More that is left out, relative to what is selected.
            parents: Keep the directories of what is selected, those after ``/./`` if there is one.

        Raises:
            BuildError: It leads out of the context, or a path is not there.
        """
        pivot, has_pivot, rest = source.partition("/./") if parents else ("", "", "")
        if not has_pivot:
            pivot, rest = "", source
        selected = []
        for above in self._named("", _clean(pivot)):
            for path in self._named(above, _clean(rest)):
                entry = self._at(path)
                shown = path if parents else posixpath.basename(path)
                if exclude and path and exclude.excludes_path(shown):
                    continue
                entries: tuple[ContextEntry, ...] = ()
                if entry.is_folder:
                    entries = tuple(self._below(entry.path, exclude, path if parents else ""))
                below = ""
                if parents:
                    kept = posixpath.relpath(path or ".", above or ".")
                    below = kept if entry.is_folder else posixpath.dirname(kept)
                selected.append(Selected(posixpath.basename(path), below, entry, entries))
        return selected

    def _named(self, above: str, source: str) -> list[str]:
        """Return the paths that a source stands for, which begins at `above`."""
        if is_pattern(source):
            return self._glob(above, source)
        return [posixpath.join(above, source) if source else above]

    def _at(self, path: str) -> ContextEntry:
        """Return the entry at `path`; symbolic links are followed inside the context."""
        resolved = self._walk(path)
        if isinstance(resolved, _Missing):
            raise self._missing(path, resolved)
        return resolved

    def _walk(self, path: str) -> ContextEntry | _Missing:
        # In the listing, not in the file system: what .dockerignore leaves out is not there, and
        # an absolute link starts at the context.
        links = 0
        link = ""
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
                return _Missing("/".join(done), part, link)
            if stat.S_ISLNK(entry.mode):
                links += 1
                if links > _MAX_LINKS:
                    raise BuildError(f"{path!r} of {self.name}: too many symbolic links")
                link = f"{entry.path!r} to {entry.target!r}"
                if entry.target.startswith("/"):
                    done = []
                todo = [name for name in entry.target.split("/") if name not in ("", ".")] + todo
                continue
            done.append(part)
        if not done:
            return ContextEntry("", *_facts(os.stat(self.root)), "")
        last = self._child("/".join(done[:-1]), done[-1])
        return last or _Missing("/".join(done[:-1]), done[-1], link)

    def _child(self, folder: str, name: str) -> ContextEntry | None:
        return self._listed(folder).get(name)

    def _missing(self, path: str, missing: _Missing) -> BuildError:
        # Only what was resolved is looked at: a link may lead to files of the machine.
        here = posixpath.join(missing.folder, missing.name)
        with suppress(OSError):
            mode = os.lstat(self.root / here).st_mode
            if stat.S_ISSOCK(mode):
                message = f"{here!r} of {self.name} is a socket, which cannot be copied"
            elif here == path:
                message = f"{path!r} is in {self.name}, but .dockerignore excludes it"
            else:
                message = f"there is no {path!r} in {self.name}: .dockerignore excludes {here!r}"
            return BuildError(message, path=path)
        if missing.link:
            cause = f": its link {missing.link} is followed inside, as if this were the root"
            return BuildError(f"there is no {path!r} in {self.name}{cause}", path=path)
        import difflib

        close = difflib.get_close_matches(missing.name, self._listed(missing.folder), 1, 0.6)
        near = f"; did you mean {posixpath.join(missing.folder, close[0])!r}?" if close else ""
        return BuildError(f"there is no {path!r} in {self.name}{near}", path=path)

    def _glob(self, above: str, pattern: str) -> list[str]:
        """Return the paths that match, as the pattern names them: links on them are kept."""
        paths = [above]
        for part in pattern.split("/"):
            if part == "**":
                paths = [
                    path for folder in paths for path in (folder, *self._folders_below(folder))
                ]
                continue
            matches = self._matcher(part)
            paths = [
                posixpath.join(folder, name)
                for folder in paths
                for name in matches(self._listed_at(folder))
            ]
        return sorted(path for path in dict.fromkeys(paths) if path)

    def _matcher(self, part: str) -> Callable[[Mapping[str, ContextEntry]], Iterable[str]]:
        """Return a function that selects the names which a component of a pattern matches."""
        if not is_pattern(part) and "\\" not in part:
            return lambda names: [part] if part in names else []
        try:
            regex = name_regex(part)
        except PatternError as error:
            raise BuildError(
                f"the pattern {part!r} is not understood: {error}; write [[] for a plain bracket",
                path=part,
            ) from None
        return lambda names: filter(regex.fullmatch, names)

    def _listed_at(self, path: str) -> Mapping[str, ContextEntry]:
        """List the directory at `path`, maybe behind links; anything else is empty."""
        resolved = self._walk(path)
        if isinstance(resolved, _Missing) or not resolved.is_folder:
            return {}
        return self._listed(resolved.path)

    def _folders_below(self, path: str) -> list[str]:
        """Return the directories in the one at `path`; links in it are not followed."""
        resolved = self._walk(path)
        if isinstance(resolved, _Missing) or not resolved.is_folder:
            return []
        cut = len(resolved.path) + 1 if resolved.path else 0
        below = self._below(resolved.path, None, "")
        return [posixpath.join(path, entry.path[cut:]) for entry in below if entry.is_folder]

    def _below(self, folder: str, exclude: Patterns | None, prefix: str) -> Iterator[ContextEntry]:
        """Yield all entries below a directory without links in its path, parents first."""
        todo: list[tuple[str, int]] = [(folder, 0)]
        cut = len(folder) + 1 if folder else 0
        while todo:
            current, above = todo.pop()
            inner: list[tuple[str, int]] = []
            for entry in self._listed(current).values():
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

    def _listed(self, folder: str) -> dict[str, ContextEntry]:
        """Return the entries of a directory that are not excluded, in the order of their names.

        No link may be in its path: the kernel would follow it out of the context.
        """
        entries = self._folders.get(folder)
        if entries is None:
            entries = self._folders[folder] = self._list(folder)
        return entries

    def _list(self, folder: str) -> dict[str, ContextEntry]:
        above = self._matches.get(folder, 0)
        entries: dict[str, ContextEntry] = {}
        try:
            with os.scandir(self.root / folder) as items:
                names = sorted(items, key=lambda item: item.name)
        except NotADirectoryError:
            return {}
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
            entries[item.name] = ContextEntry(path, *_facts(status), target)
        return entries

    def _list_below(self, folder: str) -> bool:
        """Return whether an exception includes anything of an excluded directory again."""
        return bool(self._listed(folder))

    def _unreadable(self, path: str, error: OSError) -> BuildError:
        if error.errno == errno.EIO:
            return BuildError(
                f"{path!r} of {self.name} cannot be read: {error.strerror}: its disk is at fault",
                path=path,
                errno=error.errno,
            )
        if error.errno == errno.ENAMETOOLONG:
            return BuildError(
                f"'{path[:40]}…' of {self.name} cannot be read: its path is longer than "
                f"{MAX_PATH_BYTES} bytes; exclude it in .dockerignore",
                path=path,
            )
        return BuildError(
            f"{path!r} of {self.name} cannot be read: {error.strerror}; permit it, or "
            "exclude it in .dockerignore",
            path=path,
        )

    # ----------------------------------------------------------------- reading

    def digest(self, entry: ContextEntry) -> str:
        """Return the digest of a file's contents; of anything else, the target of its link.

        Raises:
            BuildError: It cannot be read, or changed meanwhile.
        """
        if not stat.S_ISREG(entry.mode):
            return entry.target
        digest = self._digests.get(entry.path, entry.identity)
        if digest is None:
            fd = self.open(entry)
            try:
                with open(fd, "rb", closefd=False) as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                self.check(entry, fd)
            except OSError as error:
                raise self._unreadable(entry.path, error) from None
            finally:
                os.close(fd)
            self._digests.set(entry.path, entry.identity, digest)
        return digest

    def open(self, entry: ContextEntry) -> int:
        """Open a file, and check that it is still the one that was listed.

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

    def send(self, entry: ContextEntry, pipe: int) -> None:
        """Write the contents of a file to a pipe.

        Raises:
            BrokenPipeError: Nobody reads it any more.
            BuildError: It cannot be read, or changed.
        """
        fd = self.open(entry)
        try:
            left = entry.size_bytes
            while left:
                moved = os.splice(fd, pipe, left)
                if not moved:
                    break  # it became shorter
                left -= moved
            self.check(entry, fd)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._unreadable(entry.path, error) from None
        finally:
            os.close(fd)

    def check(self, entry: ContextEntry, fd: int) -> None:
        """See that a file did not change since it was seen.

        Raises:
            BuildError: It did.
        """
        if _facts(os.fstat(fd))[1] != entry.identity:
            raise self._changed(entry)

    def _changed(self, entry: ContextEntry) -> BuildError:
        return BuildError(
            f"{entry.path!r} of {self.name} changed while it was read; build again",
            path=entry.path,
        )


def _facts(status: os.stat_result) -> tuple[int, tuple[int, int, int, int, int]]:
    identity = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return status.st_mode, identity


def is_pattern(source: str) -> bool:
    """Return whether a source has wildcards; one behind a backslash does not count."""
    return _WILDCARD.match(source) is not None


def excluding(patterns: Sequence[str]) -> Patterns | None:
    """Return the patterns of ``--exclude``; None if there are none.

    Raises:
        BuildError: A pattern is not understood.
    """
    try:
        return Patterns(patterns) if patterns else None
    except ValueError as error:
        raise BuildError(f"--exclude: {error}") from None


def _clean(source: str) -> str:
    """Return a source as a path relative to the context."""
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
    """Read the first of some ``.dockerignore`` files that exists; return its path as well.

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
