"""The removal of old results from a shared repository."""

from __future__ import annotations

import re
import time

from pytest_containers.images import manifest as manifests
from pytest_containers.images.reference import parse_reference
from pytest_containers.images.registry.client import Registry
from pytest_containers.images.registry.settings import Place
from pytest_containers.images.registry.upload import put_manifest
from pytest_containers.images.shared import documents
from pytest_containers.images.shared.documents import ListedResult
from pytest_containers.model.engine_options import RegistrySettings
from pytest_containers.model.errors import (
    ImageError,
    ImageNotFoundError,
    RegistryError,
    hide_frames,
)
from pytest_containers.model.sharing import SharedPruned

__tracebackhide__ = hide_frames

_TAG = re.compile(r"(state|step)-[0-9a-f]{40}\Z")
_MARKER = re.compile(r"making-(?:state|step)-[0-9a-f]{40}\Z")
_REFUSED = (404, 405)


def prune_shared(
    repository: str, settings: RegistrySettings, older_than_s: float, *, dry_run: bool
) -> SharedPruned:
    """Remove the states and steps in a repository that were made before a time.

    Other tags of the repository are left alone. The registry frees the space when it collects its
    garbage.

    Raises:
        RegistryError: It cannot be reached, or denies or does not support deletion.
    """
    pruner = _Pruner(repository, settings, time.time() - older_than_s, dry_run=dry_run)
    try:
        return pruner.prune()
    finally:
        pruner.registry.close()


class _Pruner:
    def __init__(
        self, name: str, settings: RegistrySettings, oldest: float, *, dry_run: bool
    ) -> None:
        reference = parse_reference(name)
        self.registry = Registry(Place(reference.registry), settings)
        self._repository = reference.repository
        self._shown = f"prune of {name}"
        self._oldest = oldest
        self._dry_run = dry_run

    def prune(self) -> SharedPruned:
        removed = kept = 0
        for tag in self.registry.tags(self._repository, shown=self._shown):
            if _TAG.match(tag):
                gone, left = self._prune_index(tag)
                removed, kept = removed + gone, kept + left
            elif _MARKER.match(tag):
                self._prune_marker(tag)
        return SharedPruned(removed, kept)

    def _prune_index(self, tag: str) -> tuple[int, int]:
        """Remove old results of a tag; return how many, and how many are left."""
        try:
            index = self.registry.manifest(self._repository, tag, shown=self._shown)
            entries = documents.parse_index(index.data, f"{self._shown}: tag {tag}")
        except ImageNotFoundError:
            return 0, 0
        except RegistryError:
            raise
        except ImageError:
            entries = []
        kept = [entry for entry in entries if entry.created >= self._oldest]
        old = [entry for entry in entries if entry.created < self._oldest]
        if self._dry_run or (entries and not old):
            return len(old), len(kept)
        self._replace(tag, index.digest, kept)
        for entry in old:
            self._delete(entry.digest)
        return len(old), len(kept)

    def _replace(self, tag: str, digest: str, kept: list[ListedResult]) -> None:
        if not kept:
            self._delete(digest)
            return
        kind = tag.partition("-")[0]
        data = documents.index_of(kept, kind)
        put_manifest(
            self.registry, self._repository, tag, manifests.OCI_INDEX, data, shown=self._shown
        )
        self._delete(digest)

    def _prune_marker(self, tag: str) -> None:
        """Remove the note of a maker whose time was up long ago."""
        try:
            document = self.registry.manifest(self._repository, tag, shown=self._shown)
            marker = documents.parse_marker(document.data, tag, None, self._shown)
        except ImageNotFoundError:
            return
        except RegistryError:
            raise
        except ImageError:
            marker = None
        if not self._dry_run and (marker is None or marker.until < self._oldest):
            self._delete(document.digest)

    def _delete(self, digest: str) -> None:
        try:
            self.registry.delete_manifest(self._repository, digest, shown=self._shown)
        except ImageNotFoundError:
            return
        except RegistryError as error:
            if error.status not in _REFUSED:
                raise
            raise RegistryError(
                f"{self._shown}: registry {self.registry.name} has deletion switched off; switch "
                "it on (docker-registry: REGISTRY_STORAGE_DELETE_ENABLED=true)",
                registry=error.registry,
                repository=error.repository,
                status=error.status,
            ) from None
