"""Builds in tests: how they go, and what is in their images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest_containers as pc
from helpers.layouts import output
from pytest_containers.model.build import BuildDisplay

Build = Callable[..., pc.Image]
PATH = "/usr/bin:/bin"
_MAIN = "import sys; from pytest_containers.cli import main; sys.exit(main())"


class Lines(BuildDisplay):
    """Collects what is shown."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def done(self) -> list[str]:
        """Titles of the steps that were done and not found."""
        titles, ended = {}, {}
        for line in self.text.splitlines():
            number, _, rest = line.partition(" ")
            titles.setdefault(number, rest)
            if rest == "CACHED" or rest.startswith("DONE"):
                ended[number] = rest
        layered = {number: title for number, title in titles.items() if "FROM" not in title}
        return [
            title.partition("] ")[2]
            for number, title in layered.items()
            if ended.get(number, "").startswith("DONE")
        ]


def shell(engine: pc.Engine, image: pc.Image, script: str) -> str:
    return output(engine, image, script)


def command(
    context: Path, store: Path, *arguments: str, verb: str = "build", stdin: int | None = None,
    **env: str,
) -> subprocess.Popen[str]:  # fmt: skip
    """A build in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, verb, *arguments, str(context)],
        env={**os.environ, "PYTEST_CONTAINERS_HOME": str(store), **env},
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
