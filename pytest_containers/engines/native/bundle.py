"""OCI bundles as a caller names them: a config and a root file system, with paths of the host."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_containers.model.errors import SpecError, hide_frames

__tracebackhide__ = hide_frames

_OURS = {"volume", "image"}, {"mapped"}
"""Types and options of mounts that only the engine itself may use."""


class Bundle(NamedTuple):
    """A bundle.

    Attributes:
        path: Its directory.
        config: As it was given.
        resolved: The same with absolute sources of binds.
        rootfs: The directory of the root file system.
    """

    path: Path
    config: Mapping[str, Any]
    resolved: Mapping[str, Any]
    rootfs: Path

    @property
    def has_network(self) -> bool:
        """False if the config leaves the network namespace out: it wants the host's."""
        return any(entry.get("type") == "network" for entry in self._namespaces)

    @property
    def namespaces(self) -> list[str]:
        """The paths of namespaces to join, in the order of the config."""
        return [entry["path"] for entry in self._namespaces if entry.get("path")]

    @property
    def _namespaces(self) -> list[Mapping[str, Any]]:
        return [
            entry
            for entry in _items(_part(self.config, "linux"), "namespaces")
            if isinstance(entry.get("path") or "", str)
        ]


def read_bundle(
    config: Mapping[str, Any] | str | os.PathLike[str], rootfs: str | os.PathLike[str] | None
) -> Bundle:
    """Read a bundle; what is malformed in its config is told by the run.

    Args:
        config: A config, or the path of one or of the directory that has it.
        rootfs: Takes the place of ``root.path``.

    Raises:
        SpecError: There is no such config or no root file system, or it has words of the engine.
    """
    if isinstance(config, Mapping):
        path, document = Path.cwd(), _copied(config)
    else:
        path, document = _load(Path(config))
    if rootfs is None:
        root = _part(document, "root").get("path")
        if not isinstance(root, str) or not root:
            raise SpecError(
                "OCI config root.path is missing; name the root file system there, or as rootfs=…",
                field="root.path",
            )
        rootfs = path / root
    mounts = [_resolved(entry, path) for entry in _items(document, "mounts")]
    resolved = {**document, "mounts": mounts} if "mounts" in document else document
    return Bundle(path, document, resolved, Path(rootfs).absolute())


def _copied(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what other processes will see of a config, and the caller can change no more."""
    try:
        document: Mapping[str, Any] = json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise SpecError(f"OCI config: not JSON: {error}") from None
    return document


def _load(path: Path) -> tuple[Path, Mapping[str, Any]]:
    file = path / "config.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise SpecError(
            f"OCI config {file}: {error.strerror}", path=str(file), errno=error.errno
        ) from None
    except ValueError as error:
        raise SpecError(f"OCI config {file}: not JSON: {error}", path=str(file)) from None
    if not isinstance(document, dict):
        raise SpecError(f"OCI config {file}: it is not an object", path=str(file))
    return file.parent.absolute(), document


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}


def _items(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = document.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if value else []


def _resolved(entry: Mapping[str, Any], bundle: Path) -> Mapping[str, Any]:
    """Return a mount as the run takes it."""
    kind, options = entry.get("type"), entry.get("options") or []
    for word, ours in ((kind, _OURS[0]), *((option, _OURS[1]) for option in options)):
        if word in ours:
            raise SpecError(
                f"OCI config mounts: {word!r} of the mount on {entry.get('destination')!r} is no "
                "type or option of the specification",
                field="mounts",
            )
    source = entry.get("source")
    if source and (kind in (None, "bind") or {"bind", "rbind"} & set(options)):
        return {**entry, "source": os.path.normpath(bundle / source)}
    return entry
