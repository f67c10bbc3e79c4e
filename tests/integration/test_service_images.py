"""Services from images: a Debian with its packages, and images shaped like the official ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.services import Service

from .test_services import IS_THERE

pytestmark = [pytest.mark.slow, pytest.mark.needs("mmdebstrap", "id range")]
PACKAGES = (
    "postgresql,mariadb-server,redis-server,rabbitmq-server,nats-server,mosquitto,memcached,"
    "etcd-server,nginx-light"
)
ENTRYPOINTS = Path(__file__).parents[1] / "images"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POSTGRES = "/usr/lib/postgresql/15/bin"
OFFICIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "Postgres": (
        "postgres.sh",
        {"Cmd": ["postgres"], "StopSignal": "SIGINT", "ExposedPorts": {"5432/tcp": {}},
         "Env": [f"PATH={POSTGRES}:{PATH}", "PGDATA=/var/lib/postgresql/data"]},
    ),
    "MariaDB": ("mariadb.sh", {"Cmd": ["mariadbd"], "Env": [f"PATH={PATH}"]}),
    "RabbitMQ": (
        "plain.sh",
        {"Cmd": ["rabbitmq-server"], "Env": [f"PATH=/usr/lib/rabbitmq/bin:{PATH}"]},
    ),
    **{
        name: ("plain.sh", {"Cmd": [program], "Env": [f"PATH={PATH}"]})
        for name, program in (
            ("Redis", "redis-server"), ("Memcached", "memcached"), ("Nats", "nats-server"),
            ("Mosquitto", "mosquitto"), ("Etcd", "etcd"), ("Nginx", "nginx"),
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def services_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian with all the servers."""
    kept = os.environ.get("PYTEST_CONTAINERS_TEST_SERVICES")
    if kept:
        return Path(kept)
    tar = tmp_path_factory.mktemp("services") / "services.tar"
    mode = "root" if os.geteuid() == 0 else "unshare"
    subprocess.run(
        [
            # What it mounts as root is not to be seen by tests beside this one.
            *(["unshare", "--mount"] if mode == "root" else []),
            "mmdebstrap", "--quiet", f"--mode={mode}", "--variant=minbase",
            f"--include={PACKAGES}", "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", str(tar),
        ],
        check=True, stdin=subprocess.DEVNULL, timeout=400,
    )  # fmt: skip
    return tar


@pytest.fixture(scope="module")
def image_of(services_tar: Path, engine: pc.Engine) -> Iterator[Callable[[str, str], str]]:
    """Makes images of both shapes; returns their names."""
    made: set[str] = set()

    def image_of(name: str, shape: str) -> str:
        if shape == "packages":
            return f"rootfs:{services_tar}"
        script, config = OFFICIAL[name]
        reference = f"local/{name.lower()}:1"
        if reference not in made:
            made.add(reference)
            with engine.run(f"rootfs:{services_tar}", ["sleep", "1000"]) as container:
                container.write_bytes(
                    "/usr/local/bin/docker-entrypoint.sh", (ENTRYPOINTS / script).read_bytes(),
                    mode=0o755,
                )  # fmt: skip
                # What a package has initialised is not in the official images.
                container.exec(["rm", "-rf", "/var/lib/mysql", "/etc/mysql"], check=True)
                entrypoint = {"Entrypoint": ["docker-entrypoint.sh"]}
                container.commit(reference, changes={**config, **entrypoint})
        return reference

    yield image_of
    for reference in made:
        engine.images.remove(reference)


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
