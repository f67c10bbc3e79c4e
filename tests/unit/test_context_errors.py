"""Files of a build's context that cannot be read: the error names file and cause."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.builder.context import Context, ContextEntry
from pytest_containers.builder.dockerfile.ignore import Patterns
from pytest_containers.builder.filedigests import FileDigests

LOOPBACK = Path("/sys/devices/virtual/net/lo")


def listed(root: Path, name: str) -> tuple[Context, ContextEntry]:
    """A context, and a file of it."""
    context = Context(root, Patterns([]), FileDigests(None, root), name="the context")
    (selected,) = context.select(name)
    return context, selected.top


@pytest.fixture
def writer() -> Iterator[int]:
    """The end of a pipe that somebody reads."""
    reader, writer = os.pipe()
    yield writer
    os.close(writer)
    os.close(reader)


def test_a_digest() -> None:
    """Of a file that can be opened; there is no memory at address 0."""
    context, entry = listed(Path("/proc/self"), "mem")
    words = "^'mem' of the context cannot be read: Input/output error: its disk is at fault$"
    with pytest.raises(pc.BuildError, match=words) as caught:
        context.digest(entry)
    assert caught.value.path == "mem"


@pytest.mark.skipif(not (LOOPBACK / "speed").exists(), reason="needs sysfs of the loopback device")
def test_contents(writer: int) -> None:
    context, entry = listed(LOOPBACK, "speed")
    with pytest.raises(pc.BuildError, match="^'speed' of the context cannot be read: Invalid arg"):
        context.send(entry, writer)


def test_nobody_reads_the_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    context, entry = listed(tmp_path, "file")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb"), pytest.raises(BrokenPipeError):
        context.send(entry, writer)
