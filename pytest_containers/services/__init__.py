"""Servers for tests: image, readiness, connection details and seeds of each.

``Postgres.fixture()`` makes a fixture; `Service.start` starts a service without pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_containers.services.beanstalkd import Beanstalkd as Beanstalkd
    from pytest_containers.services.bind import Bind9 as Bind9
    from pytest_containers.services.chromium import Chromium as Chromium
    from pytest_containers.services.etcd import Etcd as Etcd
    from pytest_containers.services.haproxy import HAProxy as HAProxy
    from pytest_containers.services.influxdb import InfluxDB as InfluxDB
    from pytest_containers.services.mariadb import MariaDB as MariaDB
    from pytest_containers.services.mariadb import MySQL as MySQL
    from pytest_containers.services.memcached import Memcached as Memcached
    from pytest_containers.services.mosquitto import Mosquitto as Mosquitto
    from pytest_containers.services.moto import Moto as Moto
    from pytest_containers.services.nats import Nats as Nats
    from pytest_containers.services.nginx import Nginx as Nginx
    from pytest_containers.services.openldap import OpenLDAP as OpenLDAP
    from pytest_containers.services.openssh import OpenSSH as OpenSSH
    from pytest_containers.services.pgbouncer import PgBouncer as PgBouncer
    from pytest_containers.services.postgres import Postgres as Postgres
    from pytest_containers.services.python_service import PythonService as PythonService
    from pytest_containers.services.rabbitmq import RabbitMQ as RabbitMQ
    from pytest_containers.services.redis import Redis as Redis
    from pytest_containers.services.redis import Valkey as Valkey
    from pytest_containers.services.registry import DockerRegistry as DockerRegistry
    from pytest_containers.services.service import Service as Service
    from pytest_containers.services.smtp import Smtp as Smtp
    from pytest_containers.services.sql import SqlService as SqlService
    from pytest_containers.services.squid import Squid as Squid
    from pytest_containers.services.zookeeper import ZooKeeper as ZooKeeper

_MODULES = {
    "Beanstalkd": "beanstalkd", "Bind9": "bind", "Chromium": "chromium",
    "DockerRegistry": "registry", "Etcd": "etcd", "HAProxy": "haproxy", "InfluxDB": "influxdb",
    "MariaDB": "mariadb", "Memcached": "memcached", "Mosquitto": "mosquitto", "Moto": "moto",
    "MySQL": "mariadb", "Nats": "nats", "Nginx": "nginx", "OpenLDAP": "openldap",
    "OpenSSH": "openssh", "PgBouncer": "pgbouncer", "Postgres": "postgres",
    "RabbitMQ": "rabbitmq", "Redis": "redis", "Smtp": "smtp", "Squid": "squid", "Valkey": "redis",
    "ZooKeeper": "zookeeper",
}  # fmt: skip
_BASES = {"PythonService": "python_service", "Service": "service", "SqlService": "sql"}
__all__ = [
    "Beanstalkd", "Bind9", "Chromium", "DockerRegistry", "Etcd", "HAProxy", "InfluxDB", "MariaDB",
    "Memcached", "Mosquitto", "Moto", "MySQL", "Nats", "Nginx", "OpenLDAP", "OpenSSH",
    "PgBouncer", "Postgres", "RabbitMQ", "Redis", "Smtp", "Squid", "Valkey", "ZooKeeper",
]  # fmt: skip


def __getattr__(name: str) -> object:
    from importlib import import_module

    module = _MODULES.get(name) or _BASES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
