"""COPY and ADD: what they name, and what of it decides about the layer."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable
from typing import Any

from pytest_containers.build import archive, remote
from pytest_containers.build.context import Context, Entry, Selected, excluding
from pytest_containers.build.dockerfile import instructions as i
from pytest_containers.build.dockerfile.ignore import Patterns
from pytest_containers.build.dockerfile.source import Heredoc
from pytest_containers.build.executor import Feed, Writing, feed_files
from pytest_containers.build.inside.modes import parse_chmod
from pytest_containers.build.remote import Downloads
from pytest_containers.errors import BuildError
from pytest_containers.images.image import Image

_DOCUMENT_MODE = stat.S_IFREG | 0o644
Expand = Callable[[str], str]


class Collected:
    """What a COPY or ADD writes.

    Attributes:
        sources, exclude: Of the instruction, with variables replaced.
        facts: What decides about its layer.
    """

    def __init__(self, workdir: str, instruction: i.Transfer, expand: Expand) -> None:
        self.sources: list[str | Heredoc] = [
            expand(one) if isinstance(one, str) else one for one in instruction.sources
        ]
        self.exclude: list[str] = [expand(one) for one in instruction.exclude]
        self.parents: bool = isinstance(instruction, i.Copy) and instruction.parents
        destination = expand(instruction.destination)
        self.into: bool = destination.endswith(("/", "/.")) or destination in (".", "..")
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
        self._files: dict[Context | None, tuple[int, list[Entry | bytes]]] = {}
        if len(self.sources) > 1 and not self.into:
            raise BuildError(
                f"several sources need a directory as destination: write {destination}/"
            )

    def add_document(self, heredoc: Heredoc, text: str) -> None:
        """A document of the Dockerfile."""
        data = text.encode(errors="surrogateescape")
        fd, files = self._files_of(None)
        self._add(heredoc.name, "", False, [["", _DOCUMENT_MODE, len(data), 0, ""]], fd)
        files.append(data)
        self.facts.append(["document", heredoc.name, text])

    def add_selected(self, context: Context, selected: Selected) -> None:
        """Files of a directory."""
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

    def _files_of(self, context: Context | None) -> tuple[int, list[Entry | bytes]]:
        """What comes from a directory, or from documents: through one pipe, in this order."""
        if context not in self._files:
            entries: list[Entry | bytes] = []
            self._files[context] = self._feed(feed_files(context, entries)), entries
        return self._files[context]

    def _add(self, name: str, below: str, is_folder: bool, rows: list[Any], fd: int) -> None:
        self.items.append({
            "kind": "copy", "to": self.to, "into": self.into, "name": name, "below": below,
            "top": is_folder, "entries": rows, "fd": fd,
        })  # fmt: skip

    def add_archive(self, context: Context, entry: Entry) -> None:
        """A local archive, unpacked."""
        fd = self._feed(lambda pipe: archive.send(lambda: context.open(entry), pipe))
        self.items.append({"kind": "unpack", "to": self.to, "name": entry.path, "fd": fd})
        self.facts.append(["archive", context.digest(entry)])

    def add_download(self, found: remote.Download, name: str, *, unpack: bool) -> None:
        """What was fetched."""
        self.facts.append(["download", found.digest, name, found.mtime, unpack])
        if unpack:
            fd = self._feed(lambda pipe: archive.send(found.open, pipe))
            self.items.append({"kind": "unpack", "to": self.to, "name": name, "fd": fd})
            return
        row = ["", stat.S_IFREG | 0o600, found.size_bytes, found.mtime * 10**9, ""]
        self._add(name, "", False, [row], self._feed(found.send))

    def _feed(self, feed: Feed) -> int:
        """What comes through a pipe of its own."""
        self._feeds.append(feed)
        return len(self._feeds) - 1

    def add_taken(self, what: str) -> None:
        """Files of an image, called `what`; the job finds them, since only it may look there."""
        paths = []
        for source in self.sources:
            if not isinstance(source, str):
                raise BuildError("a document cannot be copied from a stage or an image")
            paths.append(source)
        facts = {"from": paths, "exclude": self.exclude, "parents": self.parents}
        self.items.append({
            "kind": "take", "to": self.to, "into": self.into, "what": what, **facts
        })  # fmt: skip
        self.facts.append(["take", facts])

    def writing(self, source: Image | None = None) -> Writing:
        """All of it, to be written.

        Args:
            source: What is taken from.
        """
        return Writing(self.items, self._feeds, self.owner, self.chmod, self.link, source)

    @property
    def key(self) -> dict[str, Any]:
        """What decides about the layer, beside what is below it."""
        return {
            "to": self.to, "into": self.into, "owner": self.owner, "chmod": self.chmod,
            "link": self.link, "facts": self.facts,
        }  # fmt: skip

    @property
    def needs_base(self) -> bool:
        """Whether the layers below matter."""
        return not self.link or not all(
            part.isdecimal() for part in self.owner.split(":") if self.owner
        )


def collect_files(
    context: Context, instruction: i.Transfer, expand: Expand, document: Expand,
    collected: Collected, downloads: Downloads,
) -> None:  # fmt: skip
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
    empty: list[str] = []
    for source in collected.sources:
        if isinstance(source, Heredoc):
            text = source.content
            collected.add_document(source, document(text) if source.expand else text)
            continue
        if source.startswith(("http://", "https://")) and isinstance(instruction, i.Copy):
            raise BuildError(f"{source} is an address: only ADD fetches")
        if isinstance(instruction, i.Add) and remote.is_remote(source):
            _collect_remote(source, instruction, checksum, exclude, collected, downloads)
            continue
        found = context.select(source, exclude=exclude, parents=collected.parents)
        if not found:
            empty.append(source)
        if len(found) > 1:
            collected.into = True
        for selected in found:
            if isinstance(instruction, i.Add) and _is_archive(context, selected, instruction):
                collected.add_archive(context, selected.top)
            else:
                collected.add_selected(context, selected)
    # A pattern beside others is how a file is named that may not be there: foo.tx[t].
    if empty and not collected.items and exclude is None:
        raise context.nothing(empty)


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
    address: str, instruction: i.Add, checksum: str, exclude: Patterns | None,
    collected: Collected, downloads: Downloads,
) -> None:  # fmt: skip
    if remote.is_git(address):
        context, where = downloads.git(
            address, keep_git_dir=instruction.keep_git_dir, checksum=checksum
        )
        found = context.select(where or ".", exclude=exclude)
        if not found and exclude is None:
            raise context.nothing([where])
        for selected in found:
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
