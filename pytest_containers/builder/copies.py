"""COPY and ADD: what they name, and what of it decides about the layer."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable
from typing import Any

from pytest_containers.builder import archive, remote
from pytest_containers.builder.context import Context, ContextEntry, Selected, excluding
from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.ignore import Patterns
from pytest_containers.builder.dockerfile.source import Heredoc
from pytest_containers.builder.executor import Feed, Writing, feed_files
from pytest_containers.builder.jobs.modes import parse_chmod
from pytest_containers.builder.remote import Downloads
from pytest_containers.images.image import Image
from pytest_containers.model.errors import BuildError

_DOCUMENT_MODE = stat.S_IFREG | 0o644
Expand = Callable[[str], str]


class Collected:
    """The files that a COPY or ADD writes.

    Attributes:
        sources, exclude: Of the instruction, with variables replaced.
        facts: The part of the layer's key that describes the files.
    """

    def __init__(self, workdir: str, instruction: i.Transfer, expand: Expand) -> None:
        self.sources: list[str | Heredoc] = [
            expand(source) if isinstance(source, str) else source for source in instruction.sources
        ]
        self.exclude: list[str] = [expand(pattern) for pattern in instruction.exclude]
        self.parents: bool = isinstance(instruction, i.Copy) and instruction.parents
        destination = expand(instruction.destination)
        self.into: bool = destination.endswith(("/", "/.")) or destination in ("", ".", "..")
        self.to: str = posixpath.normpath(posixpath.join(workdir, destination)).lstrip("/")
        self.owner: str = expand(instruction.chown)
        self.chmod: str = expand(instruction.chmod)
        try:
            parse_chmod(self.chmod)
        except ValueError as error:
            raise BuildError(f"--chmod={self.chmod}: {error}") from None
        self.link: bool = instruction.link
        self.items: list[dict[str, Any]] = []
        self.facts: list[Any] = []
        self._feeds: list[Feed] = []
        self._files: dict[Context | None, tuple[int, list[ContextEntry | bytes]]] = {}

    def add_document(self, heredoc: Heredoc, content: str) -> None:
        """Add a document of the Dockerfile."""
        data = content.encode(errors="surrogateescape")
        fd, files = self._files_of(None)
        self._add(heredoc.name, "", False, [["", _DOCUMENT_MODE, len(data), 0, ""]], fd)
        files.append(data)
        self.facts.append(["document", heredoc.name, content])

    def add_selected(self, context: Context, selected: Selected) -> None:
        """Add a file, or the contents of a directory."""
        fd, files = self._files_of(context)
        top = selected.top
        cut = len(top.path) + 1 if top.path else 0
        entries = selected.entries if top.is_folder else (top,)
        rows, facts = [], []
        for entry in entries:
            path = entry.path[cut:] if top.is_folder else ""
            rows.append([path, entry.mode, entry.size_bytes, entry.mtime_ns, entry.target])
            digest = "" if entry.is_folder else context.digest(entry)
            facts.append([path, entry.mode, digest])
            if stat.S_ISREG(entry.mode):
                files.append(entry)
        self._add(selected.name, selected.below, top.is_folder, rows, fd)
        self.facts.append(["files", selected.name, selected.below, top.is_folder, facts])

    def _files_of(self, context: Context | None) -> tuple[int, list[ContextEntry | bytes]]:
        """Return the pipe of a directory, or of the documents, and its files in order."""
        if context not in self._files:
            entries: list[ContextEntry | bytes] = []
            self._files[context] = self._feed(feed_files(context, entries)), entries
        return self._files[context]

    def _add(self, name: str, below: str, is_folder: bool, rows: list[Any], fd: int) -> None:
        self.items.append(
            {
                "kind": "copy",
                "to": self.to,
                "into": self.into,
                "name": name,
                "below": below,
                "top": is_folder,
                "entries": rows,
                "fd": fd,
            }
        )

    def add_archive(self, context: Context, entry: ContextEntry) -> None:
        """Add the contents of a local archive."""
        fd = self._feed(lambda pipe: archive.send(lambda: context.open(entry), pipe))
        self.items.append({"kind": "unpack", "to": self.to, "name": entry.path, "fd": fd})
        self.facts.append(["archive", context.digest(entry)])

    def add_download(self, download: remote.Download, name: str, *, unpack: bool) -> None:
        """Add a fetched file, or its contents if it is an archive to `unpack`."""
        self.facts.append(["download", download.digest, name, download.mtime, unpack])
        if unpack:
            fd = self._feed(lambda pipe: archive.send(download.open, pipe))
            self.items.append({"kind": "unpack", "to": self.to, "name": name, "fd": fd})
            return
        row = ["", stat.S_IFREG | 0o600, download.size_bytes, download.mtime * 10**9, ""]
        self._add(name, "", False, [row], self._feed(download.send))

    def _feed(self, feed: Feed) -> int:
        """Add a pipe that `feed` fills; return its number."""
        self._feeds.append(feed)
        return len(self._feeds) - 1

    def add_taken(self, image_name: str) -> None:
        """Add files of an image; the job selects them, since only it may look there."""
        paths = []
        for source in self.sources:
            if not isinstance(source, str):
                raise BuildError("a document cannot be copied from a stage or an image")
            paths.append(source)
        facts = {"from": paths, "exclude": self.exclude, "parents": self.parents}
        self.items.append(
            {"kind": "take", "to": self.to, "into": self.into, "what": image_name, **facts}
        )
        self.facts.append(["take", facts])

    def writing(self, source: Image | None = None) -> Writing:
        """Return all that was added, to be written.

        Args:
            source: The image that files are taken from.
        """
        # What is written over one another was meant to lie in a directory.
        several = len(self.sources) > 1 and len(self.items) > 1 and not self.into
        items = [{**item, "several": several} for item in self.items]
        return Writing(items, self._feeds, self.owner, self.chmod, self.link, source)

    @property
    def key(self) -> dict[str, Any]:
        """The key of the layer, without the layers below."""
        return {
            "to": self.to,
            "into": self.into,
            "owner": self.owner,
            "chmod": self.chmod,
            "link": self.link,
            "facts": self.facts,
        }

    @property
    def needs_base(self) -> bool:
        """Return whether the layers below matter."""
        return not self.link or not all(
            part.isdecimal() for part in self.owner.split(":") if self.owner
        )


def collect_files(
    context: Context,
    instruction: i.Transfer,
    expand: Expand,
    document: Expand,
    collected: Collected,
    downloads: Downloads,
) -> None:
    """Find all that a COPY or ADD of the context names.

    Args:
        expand, document: Replace variables in a word, and in a document.

    Raises:
        BuildError: Something is not there.
    """
    exclude = excluding(collected.exclude)
    checksum = expand(instruction.checksum) if isinstance(instruction, i.Add) else ""
    if checksum:
        _check_checksum(checksum, collected.sources)
    for source in collected.sources:
        if isinstance(source, Heredoc):
            content = source.content
            collected.add_document(source, document(content) if source.expand else content)
            continue
        if source.startswith(("http://", "https://")) and isinstance(instruction, i.Copy):
            raise BuildError(f"{source} is an address: only ADD fetches")
        if isinstance(instruction, i.Add) and remote.is_remote(source):
            _collect_remote(source, instruction, checksum, exclude, collected, downloads)
            continue
        selection = context.select(source, exclude=exclude, parents=collected.parents)
        if len(selection) > 1:
            collected.into = True
        for selected in selection:
            if isinstance(instruction, i.Add) and _is_archive(context, selected, instruction):
                collected.add_archive(context, selected.top)
            else:
                collected.add_selected(context, selected)


def _check_checksum(checksum: str, sources: list[str | Heredoc]) -> None:
    for source in sources:
        if isinstance(source, Heredoc) or not remote.is_remote(source):
            name = f"the document {source.name}" if isinstance(source, Heredoc) else repr(source)
            raise BuildError(
                f"--checksum={checksum} is for what is fetched, and {name} is not: remove it, or "
                "give an address"
            )
    if len(sources) > 1:
        raise BuildError(
            f"--checksum={checksum} is of one source: write an ADD for each of the {len(sources)}"
        )


def _is_archive(context: Context, selected: Selected, instruction: i.Add) -> bool:
    if instruction.unpack is False or not stat.S_ISREG(selected.top.mode):
        return False
    return archive.is_archive(lambda: context.open(selected.top))


def _collect_remote(
    address: str,
    instruction: i.Add,
    checksum: str,
    exclude: Patterns | None,
    collected: Collected,
    downloads: Downloads,
) -> None:
    if remote.is_git(address):
        context, where = downloads.git(
            address, keep_git_dir=instruction.keep_git_dir, checksum=checksum
        )
        for selected in context.select(where or ".", exclude=exclude):
            collected.add_selected(context, selected)
        return
    fetched = downloads.fetch(address, checksum)
    name = fetched.name
    unpack = bool(instruction.unpack) and archive.is_archive(fetched.open)
    if collected.into and not name and not unpack:
        raise BuildError(
            f"{address} has no file name: write the destination with one, not as a directory"
        )
    collected.add_download(fetched, name, unpack=unpack)
