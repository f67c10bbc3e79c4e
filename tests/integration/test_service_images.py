"""Services from images that are built here: packages alone, and shaped like the official ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.model.build import StreamBuildDisplay
from pytest_containers.services import Service

from .test_more_services import CASES, fetch
from .test_service_words import TLS
from .test_services import IS_THERE

# Packages are fetched over the network.
pytestmark = [
    pytest.mark.slow, pytest.mark.long, pytest.mark.needs("mmdebstrap", "id range"), pytest.mark.timeout(400),
]  # fmt: skip
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
    display = StreamBuildDisplay(sys.stderr)

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
    # Other tests may have left states of other kinds in the store, which have no title.
    titles = [state.facts.get("title") for state in engine.images.library.states.all()]
    assert "seed a.sql" in titles


@pytest.mark.parametrize("shape", ["packages", "official"])
@pytest.mark.parametrize("name", ["InfluxDB", "DockerRegistry", "ZooKeeper"])
def test_more_services_from_images(
    engine: pc.Engine, image_of, tmp_path: Path, name: str, shape: str
) -> None:
    fill, has, options = CASES[name]
    kind: type[Service] = getattr(pc.services, name)
    for seed in (fill, None):
        described = kind(image=image_of(name, shape), **options)
        service = described.start(engine, seed=seed, project=tmp_path)
        try:
            assert has(service) == (seed is not None)
        finally:
            service.container.remove()


@pytest.mark.parametrize("shape", ["packages", "official"])
def test_haproxy_from_images(engine: pc.Engine, image_of, tmp_path: Path, shape: str) -> None:
    balancer = pc.services.HAProxy(image=image_of("HAProxy", shape)).start(engine, project=tmp_path)
    try:
        assert fetch(balancer.url()) == b"haproxy"
    finally:
        balancer.container.remove()


@pytest.mark.parametrize("name", ["Postgres", "MariaDB"])
def test_databases_of_images_are_cloned_for_each_test(
    engine: pc.Engine, image_of, tmp_path: Path, name: str
) -> None:
    """What ``isolation="database"`` does."""
    (tmp_path / "a.sql").write_text("create table t (a int); insert into t values (1);")
    described = getattr(pc.services, name)(image=image_of(name, "official"))
    server = described.start(engine, seed="a.sql", project=tmp_path)
    try:
        for clone in ("first", "second"):
            server.clone_database(clone, server.database)
            db = server.of_database(clone)
            assert db.sql("select a from t") == [["1"]]
            db.sql("delete from t")
            server.drop_database(clone)
    finally:
        server.container.remove()


def test_variables_and_tls_of_images(
    engine: pc.Engine, image_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_home: Path
) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(store_home))
    kind = pc.services.Postgres
    described = kind(
        image=image_of("Postgres", "official"),
        env={"POSTGRES_INITDB_ARGS": "--data-checksums"},
        extensions=["plpgsql"],
        tls=True,
    )
    db = described.start(engine, project=tmp_path)
    try:
        TLS["Postgres"](db)
        assert db.sql("show data_checksums") == [["on"]]
        assert db.sql("show wal_segment_size") == [["1MB"]]
        psql = db.exec(["psql", "-tAc", "select current_database()"], text=True)
        assert psql.stdout == "containers\n", psql.stderr
    finally:
        db.container.remove()
