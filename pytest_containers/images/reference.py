"""Names of images: registry references and source schemes (distribution's `reference` grammar)."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from pytest_containers.model.errors import ImageError, hide_frames
from pytest_containers.model.harmless import quoted

__tracebackhide__ = hide_frames

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_MAX_NAME = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# Compiled when they are used: `host:` needs none of them.
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})"
_HEX_ID = r"[a-f0-9]{64}"

ArchiveKind = Literal["oci", "oci-archive", "docker-archive"]
ARCHIVE_KINDS: tuple[ArchiveKind, ...] = ("oci", "oci-archive", "docker-archive")
_SOURCES = ("host", *ARCHIVE_KINDS, "rootfs")


def _is(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name, re.ASCII) is not None


def check_digest(digest: object) -> str:
    """Return `digest` if it is a digest whose algorithm and form are known.

    Everything that becomes a path of the store passes here first (CVE-2024-3727).

    Raises:
        ImageError: It is not.
    """
    if not isinstance(digest, str) or not _is(_DIGEST, digest):
        raise ImageError(
            f"{quoted(digest)} is not a digest; it must be 'sha256:' and 64 lower-case hex digits"
        )
    return digest


class Reference(NamedTuple):
    """``[host[:port]/]path[:tag][@digest]``, completed as Docker completes it."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None

    @property
    def familiar(self) -> str:
        """As people write it: without Docker Hub's host and ``library/``."""
        if self.registry != DEFAULT_REGISTRY or _begins_with_host(self.repository):
            return str(self)
        if _is(_HEX_ID, self.repository.removeprefix("library/")):
            return self.repository + self._suffix()  # else it would read as an id
        return self.in_hub

    @property
    def in_hub(self) -> str:
        """Its name within Docker Hub, or in what stands for it."""
        name = self.repository
        short = name.removeprefix("library/")
        # Else it would read as another repository, or as a source.
        return (short if "/" not in short and short not in _SOURCES else name) + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix()}"


class HostSource(NamedTuple):
    """``host:[?path=/a&etc=mysql&project=1]``: this machine's own programs."""

    paths: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    project: bool = False


class ArchiveSource(NamedTuple):
    """``oci:/dir[:tag]``, ``oci-archive:/file[:tag]`` or ``docker-archive:/file[:name]``.

    The path ends at the first colon, as skopeo has it.
    """

    kind: ArchiveKind
    path: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.name}" if self.name else "")


class RootfsSource(NamedTuple):
    """``rootfs:/file.tar`` or ``rootfs:/directory``: a root file system without a config."""

    path: str


def parse(reference: str) -> Reference | HostSource | ArchiveSource | RootfsSource:
    """Parse a reference to an image of any source.

    Raises:
        ImageError: It is no reference; the message says what is wrong with it.
    """
    if not reference:
        raise ImageError(
            f"image reference {reference!r} is empty; write 'redis:7', 'host:' or 'oci:/path'"
        )
    if reference == "host:" or reference.startswith("host:?"):
        return _parse_host(reference)
    kind, colon, rest = reference.partition(":")
    if colon and kind == "rootfs":
        if not rest or "\0" in rest:
            raise _bad(reference, "'rootfs:' must be followed by a path")
        return RootfsSource(rest)
    for archive_kind in ARCHIVE_KINDS:
        if colon and kind == archive_kind:
            return _parse_archive(archive_kind, rest, reference)
    return parse_reference(reference)


def parse_reference(reference: str) -> Reference:
    """Parse a registry reference (no source schemes).

    Raises:
        ImageError: It is none.
    """
    rest, at_sign, digest = reference.partition("@")
    if at_sign and not _is(_DIGEST, digest):
        raise _bad(
            reference, f"{quoted(digest)} is not a digest ('sha256:' and 64 lower-case hex digits)"
        )
    if _is(_HEX_ID, rest):
        raise _bad(reference, "64 hex digits are an image id, not a name")
    if _begins_with_host(rest):
        registry, _, rest = rest.partition("/")
    else:
        registry = DEFAULT_REGISTRY
    if not _is(_HOST, registry):
        raise _bad(reference, f"{quoted(registry)} is not a host name with an optional port")
    path, colon, tag = rest.partition(":")
    if colon and not tag:
        kinds = ", ".join(f"'{kind}:'" for kind in _SOURCES)
        raise _bad(reference, f"no tag follows it, and sources that begin like this are {kinds}")
    if colon and not _is(_TAG, tag):
        raise _bad(
            reference, f"{quoted(tag)} is not a tag (letters, digits, '_', '.', '-'; at most 128)"
        )
    if not _is(_PATH, path):
        why = "upper-case letters" if path.lower() != path else "characters or separators"
        raise _bad(reference, f"{quoted(path)} has {why} that a repository name may not have")
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    if len(registry) + 1 + len(path) > _MAX_NAME:
        raise _bad(reference, f"its name is longer than {_MAX_NAME} characters")
    return Reference(registry, path, tag or (None if digest else DEFAULT_TAG), digest or None)


def _begins_with_host(name: str) -> bool:
    """True if the first part of a name is that of a registry, and not of a repository."""
    first, slash, _ = name.partition("/")
    host = first == "localhost" or "." in first or ":" in first or first.lower() != first
    return bool(slash) and host


def _bad(reference: str, why: str) -> ImageError:
    return ImageError(
        f"image reference {quoted(reference, 300)} is not valid: {why}", reference=reference
    )


def _parse_archive(kind: ArchiveKind, rest: str, reference: str) -> ArchiveSource:
    path, _, name = rest.partition(":")
    if not path or "\0" in rest:
        raise _bad(reference, f"'{kind}:' must be followed by a path")
    return ArchiveSource(kind, path, name or None)


def _parse_host(reference: str) -> HostSource:
    if reference == "host:":
        return HostSource()
    from urllib.parse import parse_qsl

    options: dict[str, list[str]] = {"path": [], "etc": [], "bin": [], "project": []}
    for key, value in parse_qsl(reference[len("host:?") :], keep_blank_values=True):
        if key not in options:
            raise _bad(reference, f"{quoted(key)} is not one of path=, etc=, bin=, project=")
        options[key].append(value)
    for path in options["path"]:
        if not path.startswith("/") or "\0" in path:
            raise _bad(reference, f"path={quoted(path)} is not an absolute path")
    for name in options["etc"]:
        if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise _bad(reference, f"etc={quoted(name)} is not a name below /etc")
    if not set(options["project"]) <= {"0", "1"}:
        raise _bad(reference, "project= takes 0 or 1")
    return HostSource(
        paths=tuple(options["path"]),
        etc=tuple(options["etc"]),
        binaries=tuple(options["bin"]),
        project=options["project"][-1:] == ["1"],
    )
