"""A store with a base image, and a context to build on it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from helpers.builds import PATH, Build
from helpers.layouts import Layout, busybox, layer, member

import pytest_containers as pc
from pytest_containers.model.build import BuildDisplay


@pytest.fixture(scope="module")
def base_layer() -> bytes:
    programs = ("ls", "cat", "id", "mkdir", "touch", "stat", "ln", "sleep", "find", "env", "rm")
    return layer(
        [
            *busybox(*programs),
            *(member(name, type=b"5") for name in ("proc", "sys", "dev")),
            ("etc/passwd", {"mode": 0o644}, b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/bin/sh\n"),
            ("etc/group", {"mode": 0o644}, b"root:x:0:\napp:x:8:\nstaff:x:9:\n"),
        ]
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="module")
def builder(home: Path, base_layer: bytes) -> Any:
    layout = Layout(home / "layout")
    layout.image([base_layer], {"Env": [f"PATH={PATH}"], "Cmd": ["/bin/sh"]})
    with pc.Engine(home=home / "store") as engine:
        engine.images.load(home / "layout", name="base:1")
        yield engine


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return tmp_path / "context"


@pytest.fixture
def build(builder: pc.Engine, context: Path) -> Build:
    """Builds a Dockerfile in the test's context."""

    def build(
        text: str,
        *,
        tags: tuple[str, ...] = (),
        display: BuildDisplay | None = None,
        **options: Any,
    ) -> pc.Image:
        (context / "Dockerfile").write_text(textwrap.dedent(text))
        return builder.build(
            context, tags=tags, options=pc.BuildOptions(**options), display=display
        )

    return build


@pytest.fixture
def files(context: Path) -> Path:
    (context / "a.txt").write_text("a\n")
    (context / "b.txt").write_text("b\n")
    (context / "a.txt").chmod(0o640)
    (context / "dir" / "sub").mkdir(parents=True)
    (context / "dir" / "sub" / "c").write_text("c\n")
    (context / "dir" / "link").symlink_to("sub/c")
    (context / "dir").chmod(0o750)
    (context / "to-dir").symlink_to("dir")
    return context
