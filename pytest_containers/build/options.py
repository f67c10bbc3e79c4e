"""What a build is asked for, beside its Dockerfile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Network = Literal["default", "none", "host"]
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
EPOCH = "SOURCE_DATE_EPOCH"
PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
    "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy",
)  # fmt: skip
"""Arguments that need no ARG, and that neither the cache nor the history knows of."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        target: The stage to build; empty is the last.
        args: Build arguments.
        labels: Added to the image's.
        secrets: By id: contents, or the file that has them.
        ssh: By id: the socket of an agent.
        platform: ``linux/amd64``; empty is this machine's.
        network: Of RUN without one of its own.
        no_cache: Do every step again.
        pull: Ask registries whether base images are still what they were.
        keep_failed: A name under which a failed step's files are kept; empty keeps nothing.
        scratch, scratch_size_bytes: What a RUN may write and where, as `ContainerSpec` has them.
        epoch: What time it is, in seconds (``SOURCE_DATE_EPOCH``); None is the time it is.
    """

    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes | Path] = field(default_factory=dict)
    ssh: Mapping[str, Path] = field(default_factory=dict)
    platform: str = ""
    network: Network = "default"
    no_cache: bool = False
    pull: bool = False
    keep_failed: str = ""
    scratch: Literal["tmpfs", "disk"] = "tmpfs"
    scratch_size_bytes: int | None = None
    epoch: int | None = None

    @property
    def time_ns(self) -> int | None:
        """`epoch` in nanoseconds."""
        return None if self.epoch is None else self.epoch * 10**9


def with_epoch(options: BuildOptions) -> BuildOptions:
    """The same with one epoch: that of the option is an argument too, and the other way round.

    Raises:
        ValueError: The argument ``SOURCE_DATE_EPOCH`` is no number.
    """
    given = options.args.get(EPOCH)
    if given is None and options.epoch is None:
        return options
    if given is not None and not (given.isascii() and given.isdecimal()):
        raise ValueError(f"{EPOCH}={given} is not a number of seconds since 1970")
    epoch = options.epoch if given is None else int(given)
    return replace(options, epoch=epoch, args={**options.args, EPOCH: str(epoch)})


def epoch_of(environ: Mapping[str, str] = os.environ) -> int | None:
    """``SOURCE_DATE_EPOCH`` of the environment, if it is a number."""
    text = environ.get(EPOCH, "")
    return int(text) if text.isdecimal() else None


def size_of(text: str) -> int:
    """``64m`` in bytes, as Docker reads sizes of memory.

    Raises:
        ValueError: It is no size.
    """
    digits = text.rstrip("bBkKmMgGtTi")
    unit = text[len(digits) :].lower().replace("i", "").removesuffix("b")
    if not digits.isdecimal() or unit not in _SIZES:
        raise ValueError(f"{text!r} is not a size: expected a number of bytes, as 64m")
    return int(digits) * _SIZES[unit]
