"""How users write it, as type checkers see it; checked, and never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_type

import pytest_containers as pc

redis = pc.container_fixture(
    "redis:7", ports=[6379], ready=pc.wait.log("Ready to accept connections")
)


@pc.container_fixture(scope="module")
def api(redis: pc.Container) -> pc.ContainerSpec:
    return pc.ContainerSpec("host:", ["api", redis.ip], ports=[8000], ready=pc.wait.http("/health"))


@pc.container_fixture
def worker(api: pc.Container) -> Iterator[pc.ContainerSpec]:
    yield pc.ContainerSpec("host:", ["worker"], mounts=[pc.Bind("/srv", "/srv", read_only=True)])


def load(db: pc.services.Postgres) -> None:
    assert_type(db.sql("select 1"), list[list[str]])


db = pc.services.Postgres.fixture(
    seed=[load, "schema.sql"], endpoint="DATABASE_URL", scope="module"
)
tls_db = pc.services.Postgres.fixture(tls=True, extensions=["citext"])
mqtt = pc.services.Mosquitto.fixture(user="me", password="secret", users={"you": "s"})
# Checkers find a typo in options: without these errors, `ignore` would be reported as unused.
if TYPE_CHECKING:
    pc.services.Postgres.fixture(sed=load)  # type: ignore[call-arg]  # "seed"
    pc.services.Redis.fixture(pasword="x")  # type: ignore[call-arg]  # "password"
    pc.services.Smtp.fixture(refused=["gone@example.org"], user="me")
    pc.services.HAProxy.fixture(mode="udp")  # type: ignore[arg-type]  # http or tcp
    pc.services.MariaDB.fixture(scope="test")  # type: ignore[arg-type]  # no scope of pytest
address = pc.endpoint("api", 8000)
assert_type(address.port, int)


def check_services(db: pc.services.Postgres, redis: pc.services.Redis) -> None:
    assert_type(db.url("psycopg"), str)
    assert_type((db.host, db.port), tuple[str, int])
    assert_type(db.container, pc.Container)
    assert_type(db.clone(), pc.services.Postgres)
    assert_type(db.sslrootcert, str)
    assert_type(redis.command("GET", "key"), str)
    assert_type(db.snapshot(), pc.Image)
    assert_type(db.container.clone(), pc.Container)


def check(containers: pc.Containers, redis: pc.Container) -> None:
    container = containers.run("host:", ["true"])
    assert_type(container, pc.Container)
    assert_type(container.wait(timeout_s=5), int)
    assert_type(container.address(8000), tuple[str, int])
    assert_type(container.logs().stdout, str)
    assert_type(container.exec(["ls"], text=True).returncode, int)
    with pc.Engine() as engine, engine.run("host:", ["/bin/true"]) as other:
        started: pc.Container = other
        assert_type(started.exit_code, int | None)
