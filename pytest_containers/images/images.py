"""Images by name: how engines and builds find them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.host.host import host_image
from pytest_containers.images.host.named import NamedOnHost
from pytest_containers.images.reference import (
    ArchiveSource,
    HostSource,
    Reference,
    RootfsSource,
    parse,
    parse_reference,
)
from pytest_containers.images.sources import Sources
from pytest_containers.images.store.holds import LayerHold
from pytest_containers.images.store.library import Library
from pytest_containers.images.store.store import Store, storing
from pytest_containers.model.errors import (
    ContainersError,
    ImageError,
    ImageNotFoundError,
    hide_frames,
)
from pytest_containers.model.home import default_home

if TYPE_CHECKING:
    from pytest_containers.images.image import Image
    from pytest_containers.images.inside import Inside
    from pytest_containers.images.shared.results import SharedResults
    from pytest_containers.model.engine_options import PullPolicy, RegistrySettings
    from pytest_containers.model.sharing import Sharing
    from pytest_containers.model.transfer import TransferDisplay

__tracebackhide__ = hide_frames


class Images:
    """The images of one store, by name (`stored` administers them, `derived` makes new ones).

    Thread-safe. In a forked child, make a new one if the run is another.

    Args:
        home: The store's directory; None is `default_home()`.
        inside_factory: Gives access to the run's user namespace. Called at most once, when an
            image with layers of its own is asked for; `host:` never needs it.
        project: The checkout that ``host:?project=1`` shows; None finds it from the working
            directory.
        pull: ``"missing"``, ``"always"`` or ``"never"``: when a registry is asked for a name.
        registries: How registries are reached; None is the defaults.
        display: Shows what is moving.
        sharing: What is shared with other machines; None is nothing.

    Attributes:
        library: Layers, names, configurations and states of the store.
        sources: The ways by which images get into it.
        on_host: Names of what is based on ``host:``.
        policy: The argument `pull`.
    """

    def __init__(
        self,
        home: Path | None,
        inside_factory: Callable[[], Inside],
        *,
        project: Path | None = None,
        pull: PullPolicy = "missing",
        registries: RegistrySettings | None = None,
        display: TransferDisplay | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._sharing = sharing
        self._shared: SharedResults | None = None
        self._inside_factory = inside_factory
        self._inside: Inside | None = None
        self._project = project
        self.policy: PullPolicy = pull
        self.library: Library = Library(Store(home or default_home()), self._access)
        self.sources: Sources = Sources(self.library, self._access, registries, display)
        self.on_host: NamedOnHost = NamedOnHost(self.library, self.get)
        self._answers: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Image] = {}

    def _access(self) -> Inside:
        if self._inside is None:
            self._inside = self._inside_factory()
        return self._inside

    @property
    def shared(self) -> SharedResults | None:
        """What is shared with other machines; None if nothing is."""
        if self._shared is None and self._sharing is not None:
            from pytest_containers.images.shared.results import SharedResults

            settings = self.sources.registry_settings
            self._shared = SharedResults(self.library, settings, self._sharing)
        return self._shared

    # ------------------------------------------------------------------ finding

    def get(
        self, reference: str, *, etc: Sequence[str] = (), binaries: Sequence[str] = ()
    ) -> Image:
        """Return the image that `reference` names, ready to start; pulled if necessary.

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
        image = self._answers.get(key)
        if image is None:
            try:
                image = self._answers[key] = self._get(reference, etc, binaries)
            except ContainersError:  # some are OSErrors too, and say what they are
                raise
            except OSError as error:
                place = f"{error.filename}: " if error.filename else ""
                raise ImageError(
                    f"cannot read image {reference}: {place}{error.strerror or error}",
                    reference=reference,
                    errno=error.errno,
                ) from error
        return image

    def _get(self, reference: str, etc: Sequence[str], binaries: Sequence[str]) -> Image:
        source = parse(reference)
        if isinstance(source, HostSource):
            source = source._replace(
                etc=(*source.etc, *etc), binaries=(*source.binaries, *binaries)
            )
            store = self.library.store
            return host_image(store, source, project=self._project, name=reference)
        if isinstance(source, ArchiveSource):
            return self.sources.from_archive(source)
        if isinstance(source, RootfsSource):
            return self.sources.from_rootfs(Path(source.path).absolute(), {}, reference)
        if (on_host := self.on_host.find(source)) is not None:
            return on_host
        image = self.sources.by_name(self._with_prefix(source), self.policy)
        self.library.layers.settle(image.layers)
        return image

    def _with_prefix(self, reference: Reference) -> Reference:
        """Add the project's prefix for Docker Hub, unless the plain name is stored."""
        if self.library.names.get(reference) is not None:
            return reference
        if not self.sources.registry_settings.hub_prefix:
            return reference
        from pytest_containers.images.registry.settings import substitute

        return substitute(self.sources.registry_settings, reference)

    def pull(self, name: str, *, policy: PullPolicy = "always") -> Image:
        """Fetch an image from its registry.

        Args:
            policy: ``"always"`` asks whether the name stands for something newer.

        Raises:
            ImageNotFoundError, ImageError, RegistryError: See `get`.
        """
        reference = parse_reference(name)
        if policy != "always" and self.on_host.has(reference):
            return self.get(name)
        image = self.sources.by_name(self._with_prefix(reference), policy)
        self.given_to_image(name)
        return image

    def document(self, image: Image) -> Mapping[str, Any] | None:
        """Return an image's config as manifests name it; None if it has none, as ``host:``."""
        if image.mounts:
            return self.on_host.document(image)
        data = self.library.blobs.read(image.base_id or image.id, manifests.MAX_DOCUMENT_BYTES)
        return manifests.document(data, f"{image.name}: config")

    def hold(self, image: Image) -> LayerHold:
        """Keep the layers of `image` from being removed, for as long as `LayerHold.fd` is open.

        Raises:
            ImageNotFoundError: They have been removed just now; ask for the image again.
        """
        store = self.library.store
        with storing(f"the use of image {image.name!r}", store.home):
            hold = LayerHold(store, image.layers)
        for layer in image.layers:
            if store.layer_record(layer.path.parent) is None:
                hold.close()
                self.forget_answers()
                raise ImageNotFoundError(
                    f"image {image.name!r}: a layer of it was removed meanwhile; try again"
                )
        return hold

    # -------------------------------------------------------------------- names

    def forget_answers(self) -> None:
        """Look every image up again when it is asked for next."""
        self._answers.clear()

    def given_to_image(self, name: str) -> None:
        """Take note that a name stands for an image of layers now, and for nothing on ``host:``."""
        reference = parse_reference(name)
        if self.on_host.has(reference):
            self.on_host.remove(reference)
        self._forget(name, reference)

    def given_to_host(self, reference: Reference) -> None:
        """Take note that a name stands for a result on ``host:`` now, and no image of layers."""
        if self.library.names.get(reference) is not None:
            self.library.names.remove(reference)
        self._forget(reference.familiar, reference)

    def _forget(self, name: str, reference: Reference) -> None:
        names = (name, reference.familiar)
        for key in [key for key in self._answers if key[0] in names]:
            del self._answers[key]
