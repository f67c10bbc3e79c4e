"""What a stage has become so far: layers, and the config that goes with them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pytest_containers.images import manifest as manifests
from pytest_containers.images.image import Image, Layer

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMENT = "pytest-containers"


@dataclass(slots=True)
class StageResult:
    """The layers and config of an image that is being built.

    Attributes:
        image: The image as it can be run; its config is older than `document` while that changes.
        document: The config as manifests name it: ``config``, ``history``, ``rootfs`` ….
        args: Arguments that were declared, with their values.
        made_at: When its last step was done, in seconds since the epoch; None before the first step
            on a base without a time: with the time of the build, each would get another id.
        overriding: Arguments that were declared after an ENV of their name, and hide it from what
            follows; the image keeps the ENV.
    """

    image: Image
    document: dict[str, Any]
    args: dict[str, str | None] = field(default_factory=dict)
    made_at: float | None = None
    overriding: set[str] = field(default_factory=set)

    @property
    def config(self) -> dict[str, Any]:
        """The part of the document that says how to run the image."""
        config: dict[str, Any] = self.document["config"]
        return config

    @property
    def env(self) -> dict[str, str]:
        """Its environment."""
        return dict(item.partition("=")[::2] for item in self.config.get("Env") or ())

    @property
    def variables(self) -> dict[str, str]:
        """The variables of expansion; of an ENV and an ARG of one name, the later one."""
        args = {name: value for name, value in self.args.items() if value is not None}
        later = {name: args[name] for name in self.overriding if name in args}
        return {**args, **self.env, **later}

    @property
    def workdir(self) -> str:
        """Its working directory."""
        return str(self.config.get("WorkingDir") or "/")

    @property
    def shell(self) -> list[str]:
        """The program that runs commands in shell form."""
        return list(self.config.get("Shell") or ("/bin/sh", "-c"))

    @property
    def chain(self) -> str:
        """A digest of its files, by the layers that they are in."""
        parts = [layer.diff_id for layer in self.image.layers if layer.diff_id]
        if self.image.mounts:
            parts.insert(0, self.image.base_id or self.image.id)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def set_env(self, name: str, value: str) -> None:
        """Set an environment variable; one that is there keeps its place in the list."""
        self.overriding.discard(name)
        env = {**self.env, name: value}
        self.config["Env"] = ["=".join(pair) for pair in env.items()]

    def add_layer(self, layer: Layer) -> None:
        """Add a layer on top."""
        root = self.image.base_id or self.image.id
        rootfs = self.document.setdefault("rootfs", {"type": "layers", "diff_ids": []})
        rootfs["diff_ids"] = [*rootfs["diff_ids"], layer.diff_id]
        steps = "\n".join(
            ["step 1", root, *(below.diff_id for below in self.image.layers), layer.diff_id]
        )
        image_id = f"sha256:{hashlib.sha256(steps.encode()).hexdigest()}"
        self.image = self.image.with_layer(layer, image_id)

    def note(self, created_by: str, time: float | None, *, empty: bool) -> None:
        """Add a line of history."""
        self.made_at = time
        entry: dict[str, Any] = {"created_by": created_by, "comment": COMMENT}
        if empty:
            entry["empty_layer"] = True
        if time is not None:
            self.document["created"] = entry["created"] = iso(time)
        self.document["history"] = [*(self.document.get("history") or []), entry]

    def branch(self) -> StageResult:
        """Return an independent copy, from which another stage begins."""
        return StageResult(
            self.image,
            copy.deepcopy(self.document),
            dict(self.args),
            self.made_at,
            set(self.overriding),
        )

    @property
    def data(self) -> bytes:
        """The document as it is kept."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":")).encode()


def iso(time: float) -> str:
    """Return a time as image configs have it."""
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")


def seconds(timestamp: str) -> float | None:
    """Return such a timestamp in seconds since the epoch; None if it is not understood."""
    try:
        # Go writes nanoseconds, of which Python reads six digits from 3.11 on.
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def scratch(variant: str = "") -> StageResult:
    """Return the empty image."""
    document: dict[str, Any] = {
        "architecture": manifests.architecture(),
        "os": "linux",
        "config": {"Env": [f"PATH={PATH}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    if variant:
        document["variant"] = variant
    return StageResult(
        Image("sha256:" + "0" * 64, "scratch", (), manifests.parse_config(document, "")), document
    )


def from_image(image: Image, document: Mapping[str, Any] | None) -> StageResult:
    """Return the result that a FROM begins with.

    Args:
        document: The image's config; None for one that has none, as ``host:``.
    """
    config = image.config
    base: dict[str, Any] = (
        copy.deepcopy(dict(document))
        if document is not None
        else {
            "architecture": manifests.architecture(),
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in config.env.items()],
                "Cmd": list(config.cmd),
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [layer.diff_id for layer in image.layers if layer.diff_id],
            },
        }
    )
    if not isinstance(base.get("config"), dict):
        base["config"] = {}
    if not any(item.startswith("PATH=") for item in base["config"].get("Env") or ()):
        base["config"]["Env"] = [*(base["config"].get("Env") or ()), f"PATH={PATH}"]
    layers = len(base.get("rootfs", {}).get("diff_ids", ()))
    history = base.get("history")
    if not isinstance(history, list) or not history:
        # One entry for each layer at least: tools count them against each other.
        base["history"] = [{"created_by": "unknown"} for _ in range(layers)]
    for name in ("container", "container_config", "id", "parent", "docker_version"):
        base.pop(name, None)
    return StageResult(image, base, {}, seconds(str(base.get("created") or "")))
