"""Builds as callers describe and watch them: options, and the display of the steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, get_args

from pytest_containers.model.arguments import FLAG, MAPPING, TEXT, require
from pytest_containers.model.errors import SpecError

BuildNetwork = Literal["default", "none", "host"]
EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of a build, besides its Dockerfile.

    Attributes:
        target: The stage to build; empty builds the last one.
        args: Build arguments.
        labels: Labels to add to those of the Dockerfile.
        secrets: Secrets by id: the contents, or the file that holds them.
        ssh: Sockets of SSH agents by id.
        platform: ``linux/amd64``; empty is the platform of this machine.
        network: The network of each RUN that names none.
        no_cache: Run every step again.
        pull: Ask the registries for newer base images.
        keep_failed: The name under which the files of a failed step are kept; empty keeps nothing.
        scratch, scratch_size_bytes: Where a RUN writes and how much, as in `ContainerSpec`.
        dockerfile_text: The text of the Dockerfile; None reads the file.
        epoch: The time of all files and of the image, in seconds (``SOURCE_DATE_EPOCH``); None is
            the current time.
    """

    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes | Path] = field(default_factory=dict)
    ssh: Mapping[str, Path] = field(default_factory=dict)
    platform: str = ""
    network: BuildNetwork = "default"
    no_cache: bool = False
    pull: bool = False
    keep_failed: str = ""
    scratch: Literal["tmpfs", "disk"] = "tmpfs"
    scratch_size_bytes: int | None = None
    epoch: int | None = None
    dockerfile_text: str | None = None

    def __post_init__(self) -> None:
        for name in ("target", "platform", "keep_failed"):
            require("build", name, getattr(self, name), TEXT)
        for name in ("args", "labels", "secrets", "ssh"):
            require("build", name, getattr(self, name), MAPPING)
        for name in ("no_cache", "pull"):
            require("build", name, getattr(self, name), FLAG)
        if self.network not in get_args(BuildNetwork):
            names = ", ".join(get_args(BuildNetwork))
            raise SpecError(f"build: network={self.network!r} is not one of {names}")

    @property
    def time_ns(self) -> int | None:
        """`epoch` in nanoseconds."""
        return None if self.epoch is None else self.epoch * 10**9


def epoch_of(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return ``SOURCE_DATE_EPOCH`` of the environment, if it is a number."""
    value = environ.get(EPOCH, "")
    return int(value) if value.isdecimal() else None


class BuildDisplay:
    """A display of build steps; this base class shows nothing.

    Attributes:
        brief: True to show the output of programs only, without steps that are cached or instant.
    """

    brief: bool = False

    def write(self, lines: str) -> None:
        """Show whole lines, each with its line end."""


class StreamBuildDisplay(BuildDisplay):
    """A display that writes lines to a stream as they arrive."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, lines: str) -> None:
        """Show whole lines, each with its line end."""
        self._stream.write(lines)
        self._stream.flush()
