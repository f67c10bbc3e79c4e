"""Services from images that are built here: packages alone, and shaped like the official ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.build.progress import Plain
from pytest_containers.services import Service

from .test_services import IS_THERE

pytestmark = [pytest.mark.slow, pytest.mark.needs("mmdebstrap", "id range")]
IMAGES = Path(__file__).parents[1] / "images"


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, engine: pc.Engine) -> None:
    """A minimal Debian, which the Dockerfile of the services begins from."""
    tar = tmp_path_factory.mktemp("debian") / "debian.tar"
    mode = "root" if os.geteuid() == 0 else "unshare"
    subprocess.run(
        [
            # What it mounts as root is not to be seen by tests beside this one.
            *(["unshare", "--mount"] if mode == "root" else []),
            "mmdebstrap", "--quiet", f"--mode={mode}", "--variant=minbase",
            "--aptopt=Acquire::Retries 5", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
            "bookworm", str(tar),
        ],
        check=True, stdin=subprocess.DEVNULL, timeout=400,
    )  # fmt: skip
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    engine.images.import_rootfs(tar, "debian:test", config)


@pytest.fixture(scope="module")
def image_of(debian: None, engine: pc.Engine) -> Callable[[str, str], str]:
    """Builds images of both shapes; returns their names."""
    display = Plain(sys.stderr)

    def image_of(name: str, shape: str) -> str:
        target = name.lower() if shape == "official" else f"{name.lower()}-packages"
        reference = f"local/{target}:1"
        engine.build(
            IMAGES, tags=[reference], options=pc.BuildOptions(target=target), display=display
        )
        return reference

    return image_of


@pytest.mark.parametrize("shape", ["packages", "official"])
@pytest.mark.parametrize("name", list(IS_THERE))
def test_it_works_from_an_image(
    engine: pc.Engine, image_of, tmp_path: Path, name: str, shape: str
) -> None:
    kind: type[Service] = getattr(pc.services, name)
    service = kind(image=image_of(name, shape)).start(engine, project=tmp_path)
    try:
        IS_THERE[name](service)
        assert any(letter.isdigit() for letter in service.version)
    finally:
        service.container.remove()


@pytest.mark.parametrize("name", ["Postgres", "MariaDB"])
def test_seeds_of_images(engine: pc.Engine, image_of, tmp_path: Path, name: str) -> None:
    """The second start finds the state, and what runs is the server and no entrypoint."""
    (tmp_path / "a.sql").write_text("create table t (a int); insert into t values (1);")
    kind = getattr(pc.services, name)
    for _ in range(2):
        db = kind(image=image_of(name, "official")).start(engine, seed="a.sql", project=tmp_path)
        assert db.sql("select a from t") == [["1"]]
        db.sql("delete from t")
        assert "entrypoint" not in str(db.container.command)
        db.container.remove()
    states = [one.facts["title"] for one in engine.images.states.all()]
    assert states.count("seed a.sql") >= 1
    assert json.dumps(states)
