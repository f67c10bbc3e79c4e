"""COPY and ADD: what they name, and what of it decides about the layer."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable
from typing import Any

from pytest_containers.build import archive, remote
from pytest_containers.build.context import Context, Entry, Selected
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
        facts: What decides about its layer.
    """

    def __init__(self, workdir: str, instruction: i.Transfer, expand: Expand) -> None:
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
        self._context: Context | None = None
        self._entries: list[Entry | bytes] = []
        self._feeds: list[Feed] = []
        if len(instruction.sources) > 1 and not self.into:
            raise BuildError(
                f"several sources need a directory as destination: write {destination}/"
            )

    def add_document(self, heredoc: Heredoc, text: str) -> None:
        """A document of the Dockerfile."""
        data = text.encode(errors="surrogateescape")
        self._add(heredoc.name, "", False, [["", _DOCUMENT_MODE, len(data), 0, ""]])
        self._entries.append(data)
        self.facts.append(["document", heredoc.name, text])

    def add_selected(self, context: Context, selected: Selected) -> None:
        """Files of a directory: always the same one."""
        self._context = context
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
                self._entries.append(entry)
        self._add(selected.name, selected.below, top.is_folder, rows)
        self.facts.append(["files", selected.name, selected.below, top.is_folder, facts])

    def _add(self, name: str, below: str, is_folder: bool, rows: list[list[Any]]) -> None:
        self.items.append({
            "kind": "copy", "to": self.to, "into": self.into, "name": name, "below": below,
            "top": is_folder, "entries": rows, "fd": 0,
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
        self._add(name, "", False, [row])
        self.items[-1]["fd"] = self._feed(found.send)

    def _feed(self, feed: Feed) -> int:
        """What comes through a pipe of its own; the first one is of files and documents."""
        self._feeds.append(feed)
        return len(self._feeds)

    def add_taken(self, what: str, source: str, instruction: i.Copy) -> None:
        """Files of an image."""
        self.items.append({
            "kind": "take", "to": self.to, "into": self.into, "from": source, "what": what,
            "exclude": list(instruction.exclude), "parents": instruction.parents,
        })  # fmt: skip

    def writing(self, source: Image | None = None) -> Writing:
        """All of it, to be written.

        Args:
            source: What is taken from.
        """
        feeds = [feed_files(self._context, self._entries), *self._feeds]
        return Writing(self.items, feeds, self.owner, self.chmod, self.link, source)

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
    exclude = Patterns(expand(one) for one in instruction.exclude) if instruction.exclude else None
    parents = isinstance(instruction, i.Copy) and instruction.parents
    for source in instruction.sources:
        if isinstance(source, Heredoc):
            text = source.content
            collected.add_document(source, document(text) if source.expand else text)
            continue
        path = expand(source)
        if path.startswith(("http://", "https://")) and isinstance(instruction, i.Copy):
            raise BuildError(f"{path} is an address: only ADD fetches")
        if isinstance(instruction, i.Add) and remote.is_remote(path):
            _collect_remote(path, instruction, expand, exclude, collected, downloads)
            continue
        found = context.select(path, exclude=exclude, parents=parents)
        if not found and exclude is None:
            raise BuildError(f"{path!r} matches nothing in {context.what}")
        if len(found) > 1:
            collected.into = True
        for selected in found:
            if isinstance(instruction, i.Add) and _is_archive(context, selected, instruction):
                collected.add_archive(context, selected.top)
            else:
                collected.add_selected(context, selected)


def _is_archive(context: Context, selected: Selected, instruction: i.Add) -> bool:
    if instruction.unpack is False or not stat.S_ISREG(selected.top.mode):
        return False
    return archive.is_archive(lambda: context.open(selected.top))


def _collect_remote(
    address: str, instruction: i.Add, expand: Expand, exclude: Patterns | None,
    collected: Collected, downloads: Downloads,
) -> None:  # fmt: skip
    checksum = expand(instruction.checksum)
    if remote.is_git(address):
        context, where = downloads.git(
            address, keep_git_dir=instruction.keep_git_dir, checksum=checksum
        )
        for selected in context.select(where or ".", exclude=exclude):
            collected.add_selected(context, selected)
        return
    found = downloads.fetch(address, checksum)
    name = found.name
    if collected.into and not name and not instruction.unpack:
        raise BuildError(
            f"{address} has no file name: write the destination with one, not as a directory"
        )
    collected.add_download(found, name, unpack=bool(instruction.unpack))


def is_pattern(instruction: i.Transfer) -> bool:
    """Whether a source may stand for several."""
    return any(isinstance(one, str) and set("*?[") & set(one) for one in instruction.sources)
