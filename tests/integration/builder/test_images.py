"""What is built is an image as any other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.builds import Build, Lines
from helpers.registry import Proxy

import pytest_containers as pc


def test_a_built_image_is_an_image_as_any_other(
    build: Build, builder: pc.Engine, proxy: Proxy, tmp_path: Path, home: Path
) -> None:
    name = f"{proxy.address}/built:1"
    build("FROM base:1\nRUN echo x > /x\nCMD cat /x\n", tags=(name, "also:1"))
    pushed = builder.images.push(name)
    builder.images.save(["also:1"], tmp_path / "saved.tar")
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        assert other.images.pull(name).digest == pushed
        with other.run(name, wait_ready=False) as container:
            container.wait(60)
            assert container.logs().stdout == "x\n"
        (loaded,) = other.images.load(tmp_path / "saved.tar")
        assert other.images.inspect(loaded)["id"] == builder.images.inspect("also:1")["id"]


def test_pruning(build: Build, builder: pc.Engine) -> None:
    number = os.urandom(4).hex()
    text = f"FROM base:1\nRUN --mount=type=cache,target=/c,id={number} echo {number} > /c/x > /x\n"
    build(text, tags=("pruned:1",))
    kept = builder.images.prune()
    assert kept.steps == 0
    shown = Lines()
    build(text, display=shown)
    assert shown.done() == []
    assert builder.images.prune(unused_for_s=3600).steps == 0


def test_from_the_host(build: Build, builder: pc.Engine) -> None:
    text = 'FROM host:\nRUN echo x > /var/x\nENV made=1\nRUN cat /var/x > /var/y\nCMD ["cat", "/var/y"]\n'
    image = build(text, tags=("of-host:1",))
    for one in (image, builder.image("of-host:1")):
        with builder.run(one, wait_ready=False) as container:
            container.wait(60)
            assert container.logs().stdout == "x\n"
            assert container.image.config.env["made"] == "1"
    with pytest.raises(pc.ImageError, match="this machine's own programs"):
        builder.images.push("of-host:1", "127.0.0.1:1/x:1")


def test_options_are_checked(builder: pc.Engine, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM base:1\n")
    with pytest.raises(pc.BuildError, match="this machine builds linux/"):
        builder.build(context, options=pc.BuildOptions(platform="linux/s390x"))
    with pytest.raises(pc.ImageError):
        builder.build(context, tags=("Not A Name",))
