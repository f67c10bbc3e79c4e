"""Images by name: the one door through which engines and the command line come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_containers.errors import ImageNotFoundError
from pytest_containers.images.host import host_image
from pytest_containers.images.image import Image
from pytest_containers.images.inside import Inside
from pytest_containers.images.reference import HostSource, Reference, parse
from pytest_containers.images.store import Hold, Store, default_home


class Images:
    """The images of one store.

    Thread-safe. In a forked child, make a new one if the run is another.

    Args:
        home: The store's directory; None is `default_home()`.
        inside_factory: Gives access to the run's user namespace. Called at most once, when an
            image with layers of its own is asked for; `host:` never needs it.
        project: The checkout that ``host:?project=1`` shows; None finds it from the working
            directory.
    """

    def __init__(
        self,
        home: Path | None,
        inside_factory: Callable[[], Inside],
        *,
        project: Path | None = None,
    ) -> None:
        self.store = Store(home or default_home())
        self._inside_factory = inside_factory
        self._inside: Inside | None = None
        self._project = project
        self._known: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Image] = {}

    def get(
        self, reference: str, *, etc: Sequence[str] = (), binaries: Sequence[str] = ()
    ) -> Image:
        """The image that `reference` names, ready to be started from.

        The answer is remembered: asked again, it costs microseconds and does not change.

        Args:
            reference: As `reference.parse` takes it.
            etc: For `host:`, more names below /etc to show (``"mysql"``).
            binaries: For `host:`, programs whose change makes it another image.

        Raises:
            ImageNotFoundError: There is no such image.
            ImageError: It cannot be read, is for another machine, or cannot be stored.
        """
        key = (reference, tuple(etc), tuple(binaries))
        image = self._known.get(key)
        if image is None:
            image = self._known[key] = self._get(reference, etc, binaries)
        return image

    def _get(self, reference: str, etc: Sequence[str], binaries: Sequence[str]) -> Image:
        source = parse(reference)
        if isinstance(source, HostSource):
            source = replace(
                source, etc=(*source.etc, *etc), binaries=(*source.binaries, *binaries)
            )
            return host_image(self.store, source, project=self._project, name=reference)
        if isinstance(source, Reference):
            raise ImageNotFoundError(f"image {source.familiar!r} is not in the store")
        raise ImageNotFoundError(f"image {reference!r} cannot be read")

    def hold(self, image: Image) -> Hold:
        """Keep the layers of `image` from being pruned until the hold is closed.

        Raises:
            FileNotFoundError: One is gone already.
        """
        return Hold(layer.path for layer in image.layers)
