"""Testcontainers in a process of its own, where the daemon's networks are reached.

Reads the name of a service from each line of standard input and answers with milliseconds: from
asking for it to an answer, and until it is gone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bare import SERVERS, until_answered


def containers() -> dict[str, Callable[[], Any]]:
    from testcontainers.memcached import MemcachedContainer
    from testcontainers.mqtt import MosquittoContainer
    from testcontainers.mysql import MySqlContainer
    from testcontainers.nats import NatsContainer
    from testcontainers.postgres import PostgresContainer
    from testcontainers.rabbitmq import RabbitMqContainer
    from testcontainers.redis import RedisContainer

    return {
        "Postgres": lambda: PostgresContainer("bench/postgres:1", driver=None),
        "Redis": lambda: RedisContainer("bench/redis:1"),
        "Memcached": lambda: MemcachedContainer("bench/memcached:1"),
        "Nats": lambda: NatsContainer("bench/nats:1"),
        "Mosquitto": lambda: MosquittoContainer("bench/mosquitto:1"),
        "MariaDB": lambda: MySqlContainer("bench/mariadb:1"),
        "RabbitMQ": lambda: RabbitMqContainer("bench/rabbitmq:1"),
    }


PORTS = {
    "Postgres": 5432, "Redis": 6379, "Memcached": 11211, "Nats": 4222, "Mosquitto": 1883,
    "MariaDB": 3306, "RabbitMQ": 5672,
}  # fmt: skip


def measure(name: str) -> float:
    """One start to one end."""
    bare = SERVERS[name]
    began = time.perf_counter()
    with containers()[name]() as container:
        if name == "Postgres":
            import psycopg

            with psycopg.connect(container.get_connection_url(driver=None)) as connection:
                connection.execute("select 1").fetchone()
        else:
            port = int(container.get_exposed_port(PORTS[name]))
            until_answered(port, bare.request, bare.answer, container.get_container_host_ip())
    return (time.perf_counter() - began) * 1000


for line in sys.stdin:
    try:
        answer = str(measure(line.strip()))
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        answer = f"{type(error).__name__}: {error}".replace("\n", " ")
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()
