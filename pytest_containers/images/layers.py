"""Layers in the store: unpacked once per class of id maps, whoever asks first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_containers.images.archives import Part
from pytest_containers.images.image import Layer
from pytest_containers.images.inside import Inside
from pytest_containers.images.store import Store, TempDir, storing

_UNPACK = "pytest_containers.images.unpack:unpack_layer"
_REMOVE = "pytest_containers.images.unpack:remove_tree"


class Layers:
    """Unpacks layers into a store.

    Args:
        store: Keeps them.
        inside: Does what needs the ids of the run.
    """

    def __init__(self, store: Store, inside: Inside) -> None:
        self._store = store
        self._inside = inside

    def find(self, diff_id: str) -> Layer | None:
        """The layer, if it is in the store."""
        path = self._store.layer_dir(self._inside.id_map_class, diff_id)
        if self._store.layer_record(path) is None:
            return None
        return Layer(path / "tree", "mapped", diff_id)

    def ensure(self, part: Part, digest: str | None, diff_id: str, name: str) -> Layer:
        """The layer; unpacked if it is not there.

        However many processes ask at once, one unpacks and the others wait for it.

        Raises:
            ImageError: The archive is broken, hostile, or not what it claims.
        """
        found = self.find(diff_id)
        if found is not None:
            return found
        lock = f"layer-{self._inside.id_map_class[:60]}-{diff_id[7:23]}"
        with self._store.lock(lock):
            found = self.find(diff_id)
            return found or self.unpack(part, digest, diff_id, name)[0]

    def unpack(
        self, part: Part, digest: str | None, diff_id: str | None, name: str
    ) -> tuple[Layer, dict[str, Any]]:
        """Unpack unconditionally; the digest of what was unpacked names the layer."""
        with storing(name, self._store.home), self._store.temp_dir() as temp:
            temp.removed_by = self.remove_inside
            # Container root makes the tree. Nobody else gets here: the store is 0700.
            temp.path.chmod(0o777)
            args = {
                "offset": part.offset,
                "size": part.size,
                "digest": digest,
                "diff_id": diff_id,
                "single": self._inside.id_map_class.startswith("single"),
                "name": name,
            }
            result = self._inside.call(_UNPACK, args, [part.fd, temp.fd])
            return self._keep(temp, result), result

    def _keep(self, temp: TempDir, result: dict[str, Any]) -> Layer:
        temp.path.chmod(0o700)
        path = self._store.layer_dir(self._inside.id_map_class, result["diff_id"])
        record = {"kind": "layer", "size_bytes": result["size_bytes"], "skipped": result["skipped"]}
        self._store.finish_layer(temp, path, record)
        return Layer(path / "tree", "mapped", result["diff_id"])

    def remove_inside(self, path: Path) -> None:
        """Delete what is in `path`, whoever of the run owns it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path.chmod(0o777)
            self._inside.call(_REMOVE, {}, [fd])
        finally:
            os.close(fd)


def total_bytes(store: Store, layers: Sequence[Layer]) -> int:
    """The size of the files in `layers`."""
    records = (store.layer_record(layer.path.parent) for layer in layers)
    return sum(int(record.get("size_bytes", 0)) for record in records if record)
