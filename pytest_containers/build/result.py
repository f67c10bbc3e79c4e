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
class Result:
    """Layers and config of an image that is being built.

    Attributes:
        image: It, as it can be run; its config is older than `document` while that is changed.
        document: The config as manifests name it: ``config``, ``history``, ``rootfs`` ….
        args: Arguments that were declared, with their values.
        made_at: When its last step was done, in seconds since the epoch; None where nobody knows,
            for a base that does not tell and no step: the time of the build would give each
            another id.
    """

    image: Image
    document: dict[str, Any]
    args: dict[str, str | None] = field(default_factory=dict)
    made_at: float | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What it says about running it."""
        found: dict[str, Any] = self.document["config"]
        return found

    @property
    def env(self) -> dict[str, str]:
        """Its environment."""
        return dict(item.partition("=")[::2] for item in self.config.get("Env") or ())

    @property
    def variables(self) -> dict[str, str]:
        """What words are expanded with: an ENV wins over an ARG."""
        args = {name: value for name, value in self.args.items() if value is not None}
        return {**args, **self.env}

    @property
    def workdir(self) -> str:
        """Its working directory."""
        return str(self.config.get("WorkingDir") or "/")

    @property
    def shell(self) -> list[str]:
        """What runs commands in shell form."""
        return list(self.config.get("Shell") or ("/bin/sh", "-c"))

    @property
    def chain(self) -> str:
        """A digest of its files, by the layers that they are in."""
        parts = [layer.diff_id for layer in self.image.layers if layer.diff_id]
        if self.image.mounts:
            parts.insert(0, self.image.base_id or self.image.id)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def set_env(self, name: str, value: str) -> None:
        """An environment variable; where it stands in the list stays."""
        env = {**self.env, name: value}
        self.config["Env"] = [f"{key}={one}" for key, one in env.items()]

    def add_layer(self, layer: Layer) -> None:
        """One more layer on top."""
        root = self.image.base_id or self.image.id
        rootfs = self.document.setdefault("rootfs", {"type": "layers", "diff_ids": []})
        rootfs["diff_ids"] = [*rootfs["diff_ids"], layer.diff_id]
        text = "\n".join(
            ["step 1", root, *(one.diff_id for one in self.image.layers), layer.diff_id]
        )
        image_id = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        self.image = self.image.with_layer(layer, image_id)

    def note(self, created_by: str, time: float | None, *, empty: bool) -> None:
        """One more line of history."""
        self.made_at = time
        entry: dict[str, Any] = {"created_by": created_by, "comment": COMMENT}
        if empty:
            entry["empty_layer"] = True
        if time is not None:
            self.document["created"] = entry["created"] = iso(time)
        self.document["history"] = [*(self.document.get("history") or []), entry]

    def branch(self) -> Result:
        """A copy that goes its own way: another stage begins from it."""
        return Result(self.image, copy.deepcopy(self.document), dict(self.args), self.made_at)

    @property
    def data(self) -> bytes:
        """The document as it is kept."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":")).encode()


def iso(time: float) -> str:
    """A time as image configs have it."""
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")


def seconds(text: str) -> float | None:
    """Such a time in seconds since the epoch; None if it is not understood."""
    try:
        # Go writes nanoseconds, of which Python reads six digits from 3.11 on.
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def scratch(variant: str = "") -> Result:
    """The empty image."""
    document: dict[str, Any] = {
        "architecture": manifests.architecture(), "os": "linux",
        "config": {"Env": [f"PATH={PATH}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
    }  # fmt: skip
    if variant:
        document["variant"] = variant
    return Result(Image("sha256:" + "0" * 64, "scratch", (), manifests.parse_config(document, "")),
                  document)  # fmt: skip


def from_image(image: Image, document: Mapping[str, Any] | None) -> Result:
    """What a FROM begins with.

    Args:
        document: The image's config; None for one that has none, as ``host:``.
    """
    config = image.config
    found: dict[str, Any] = (
        copy.deepcopy(dict(document))
        if document is not None
        else {
            "architecture": manifests.architecture(), "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in config.env.items()],
                "Cmd": list(config.cmd),
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [layer.diff_id for layer in image.layers if layer.diff_id],
            },
        }
    )  # fmt: skip
    if not isinstance(found.get("config"), dict):
        found["config"] = {}
    if not any(item.startswith("PATH=") for item in found["config"].get("Env") or ()):
        found["config"]["Env"] = [*(found["config"].get("Env") or ()), f"PATH={PATH}"]
    layers = len(found.get("rootfs", {}).get("diff_ids", ()))
    known = found.get("history")
    if not isinstance(known, list) or not known:
        # One entry for each layer at least: tools count them against each other.
        found["history"] = [{"created_by": "unknown"} for _ in range(layers)]
    for name in ("container", "container_config", "id", "parent", "docker_version"):
        found.pop(name, None)
    return Result(image, found, {}, seconds(str(found.get("created") or "")))
