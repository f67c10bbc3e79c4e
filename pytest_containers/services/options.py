"""The options of services for type checkers, which find a typo in ``Postgres.fixture(sed=…)``.

Nothing imports this module at run time; `checks.check_names` checks the names then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from pytest_containers.model.image import Image
from pytest_containers.model.readiness import Wait
from pytest_containers.model.spec import Mount, Port, Rate
from pytest_containers.services.base import Isolation
from pytest_containers.services.endpoints import Endpoint

_Path = str | os.PathLike[str]
_Scope = Literal["function", "class", "module", "package", "session"]


class ContainerOptions(TypedDict, total=False):
    """The fields of `ContainerSpec` for services, except `user`, which differs between them."""

    entrypoint: Sequence[str] | str | None
    ports: Sequence[int | str | Port]
    ready: Wait | None
    ready_timeout_s: float | None
    groups: Sequence[str | int]
    workdir: str | None
    hostname: str | None
    aliases: Sequence[str]
    mounts: Sequence[Mount | str]
    host_ports: Sequence[int]
    network: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    privileged: bool
    no_new_privileges: bool
    security_opt: Sequence[str]
    read_only: bool
    ulimits: Mapping[str, int | tuple[int, int]]
    mem_limit: int | str | None
    memswap_limit: int | str | None
    cpus: float | None
    cpu_shares: int | None
    cpuset: str | None
    pids_limit: int | None
    blkio_weight: int | None
    device_read_bps: Sequence[Rate]
    device_write_bps: Sequence[Rate]
    device_read_iops: Sequence[Rate]
    device_write_iops: Sequence[Rate]
    oom_score_adj: int | None
    init: bool
    tty: bool
    stop_signal: str | int | None
    shm_size: int | str
    scratch: Literal["auto", "tmpfs", "disk"]
    scratch_size_bytes: int | None
    log_limit_bytes: int


class ServerOptions(TypedDict, total=False):
    """The options of every service, besides those of its container."""

    image: str | Image | None
    env: Mapping[str, str] | None
    tls: bool
    durable: bool
    arguments: Sequence[str]


class FixtureOptions(TypedDict, total=False):
    """The options of `Service.fixture` itself."""

    seed: Any
    inputs: _Path | Sequence[_Path]
    seed_timeout_s: float | None
    isolation: Isolation
    endpoint: str | Mapping[str, str] | Endpoint | None
    scope: _Scope | Callable[..., _Scope]
    autouse: bool
    name: str | None
    params: Sequence[Any] | None
    ids: Any


class CommonOptions(FixtureOptions, ServerOptions, ContainerOptions, total=False):
    """The common options of all services."""


class ServiceFixture(CommonOptions, total=False):
    """The options of services without options of their own."""

    user: str | int | None


class SqlFixture(CommonOptions, total=False):
    """The options of all SQL services."""

    user: str
    password: str
    database: str


class PostgresFixture(SqlFixture, total=False):
    """The options of `Postgres`."""

    extensions: Sequence[str]


class MariaDBFixture(SqlFixture, total=False):
    """The options of `MariaDB` and `MySQL`."""

    root_password: str


class RedisFixture(CommonOptions, total=False):
    """The options of `Redis` and `Valkey`."""

    user: str | int | None
    password: str
    database: int


class NatsFixture(CommonOptions, total=False):
    """The options of `Nats`."""

    jetstream: bool
    user: str
    password: str


class MosquittoFixture(CommonOptions, total=False):
    """The options of `Mosquitto`."""

    user: str
    password: str
    users: Mapping[str, str] | None


class NginxFixture(CommonOptions, total=False):
    """The options of `Nginx`."""

    user: str | int | None
    root: _Path | None
    config: _Path | None


class RabbitMQFixture(CommonOptions, total=False):
    """The options of `RabbitMQ`."""

    user: str
    password: str
    vhost: str


class SmtpFixture(CommonOptions, total=False):
    """The options of `Smtp`."""

    user: str
    password: str
    refused: Sequence[str]


class OpenSSHFixture(CommonOptions, total=False):
    """The options of `OpenSSH`."""

    user: str
    password: str
    sftp_only: bool


class OpenLDAPFixture(CommonOptions, total=False):
    """The options of `OpenLDAP`."""

    base: str
    password: str


class MotoFixture(CommonOptions, total=False):
    """The options of `Moto`."""

    user: str | int | None
    buckets: Sequence[str]
    region: str


class InfluxDBFixture(SqlFixture, total=False):
    """The options of `InfluxDB`."""


class HAProxyFixture(CommonOptions, total=False):
    """The options of `HAProxy`."""

    user: str | int | None
    backends: Sequence[str]
    mode: Literal["http", "tcp"]
    config: _Path | None


class PgBouncerFixture(SqlFixture, total=False):
    """The options of `PgBouncer`."""

    server: str
    pool_mode: Literal["session", "transaction", "statement"]


class BindFixture(CommonOptions, total=False):
    """The options of `Bind9`."""

    user: str | int | None
    zones: Mapping[str, Sequence[str] | _Path] | None


class SquidFixture(CommonOptions, total=False):
    """The options of `Squid`."""

    user: str
    password: str
