"""Named results on ``host:``: snapshots, commits and builds that only this machine can use.

Their programs are directories of the host, which are no part of an image. So such a name stands
for a state (`store.states`): layers on top of ``host:`` as it was, found by a key made of the name.
A name stands for one thing: giving it to an image takes it from a state, and the other way round
(`Images`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.reference import Reference, parse, parse_reference
from pytest_containers.images.store.states import State, every, states_in
from pytest_containers.model.errors import ImageError, hide_frames

if TYPE_CHECKING:
    from pytest_containers.images.image import Image, Layer
    from pytest_containers.images.store.layers import Freeze
    from pytest_containers.images.store.library import Library
    from pytest_containers.model.images import HistoryStep, ImageDetails, ImageSummary, LayerRecord

__tracebackhide__ = hide_frames


def snapshot_key(reference: Reference) -> str:
    """Return the key of a named result on ``host:``."""
    return hashlib.sha256(f"snapshot {reference}".encode()).hexdigest()


class NamedOnHost:
    """The named results on ``host:`` of a store.

    Args:
        library: Keeps their layers.
        get: Gives an image by name.
    """

    def __init__(self, library: Library, get: Callable[[str], Image]) -> None:
        self._library = library
        self._get = get

    # ----------------------------------------------------------------- finding

    def has(self, reference: Reference) -> bool:
        """Return True if a name stands for a result on ``host:``; starts nothing."""
        return self._record(reference) is not None

    def _record(self, reference: Reference) -> State | None:
        folder = self._library.store.home / "states" / snapshot_key(reference)
        return next(states_in(folder), None) if folder.is_dir() else None

    def find(self, reference: Reference) -> Image | None:
        """Return the image that a name stands for, while the machine is what it was.

        Raises:
            ImageError: The machine's programs have changed since, or a layer is gone.
        """
        if not self.has(reference):
            return None
        for state in self._library.states.candidates(snapshot_key(reference)):
            base = self._get(str(state.facts["of"]))
            image = self._library.states.image(base, state)
            if image is None:
                cause = "a layer of it was removed" if state.base == base.id else "those changed"
                raise ImageError(
                    f"image {reference.familiar!r} is based on this machine's own programs, and "
                    f"{cause} since; make it again"
                )
            self._library.states.used(state)
            config = state.facts.get("config")
            if config is not None:
                parsed = manifests.parse_config(config, reference.familiar)
                image = replace(image, config=parsed)
            return replace(image, name=reference.familiar)
        raise ImageError(
            f"image {reference.familiar!r} is based on this machine's own programs, and its layer "
            "was removed or belongs to other ids; make it again"
        )

    def document(self, image: Image) -> Mapping[str, Any] | None:
        """Return the whole config of an image on ``host:``; None if it has none of its own."""
        reference = parse(image.name)
        if isinstance(reference, Reference) and (state := self._record(reference)) is not None:
            config: Mapping[str, Any] | None = state.facts.get("config")
            return config
        return None

    # ------------------------------------------------------------------ making

    def freeze(
        self, base: Image, freeze: Freeze, reference: Reference, changes: Mapping[str, Any]
    ) -> None:
        """Keep a writable layer on top of `base` under a name.

        Args:
            changes: Replace what the image says of running it: ``{"Cmd": […]}``.
        """
        earlier = self._earlier(reference)
        host, facts = self._on_host(base)
        if changes:
            document = facts.get("config") or _document_of(base)
            config = {**(document.get("config") or {}), **changes}
            facts["config"] = {**document, "config": config}
        facts["name"] = str(reference)
        state = self._library.states.keep(snapshot_key(reference), host, freeze, facts)
        self._drop(earlier, state)

    def keep_built(self, reference: Reference, image: Image, config: dict[str, Any]) -> None:
        """Name an image that was built on a ``host:`` one; call in `Store.among_others`."""
        base = self._get(image.name)
        above = [layer.diff_id for layer in image.layers[len(base.layers) :]]
        if not above:
            raise ImageError(f"{reference.familiar}: nothing in it is more than {image.name}")
        earlier = self._earlier(reference)
        host, facts = self._on_host(base)
        facts |= {"name": str(reference), "config": config}
        facts["below"] = [*facts["below"], *above[:-1]]
        key = snapshot_key(reference)
        state = self._library.states.enter(key, host.id, above[-1], facts)
        self._drop(earlier, state)

    def tag(self, reference: Reference, other: Reference) -> None:
        """Let `other` stand for the same as `reference`, which is one of these."""
        state = self._record(reference)
        assert state is not None
        with self._library.store.among_others():
            facts = {**state.facts, "name": str(other)}
            earlier = self._earlier(other)
            tagged = self._library.states.enter(snapshot_key(other), state.base, state.layer, facts)
            self._drop(earlier, tagged)

    def remove(self, reference: Reference) -> bool:
        """Forget a name; its layers stay until they are pruned.

        Returns:
            Whether it was one of these.
        """
        earlier = self._earlier(reference)
        self._drop(earlier, None)
        return bool(earlier)

    def _earlier(self, reference: Reference) -> Sequence[State]:
        return list(states_in(self._library.store.home / "states" / snapshot_key(reference)))

    def _drop(self, earlier: Sequence[State], current: State | None) -> None:
        for state in earlier:
            if current is None or state.layer != current.layer:
                self._library.states.remove(state)

    def _on_host(self, image: Image) -> tuple[Image, dict[str, Any]]:
        """Return the ``host:`` image below, and the facts that find `image` on top of it again.

        A record leads to ``host:`` itself, since all between are states, which have no names, or
        have names that may mean something else tomorrow.
        """
        name, facts = image.name, dict[str, Any]()
        while not name.startswith("host:"):
            state = self._record(parse_reference(name))
            if state is None:
                raise ImageError(
                    f"snapshot of {image.name!r}: it is based on this machine's programs and has "
                    "no name in the store (any more), by which it would be found again; name it, "
                    "or take a snapshot without a name"
                )
            if "config" in state.facts:
                facts.setdefault("config", state.facts["config"])
            name = str(state.facts["of"])
        host = self._get(name)
        count = len(host.layers)
        if image.layers[:count] != host.layers:
            raise ImageError(
                f"snapshot of {image.name!r}: this machine's programs have changed since; start "
                "it again"
            )
        below: Sequence[Layer] = image.layers[count:]
        return host, {**facts, "of": name, "below": [layer.diff_id for layer in below]}

    # ----------------------------------------------------------------- telling

    def refusal(self, reference: Reference, doing: str) -> ImageError:
        """Return why one of these cannot leave this machine."""
        return ImageError(
            f"{doing} of image {reference.familiar!r}: it is based on this machine's own programs "
            "(host:), which are no part of it, so it can only be used here; to move it, make it "
            "of an image with a root file system of its own, such as FROM debian:12",
            reference=reference.familiar,
        )

    def all(self) -> Iterator[tuple[Reference, State]]:
        """Yield the names, and what they stand for."""
        for state in every(self._library.store):
            name = state.facts.get("name")
            if isinstance(name, str) and "of" in state.facts:
                reference = parse_reference(name)
                if snapshot_key(reference) == state.key:
                    yield reference, state

    def listing(self) -> list[ImageSummary]:
        """Return a line for each name; see `store.listing.summary`."""
        return [_summary(reference, state) for reference, state in self.all()]

    def details(self, reference: Reference) -> ImageDetails:
        """Return everything about one of these; see `store.listing.details`."""
        state = self._record(reference)
        assert state is not None
        config = state.facts.get("config") or {}
        names = [other.familiar for other, same in self.all() if same.id == state.id]
        layers: list[LayerRecord] = [
            {"digest": "", "diff_id": diff_id, "media_type": "", "size_bytes": 0}
            for diff_id in state.layers
        ]
        return {
            **_summary(reference, state),
            "names": sorted(names),
            "origin": state.facts["of"],
            "media_type": "",
            "os": "linux",
            "architecture": manifests.architecture(),
            "variant": "",
            "layers": layers,
            "config": config.get("config") or {},
        }

    def history(self, reference: Reference) -> list[HistoryStep]:
        """Return the steps of a build, the newest first; see `store.listing.history`."""
        state = self._record(reference)
        steps = (state.facts.get("config") or {}).get("history") if state is not None else ()
        listed: list[HistoryStep] = [
            {
                "created": str(step.get("created") or ""),
                "created_by": str(step.get("created_by") or ""),
                "comment": str(step.get("comment") or ""),
                "digest": "",
                "size_bytes": 0,
            }
            for step in steps or ()
        ]
        return listed[::-1]


def _summary(reference: Reference, state: State) -> ImageSummary:
    from datetime import UTC, datetime

    created = datetime.fromtimestamp(state.made_at, UTC).isoformat(timespec="seconds")
    return {
        "name": reference.familiar,
        "id": state.id,
        "digest": "",
        "created": created.replace("+00:00", "Z"),
        "size_bytes": state.size_bytes,
        "compressed_bytes": 0,
        "used_at": state.used_at,
    }


def _document_of(image: Image) -> dict[str, Any]:
    """Return what an image that has no config of its own says about running it."""
    config = image.config
    return {
        "architecture": manifests.architecture(),
        "os": "linux",
        "config": {
            "Env": [f"{name}={value}" for name, value in config.env.items()],
            "Cmd": list(config.cmd),
            "WorkingDir": config.workdir,
        },
    }
