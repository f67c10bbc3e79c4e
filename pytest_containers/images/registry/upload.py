"""Blobs to a registry: not at all if it has them, mounted from a neighbour, or in chunks.

And what gives them a name: manifests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.registry.client import Registry, Response, finish
from pytest_containers.model.errors import ImageError, RegistryError, hide_frames

__tracebackhide__ = hide_frames

CHUNK_BYTES = 8 << 20
_FRUITLESS = 3
_ACTIONS = "pull,push"
_NOT_THERE_YET = 400, 404
_PAUSES_S = 0.1, 0.3, 1.0
_range = re.compile(r"(?:bytes=)?0-(\d+)\Z")

Moved = Callable[[int], None]


def has_blob(registry: Registry, repository: str, digest: str, *, shown: str) -> bool:
    """Check whether a repository has a blob."""
    response = registry.request(
        "HEAD", repository, f"blobs/{digest}", shown=shown, actions=_ACTIONS, accept=(404,)
    )
    finish(response)
    return response.status < 300


def put_manifest(
    registry: Registry, repository: str, name: str, media_type: str, data: bytes, *, shown: str
) -> None:
    """Give a manifest, whose blobs are there, a tag (or its digest) as its name.

    A registry may say that a blob is not there (400 or 404) while somebody else sends the same one:
    Debian's writes its note of it anew, and for a moment that file is empty. It is asked again.

    Raises:
        RegistryError: It does not take it.
    """
    headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
    for pause_s in (*_PAUSES_S, None):
        accept = (404,) if pause_s is None else _NOT_THERE_YET
        response = registry.request(
            "PUT", repository, f"manifests/{name}", headers=headers, body=data, shown=shown,
            actions=_ACTIONS, accept=accept,
        )  # fmt: skip
        finish(response)
        if response.status < 300:
            return
        if pause_s is not None:
            registry.pause(pause_s)
    raise RegistryError(
        f"{shown}: registry {registry.name} answered 404 for {repository!r}: it does not find the "
        "blobs that were just sent; push again",
        registry=registry.name, status=404,
    )  # fmt: skip


class Upload:
    """The upload of a blob to a repository.

    Args:
        neighbour: A repository of the same registry that may have it; empty is none.
        moved: Told how many bytes are there.
    """

    def __init__(
        self,
        registry: Registry,
        repository: str,
        blob: Descriptor,
        *,
        neighbour: str,
        moved: Moved,
        shown: str,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._neighbour = neighbour
        self._moved = moved
        self._shown = shown
        self._session = ""

    def mounted(self) -> bool:
        """Begin; return True if the registry took the blob from the neighbour, and all is done."""
        query: dict[str, str] = {}
        also: list[str] = []
        if self._neighbour and self._neighbour != self._repository:
            query = {"mount": self._blob.digest, "from": self._neighbour}
            also = [f"repository:{self._neighbour}:pull"]
        path = "blobs/uploads/" + (f"?{urlencode(query)}" if query else "")
        response = self._registry.request(
            "POST",
            self._repository,
            path,
            headers={"Content-Length": "0"},
            body=b"",
            shown=self._shown,
            actions=_ACTIONS,
            also=also,
        )
        finish(response)
        if response.status == 201:
            return True
        self._go_to(response)
        return False

    def send(self, path: Path) -> None:
        """Send the contents of `path`; resume an interrupted upload where the registry is.

        Raises:
            RegistryError: It does not take it.
        """
        offset = fruitless = 0
        size = self._blob.size_bytes
        with path.open("rb") as file:
            while offset < size:
                before = offset
                offset = self._chunk(file, offset)
                self._moved(offset)
                fruitless = 0 if offset > before else fruitless + 1
                if fruitless >= _FRUITLESS:
                    raise RegistryError(
                        f"{self._shown}: registry {self._registry.name} takes no more than "
                        f"{offset} of {size} bytes; try later",
                        registry=self._registry.name,
                    )
        joint = "&" if "?" in self._session else "?"
        url = f"{self._session}{joint}{urlencode({'digest': self._blob.digest})}"
        finish(self._ask("PUT", url, {"Content-Length": "0"}, b""))

    def _chunk(self, file: Any, offset: int) -> int:
        """Send one chunk; return the offset that the registry has reached."""
        file.seek(offset)
        data = file.read(CHUNK_BYTES)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(data) - 1}",
            "Content-Length": str(len(data)),
        }
        try:
            response = self._ask("PATCH", self._session, headers, data)
        except RegistryError as error:
            if getattr(error, "status", None) not in (None, 416):
                raise
            # Broken off, or out of step: the registry knows what it has, or wants it all again.
            try:
                response = self._ask("GET", self._session, {}, None)
            except ImageError:
                self._session = ""
                self.mounted()
                return 0
        finish(response)
        self._go_to(response)
        return self._position(response)

    def _position(self, response: Response) -> int:
        header = response.headers.get("Range", "")
        match = _range.match(header)
        reached = int(match[1]) + 1 if match else 0
        if reached == 1 < self._blob.size_bytes:
            reached = 0  # there is no other way to say that it has nothing
        if reached > self._blob.size_bytes:
            raise RegistryError(
                f"{self._shown}: registry {self._registry.name} claims {reached} bytes of "
                f"{self._blob.size_bytes}; push again",
                registry=self._registry.name,
            )
        return reached

    def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
        return self._registry.request(
            method,
            self._repository,
            url,
            headers=headers,
            body=body,
            shown=self._shown,
            actions=_ACTIONS,
        )

    def _go_to(self, response: Response) -> None:
        location = response.headers.get("Location")
        if location is None:
            raise ImageError(
                f"{self._shown}: registry {self._registry.name} says nowhere to send it to; it "
                "does not keep to the distribution specification"
            )
        self._session = urljoin(self._session or self._registry.base, location)
