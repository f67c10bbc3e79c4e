"""Servers that tests need, each with its image, readiness, connection facts and a seed.

``Postgres.fixture()`` is a fixture; `Postgres` itself works without pytest (`Service.start`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.services.base import Service as Service
    from pytest_containers.services.etcd import Etcd as Etcd
    from pytest_containers.services.mariadb import MariaDB as MariaDB
    from pytest_containers.services.mariadb import MySQL as MySQL
    from pytest_containers.services.memcached import Memcached as Memcached
    from pytest_containers.services.mosquitto import Mosquitto as Mosquitto
    from pytest_containers.services.nats import Nats as Nats
    from pytest_containers.services.nginx import Nginx as Nginx
    from pytest_containers.services.postgres import Postgres as Postgres
    from pytest_containers.services.rabbitmq import RabbitMQ as RabbitMQ
    from pytest_containers.services.redis import Redis as Redis
    from pytest_containers.services.redis import Valkey as Valkey
    from pytest_containers.services.sql import SqlService as SqlService

_WHERE = {
    "Etcd": "etcd", "MariaDB": "mariadb", "Memcached": "memcached", "Mosquitto": "mosquitto",
    "MySQL": "mariadb", "Nats": "nats", "Nginx": "nginx", "Postgres": "postgres",
    "RabbitMQ": "rabbitmq", "Redis": "redis", "Valkey": "redis",
}  # fmt: skip
_BASES = {"Service": "base", "SqlService": "sql"}
__all__ = [
    "Etcd", "MariaDB", "Memcached", "Mosquitto", "MySQL", "Nats", "Nginx", "Postgres", "RabbitMQ",
    "Redis", "Valkey",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    where = _WHERE.get(name) or _BASES.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{where}"), name)
    globals()[name] = value
    return value
