"""The images that are run: small Debians with some packages, made once by mmdebstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.machine import field

HOSTNAME = "benchmark"


def tarball(cache: Path, packages: str = "python3", name: str = "python") -> Path:
    """The root filesystem as a tar; kept in `cache`.

    Args:
        packages: Debian's, separated by commas.
        name: Of the file.

    Raises:
        RuntimeError: mmdebstrap is missing or failed.
    """
    tar = cache / f"{name}.tar"
    if tar.exists():
        return tar
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("the benchmarks need mmdebstrap: apt install mmdebstrap")
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{os.getpid()}.tar"
    suite = field("/etc/os-release", "VERSION_CODENAME", "=")
    options = ["--quiet", "--variant=minbase", f"--include={packages}"]
    subprocess.run(["mmdebstrap", *options, suite, partial], check=True)
    partial.rename(tar)
    return tar


def unpack(tar: Path, target: Path) -> Path:
    """A plain directory with the contents of `tar`, for those who take one."""
    target.mkdir()
    command = ["tar", "--extract", f"--file={tar}", f"--directory={target}", "--exclude=./dev/*"]
    subprocess.run(command, check=True)
    return target
