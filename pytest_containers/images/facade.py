"""Images by name: the one door through which engines and the command line come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_containers.errors import ImageError, ImageNotFoundError, hide_frames
from pytest_containers.images import manifest as manifests
from pytest_containers.images import progress
from pytest_containers.images.blobs import digest_of
from pytest_containers.images.holds import Hold
from pytest_containers.images.host import host_image
from pytest_containers.images.image import Image
from pytest_containers.images.inside import Inside
from pytest_containers.images.layers import Freeze
from pytest_containers.images.library import Library
from pytest_containers.images.names import Record
from pytest_containers.images.reference import (
    ArchiveSource,
    HostSource,
    Reference,
    RootfsSource,
    parse,
    parse_reference,
)
from pytest_containers.images.sources import Sources
from pytest_containers.images.states import State, States, known
from pytest_containers.images.store import Store, default_home

if TYPE_CHECKING:
    from pytest_containers.images.pull import Policy, Registries
    from pytest_containers.images.registry.settings import RegistrySettings
    from pytest_containers.images.save import Form
    from pytest_containers.images.upkeep import Pruned
    from pytest_containers.images.verify import Finding

__tracebackhide__ = hide_frames


class Images:
    """The images of one store.

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
    """

    def __init__(
        self,
        home: Path | None,
        inside_factory: Callable[[], Inside],
        *,
        project: Path | None = None,
        pull: Policy = "missing",
        registries: RegistrySettings | None = None,
        display: progress.Display | None = None,
    ) -> None:
        self.store: Store = Store(home or default_home())
        self._inside_factory = inside_factory
        self._inside: Inside | None = None
        self._project = project
        self.policy: Policy = pull
        self._registry_settings = registries
        self._registries: Registries | None = None
        self._display = display or progress.Silent()
        self.library: Library = Library(self.store, lambda: self.inside)
        self._sources = Sources(
            self.library, lambda: self.inside, lambda: self.registries, self._display
        )
        self._known: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Image] = {}

    @property
    def inside(self) -> Inside:
        """Access to the run's user namespace."""
        if self._inside is None:
            self._inside = self._inside_factory()
        return self._inside

    @property
    def registry_settings(self) -> RegistrySettings:
        """How registries are reached."""
        if self._registry_settings is None:
            from pytest_containers.images.registry.settings import settings_of

            self._registry_settings = settings_of((), (), "")
        return self._registry_settings

    @property
    def registries(self) -> Registries:
        """The registries of the project."""
        if self._registries is None:
            from pytest_containers.images.pull import Registries

            self._registries = Registries(self.registry_settings)
        return self._registries

    # ---------------------------------------------------------------- to be used

    def get(
        self, reference: str, *, etc: Sequence[str] = (), binaries: Sequence[str] = ()
    ) -> Image:
        """The image that `reference` names, ready to be started from; pulled if it has to be.

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
        if isinstance(source, ArchiveSource):
            return self._sources.from_archive(source)
        if isinstance(source, RootfsSource):
            return self._sources.from_rootfs(Path(source.path).absolute(), {}, reference)
        if self.library.names.get(source) is None and (found := self._of_host(source)):
            return found
        image = self._sources.by_name(self._meant(source), self.policy)
        self.library.layers.settle(image.layers)
        return image

    def _meant(self, reference: Reference) -> Reference:
        """With the project's prefix for Docker Hub, unless the plain name is stored."""
        if self.library.names.get(reference) is not None:
            return reference
        return self.registry_settings.substitute(reference)

    def pull(self, name: str, *, policy: Policy = "always") -> Image:
        """Fetch an image from its registry.

        Args:
            policy: ``"always"`` asks whether the name stands for something newer.

        Raises:
            ImageNotFoundError, ImageError, RegistryError: See `get`.
        """
        image = self._sources.by_name(self._meant(parse_reference(name)), policy)
        self._forget(name)
        return image

    # ----------------------------------------------------------- the store's own

    def load(self, path: str | os.PathLike[str], *, name: str | None = None) -> list[str]:
        """Put the images of an archive into the store, under the names they have there.

        Args:
            path: An OCI layout (directory or tar) or a tar of `docker save`.
            name: A name to give it; needed when the archive has none.

        Returns:
            Their names in the store.
        """
        from pytest_containers.images import load

        with self.store.among_others():
            names = load.load(self.library, Path(path), name, self._display)
        for one in names:
            self._forget(one)
        return names

    def import_rootfs(
        self,
        path: str | os.PathLike[str],
        name: str,
        config: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make an image of a root file system, a tar or a directory.

        Args:
            name: As it will be called.
            config: How it is run, in the words of an image's config: ``{"Cmd": […], "Env": […]}``.
        """
        from pytest_containers.images import load

        with self.store.among_others():
            load.import_rootfs(
                self.library, Path(path).absolute(), parse_reference(name), config or {}
            )
        self._forget(name)
        return self._sources.by_name(parse_reference(name), "never")

    def forget_answers(self) -> None:
        """Look every image up again when it is asked for next."""
        self._known.clear()

    def _forget(self, name: str) -> None:
        """What `name` was known as is not true any more."""
        familiar = parse_reference(name).familiar
        for key in [key for key in self._known if key[0] in (name, familiar)]:
            del self._known[key]

    def commit(
        self, base: Image, pack: Callable[[int], None], name: str, *,
        changes: Mapping[str, Any] | None = None, message: str = "", author: str = "",
    ) -> Image:  # fmt: skip
        """Make an image of `base` and a layer on top of it.

        Args:
            pack: Writes the layer's tar to a pipe.
            changes: Replace what the image says of running it: ``{"Cmd": […]}``.
        """
        from pytest_containers.images.commit import commit

        reference = parse_reference(name)
        with self.store.among_others():
            commit(
                self.library, base, pack, reference, changes=changes or {}, message=message,
                author=author,
            )  # fmt: skip
        self._forget(name)
        return self._sources.by_name(reference, "never")

    def keep_built(self, image: Image, config_data: bytes, names: Sequence[str]) -> Image:
        """Keep what a build has made; whoever calls is among others (`Store.among_others`).

        Args:
            image: Its layers, with any config.
            config_data: Its config.
            names: What it is called in the store; it needs none.
        """
        from pytest_containers.images.library import documents

        what = names[0] if names else "an image that was built"
        found = documents(None, config_data, what)
        self.library.blobs.write(config_data)
        config = digest_of(config_data)
        for name in names:
            if image.mounts:
                self._keep_of_host(parse_reference(name), image, found.config)
            else:
                self.library.names.set(parse_reference(name), config=config, digest="")
            self._forget(name)
        made = self.library.image(found, (), "", what)
        return replace(made, layers=image.layers, mounts=image.mounts)

    def _keep_of_host(self, reference: Reference, image: Image, config: dict[str, Any]) -> None:
        """Name an image that was built on a ``host:`` one; only this machine can use it."""
        base = self.get(image.name)
        above = [layer.diff_id for layer in image.layers[len(base.layers) :]]
        if not above:
            raise ImageError(f"{reference.familiar}: nothing in it is more than {image.name}")
        states, key = self.states, snapshot_key(reference)
        earlier = states.candidates(key)
        facts = {
            "name": str(reference), "of": base.name, "below": above[:-1], "config": config,
        }  # fmt: skip
        made = states.enter(key, base.id, above[-1], facts)
        for one in earlier:
            if one.layer != made.layer:
                states.remove(one)

    def document(self, image: Image) -> Mapping[str, Any] | None:
        """Its whole config, as manifests name it; None for one that has none, as ``host:``."""
        if not image.mounts:
            data = self.library.blobs.read(image.base_id or image.id, manifests.MAX_DOCUMENT_BYTES)
            return manifests.document(data, f"{image.name}: config")
        reference = parse(image.name)
        if isinstance(reference, Reference):
            for state in self.states.candidates(snapshot_key(reference)):
                found: Mapping[str, Any] | None = state.facts.get("config")
                return found
        return None

    # ------------------------------------------------------------------- states

    @property
    def states(self) -> States:
        """Frozen writable layers, by key."""
        return self.library.states

    def freeze(self, base: Image, freeze: Freeze) -> Image:
        """An image of `base` and a writable layer, without a name.

        It is for runs that have begun: nothing leads to its layer but who holds it (`hold`), so
        the caller is among others (`Store.among_others`) until it is held.
        """
        layer = self.library.layers.freeze(freeze, f"a snapshot of {base.name}")
        return base.with_layer(layer, layer.diff_id)

    def freeze_as(self, base: Image, freeze: Freeze, name: str) -> Image:
        """The same of a ``host:`` image under a name; only this machine can use it."""
        reference = parse_reference(name)
        states, key = self.states, snapshot_key(reference)
        earlier = states.candidates(key)
        host, facts = self._on_host(base)
        made = states.keep(key, host, freeze, {"name": str(reference), **facts})
        for one in earlier:
            if one.layer != made.layer:
                states.remove(one)
        self._forget(name)
        image = self._of_host(reference)
        assert image is not None
        return image

    def _on_host(self, image: Image) -> tuple[Image, dict[str, Any]]:
        """The ``host:`` image below, and what has to be known to find `image` on top of it again.

        A record leads to ``host:`` itself, since all between are states, which have no names, or
        have names that may mean something else tomorrow.
        """
        name, facts = image.name, dict[str, Any]()
        while not name.startswith("host:"):
            found = self.states.candidates(snapshot_key(parse_reference(name)))
            if not found:
                raise ImageError(
                    f"snapshot of {image.name!r}: it is based on this machine's programs and has "
                    "no name in the store (any more), by which it would be found again; name it, "
                    "or take a snapshot without a name"
                )
            if "config" in found[0].facts:
                facts.setdefault("config", found[0].facts["config"])
            name = str(found[0].facts["of"])
        host = self.get(name)
        below = len(host.layers)
        if image.layers[:below] != host.layers:
            raise ImageError(
                f"snapshot of {image.name!r}: this machine's programs have changed since; start "
                "it again"
            )
        return host, {**facts, "of": name, "below": [one.diff_id for one in image.layers[below:]]}

    def drop_states(self, states: Iterable[State]) -> None:
        """Remove states and those of their layers that no live run uses."""
        from pytest_containers.images.upkeep import drop_states

        drop_states(self.library, states)

    def _of_host(self, reference: Reference) -> Image | None:
        """What `freeze_as` made, while the machine is what it was."""
        if not (self.store.home / "states" / snapshot_key(reference)).is_dir():
            return None  # without starting anything
        for state in self.states.candidates(snapshot_key(reference)):
            base = self.get(str(state.facts["of"]))
            image = self.states.image(base, state)
            if image is None:
                what = "a layer of it was" if state.base == base.id else "those have"
                how = "removed" if state.base == base.id else "changed"
                raise ImageError(
                    f"image {reference.familiar!r} is a snapshot of this machine's programs, and "
                    f"{what} {how} since; make it again"
                )
            self.states.used(state)
            config = state.facts.get("config")
            if config is not None:
                parsed = manifests.parse_config(config, reference.familiar)
                image = replace(image, config=parsed)
            return replace(image, name=reference.familiar)
        return None

    def push(self, name: str, target: str | None = None) -> str:
        """Bring a stored image to the registry that its name, or `target`, names.

        Returns:
            The digest of its manifest there.

        Raises:
            ImageNotFoundError, ImageError, RegistryError: See `images.push`.
        """
        from pytest_containers.images.complete import complete
        from pytest_containers.images.push import push

        record = complete(self.library, self._record(name))
        goal = record.reference if target is None else parse_reference(target)
        registry = self.registries.itself(goal.registry)
        return push(self.library, record, goal, registry, self._sources.puller(), self._display)

    def save(
        self, names: Sequence[str], path: str | os.PathLike[str], *, form: Form = "archive"
    ) -> None:
        """Write images to a file that Docker, Podman and skopeo take, byte for byte.

        Args:
            form: ``"archive"``, a tar, or ``"layout"``, a directory.
        """
        from pytest_containers.images.complete import complete
        from pytest_containers.images.save import save

        records = [complete(self.library, self._record(name)) for name in names]
        save(self.library, records, Path(path).absolute(), form, self._sources.puller())

    def tag(self, name: str, other: str) -> None:
        """Let `other` be a name of the same image."""
        record = self._record(name)
        self.library.names.set(
            parse_reference(other), config=record.config, digest=record.digest,
            resolved=record.resolved, origin=record.origin,
        )  # fmt: skip
        self._forget(other)

    def list(self) -> list[dict[str, Any]]:
        """Images that have a name in the store.

        Returns:
            For each ``name``, ``id``, ``digest``, ``created``, ``size_bytes`` (unpacked),
            ``compressed_bytes``, ``used_at`` (seconds since the epoch).
        """
        from pytest_containers.images.listing import summary

        return [summary(self.library, record) for record in self.library.names.all()]

    def inspect(self, name: str) -> dict[str, Any]:
        """All that is known of a stored image: names, digests, layers, platform, config."""
        from pytest_containers.images.listing import details

        return details(self.library, self._record(name))

    def history(self, name: str) -> Sequence[dict[str, Any]]:
        """How a stored image came to be, the newest step first."""
        from pytest_containers.images.listing import history

        return history(self.library, self._record(name))

    def remove(self, name: str) -> None:
        """Forget a name; its layers stay until they are pruned.

        Raises:
            ImageNotFoundError: There is no such name.
        """
        reference = parse_reference(name)
        frozen = list(known(self.store, self.store.home / "states" / snapshot_key(reference)))
        for state in frozen:
            self.states.remove(state)
        if not frozen or self.library.names.get(reference) is not None:
            self.library.names.remove(reference)
        self.forget_answers()

    def prune(
        self, *, unused_for_s: float | None = None, keep_bytes: int | None = None,
        all_unused: bool = False, dry_run: bool = False,
    ) -> Pruned:  # fmt: skip
        """Remove what no name leads to, and names as asked for; never what a live run uses.

        Args:
            unused_for_s: Also names that were not used for so many seconds.
            keep_bytes: Also names, those used longest ago first, until the rest is not larger.
            all_unused: Also every name that no live run uses.
            dry_run: Only tell.
        """
        from pytest_containers.images.upkeep import prune

        done = prune(
            self.library, unused_for_s=unused_for_s, keep_bytes=keep_bytes,
            all_unused=all_unused, dry_run=dry_run,
        )  # fmt: skip
        self.forget_answers()
        return done

    def verify(self) -> Sequence[Finding]:
        """Look at every stored byte of named images; what is damaged is mended where it can be."""
        from pytest_containers.images.verify import verify

        def pull(record: Record) -> None:
            if not record.origin:
                raise ImageError(f"{record.reference.familiar} was not pulled")
            self._sources.pulled(record.reference)

        self.forget_answers()
        return verify(self.library, self._sources.puller(), pull)

    def cache_export(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Write all named images to one file of the caller's; returns their names."""
        from pytest_containers.images.cache import export

        return export(self.library, Path(path).absolute(), self._sources.puller())

    def cache_import(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Take the images of such a file; returns their names."""
        from pytest_containers.images.cache import bring_in

        self.forget_answers()
        return bring_in(self.library, Path(path))

    def cache_clear(self) -> None:
        """Empty the store; refused while a live run uses it."""
        from pytest_containers.images.cache import clear

        self.forget_answers()
        clear(self.library)

    def hold(self, image: Image) -> Hold:
        """Keep the layers of `image` from being removed, for as long as somebody has `Hold.fd`.

        Raises:
            ImageNotFoundError: They have been removed just now; ask for the image again.
        """
        hold = Hold(self.store, image.layers)
        for layer in image.layers:
            if self.store.layer_record(layer.path.parent) is None:
                hold.close()
                self.forget_answers()
                raise ImageNotFoundError(
                    f"image {image.name!r}: a layer of it was removed meanwhile; try again"
                )
        return hold

    def _record(self, name: str) -> Record:
        reference = parse_reference(name)
        record = self.library.names.get(reference)
        if record is None and (self.store.home / "states" / snapshot_key(reference)).is_dir():
            raise ImageError(
                f"image {reference.familiar!r} is a snapshot of this machine's own programs "
                "(host:), which are no part of it; it can be run here and nothing else"
            )
        if record is None:
            raise ImageNotFoundError(
                f"image {reference.familiar!r} is not in the store; `pytest-containers images` "
                "lists what is",
                reference=reference.familiar,
            )
        return record


def snapshot_key(reference: Reference) -> str:
    """The key of a named snapshot of ``host:``."""
    return hashlib.sha256(f"snapshot {reference}".encode()).hexdigest()
