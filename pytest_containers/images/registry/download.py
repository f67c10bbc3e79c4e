"""Blobs, in one go or in several: what breaks off goes on where it was."""

from __future__ import annotations

import re
from collections.abc import Callable

from urllib3 import exceptions

from pytest_containers.images.manifest import Descriptor
from pytest_containers.images.registry.client import Registry, Response
from pytest_containers.model.errors import ImageNotFoundError, RegistryError, hide_frames

__tracebackhide__ = hide_frames

CHUNK_BYTES = 1 << 17
_FRUITLESS, _DIGITS = 2, 19
_content_range = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d+|\*)\Z")

Sink = Callable[[bytes], None]


def download(
    registry: Registry, repository: str, blob: Descriptor, start: int, sink: Sink, *, shown: str
) -> None:
    """Hand the bytes of a blob from `start` on to `sink`, which verifies them.

    Raises:
        RegistryError: It cannot be had, or not whole; what `sink` got is a beginning of it.
    """
    sources = [f"blobs/{blob.digest}", *blob.urls]
    for number, source in enumerate(sources):
        try:
            _Download(registry, repository, blob, start, sink, source, shown).run()
            return
        except ImageNotFoundError:
            # Layers that must not be distributed are kept elsewhere.
            if number == len(sources) - 1:
                raise RegistryError(
                    f"{shown}: registry {registry.name} does not have it although the image "
                    "needs it; push the image again",
                    registry=registry.name,
                    status=404,
                ) from None


class _Download:
    def __init__(
        self,
        registry: Registry,
        repository: str,
        blob: Descriptor,
        start: int,
        sink: Sink,
        source: str,
        shown: str,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._blob = blob
        self._at = start
        self._sink = sink
        self._source = source
        self._shown = shown

    def run(self) -> None:
        fruitless = 0
        size = self._blob.size_bytes
        while self._at < size:
            self._sink(b"")  # raises if it was given up: the last try may have taken a minute
            before = self._at
            problem = self._go_on()
            if self._at == size:
                return
            fruitless = 0 if self._at > before else fruitless + 1
            if fruitless >= _FRUITLESS:
                raise RegistryError(
                    f"{self._shown}: registry {self._registry.name} breaks off after {self._at} of "
                    f"{size} bytes, again and again ({problem}); try later",
                    registry=self._registry.name,
                )

    def _go_on(self) -> str:
        """Send one request and take its data; return what ended it."""
        headers = {"Range": f"bytes={self._at}-"} if self._at else {}
        response = self._registry.request(
            "GET", self._repository, self._source, headers=headers, shown=self._shown
        )
        try:
            self._check(response)
            skip = self._at if response.status != 206 else 0
            while True:
                try:
                    data = response.read(CHUNK_BYTES)
                except (exceptions.HTTPError, OSError) as error:
                    return type(error).__name__
                if not data:
                    return "it ends early"
                if skip:  # it knows no ranges, so what we have comes again
                    data, skip = data[skip:], max(0, skip - len(data))
                self._take(data)
        finally:
            if self._at == self._blob.size_bytes:
                response.release_conn()
            else:
                response.close()

    def _take(self, data: bytes) -> None:
        if self._at + len(data) > self._blob.size_bytes:
            raise self._lie(
                f"sends more than the {self._blob.size_bytes} bytes it was announced with"
            )
        if data:
            self._sink(data)
            self._at += len(data)

    def _check(self, response: Response) -> None:
        size = self._blob.size_bytes
        if response.status == 206:
            match = _content_range.match(response.headers.get("Content-Range", ""))
            if not match or (int(match[1]), int(match[2])) != (self._at, size - 1):
                raise self._lie(f"answers with another part than bytes {self._at}-{size - 1}")
        elif response.status != 200:
            raise self._lie(f"answers {response.status}")
        else:
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and (len(length) > _DIGITS or int(length) > size):
                raise self._lie(f"announces {length} bytes instead of {size}")

    def _lie(self, problem: str) -> RegistryError:
        return RegistryError(
            f"{self._shown}: registry {self._registry.name} {problem}; it is damaged, ask its "
            "owner",
            registry=self._registry.name,
        )
