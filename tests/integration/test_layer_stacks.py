"""Layers on top of each other look as if their archives had been applied one after the other."""

from __future__ import annotations

import functools
import os
import tarfile
from pathlib import Path

import hypothesis
import pytest
from helpers.layouts import Layout, Member, busybox, layer, member, output
from hypothesis import strategies as st

import pytest_containers as pc

pytestmark = pytest.mark.slow

Entries = dict[str, tuple[str, int]]
"""``(kind, size or mode)`` by path."""

LISTING = "find / -xdev -path '/[xy]*' -printf '%p %y %m %s\\n' 2>&1"
NAMES = ["x", "y", "x/x", "x/y", "y/x", "x/x/x", "x/x/y", "x/y/x"]
KINDS = ["file", "directory", "link", "hidden", "hidden directory", "opaque"]


@pytest.fixture(scope="module")
def engine(module_engine: pc.Engine) -> pc.Engine:
    return module_engine


@functools.cache
def programs() -> bytes:
    return layer(busybox("find"))


@st.composite
def layers(draw: st.DrawFn) -> Entries:
    """A layer, whose entries come in any order."""
    numbers = st.integers(0, 3)
    drawn = draw(
        st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(KINDS), numbers))
    )
    kinds = {path: kind for path, (kind, _) in drawn.items()}

    def has_place(path: str) -> bool:
        """True if nothing above it in the layer is other than a directory."""
        above = _above(path)
        return not any(kinds.get(folder) in ("file", "link", "hidden") for folder in above)

    entries = {path: entry for path, entry in drawn.items() if has_place(path)}
    return dict(draw(st.permutations(list(entries.items()))))


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _archive(entries: Entries) -> bytes:
    members: list[Member] = []
    for path, (kind, number) in entries.items():
        folder, _, name = path.rpartition("/")
        if kind.startswith("hidden"):
            members.append(member(f"{folder}/.wh.{name}".lstrip("/")))
        if kind == "file":
            members.append(member(path, b"x" * number, mode=0o644))
        elif kind == "link":
            members.append(member(path, type=tarfile.SYMTYPE, linkname="l" * (number + 1)))
        elif kind == "opaque":
            members.append(member(f"{path}/.wh..wh..opq"))
        if kind.endswith("directory"):
            members.append(member(path, type=tarfile.DIRTYPE, mode=_mode(number)))
    return layer(members)


def _mode(number: int) -> int:
    return [0o755, 0o700, 0o1777, 0o511][number]


def _applied(stack: list[Entries]) -> set[str]:
    """Lines as of `LISTING`, of archives that are applied one after the other."""
    tree: dict[str, str] = {}

    def remove(path: str, *, itself: bool = True) -> None:
        for below in [one for one in tree if one.startswith(f"{path}/")]:
            del tree[below]
        if itself:
            tree.pop(path, None)

    def make_folder(path: str, mode: int | None) -> None:
        is_new = not tree.get(path, "").startswith("d")
        if is_new:
            remove(path)
        if is_new or mode is not None:
            tree[path] = f"d {mode or 0o755:o}"

    for entries in stack:
        # Whiteouts hide what is in the layers below, wherever they stand in the archive.
        for path, (kind, _) in entries.items():
            if kind.startswith("hidden") or kind == "opaque":
                remove(path, itself=kind != "opaque")
        for path in sorted(entries):
            kind, number = entries[path]
            for folder in _above(path):
                make_folder(folder, None)
            if kind == "file":
                remove(path)
                tree[path] = f"f {number}"
            elif kind == "link":
                remove(path)
                tree[path] = f"l {number + 1}"
            elif kind == "opaque":
                make_folder(path, None)
            elif kind.endswith("directory"):
                make_folder(path, _mode(number))
    return {f"/{path} {facts}" for path, facts in tree.items()}


def _shown(text: str) -> set[str]:
    lines = set()
    for line in text.splitlines():
        path, kind, mode, size = line.split()
        lines.add(f"{path} {kind} {mode if kind == 'd' else size}")
    return lines


@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    kinds=st.lists(layers(), min_size=1, max_size=3),
    order=st.lists(st.integers(0, 2), min_size=1, max_size=5),
)
def test_a_stack_shows_what_its_archives_say(
    engine: pc.Engine, tmp_path: Path, kinds: list[Entries], order: list[int]
) -> None:
    """Some layers come more than once."""
    stack = [kinds[number % len(kinds)] for number in order]
    layout = Layout(tmp_path / os.urandom(8).hex())
    archives = [programs(), *map(_archive, stack)]
    image = layout.image(archives, {"Env": ["PATH=/bin"]}, compress=bytes)
    assert _shown(output(engine, image, LISTING)) == _applied(stack)


@pytest.mark.parametrize("base", ["base:1", "host:"])
@pytest.mark.long
def test_what_is_built_of_equal_steps_can_be_used(
    engine: pc.Engine, tmp_path: Path, base: str
) -> None:
    """As a stage, by a RUN, as the base of another build, in a snapshot, and in an archive."""
    if base != "host:":
        layout = Layout(tmp_path / "layout")
        layout.image([programs()], {"Env": ["PATH=/bin"]})
        engine.images.load(layout.path, name=base)
    name = f"twice-{base.rstrip(':1')}:1"
    copies = "COPY x /a/\nCOPY y /a/y\nCOPY x /a/\n"
    (tmp_path / "x").write_text("x\n")
    (tmp_path / "y").write_text("y\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base} AS twice\n{copies}RUN find /a > /found\n"
        f"FROM twice\n{copies}COPY --from=twice /found /a/\n"
    )
    image = engine.build(tmp_path, tags=[name])
    paths = [layer.path for layer in image.layers]
    assert len(set(paths)) < len(paths)
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nCOPY x /a/\nRUN find /a > /found\n")
    above = engine.build(tmp_path)
    with engine.run(name, ["/bin/sh", "-c", "echo new > /a/new"], wait_ready=False) as container:
        container.wait(60)
        snapshots = [container.snapshot(), container.snapshot(f"snapshot-of-{name}")]
    listing = {"/a", "/a/found", "/a/x", "/a/y"}
    assert set(output(engine, above, "find /a").split()) == listing
    for snapshot in snapshots:
        assert set(output(engine, snapshot, "find /a").split()) == {*listing, "/a/new"}
    if base == "host:":
        return
    engine.images.save([name], tmp_path / "saved.tar")
    with pc.Engine(home=tmp_path / "other") as other:
        other.images.load(tmp_path / "saved.tar")
        assert set(output(other, name, "find /a").split()) == listing
