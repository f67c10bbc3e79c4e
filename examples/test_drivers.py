"""Database drivers of your choice: the services neither need nor include one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pytest_containers as pc

postgres = pc.services.Postgres.fixture(image="host:")
mariadb = pc.services.MariaDB.fixture(image="host:")
redis_server = pc.services.Redis.fixture(image="host:")
rabbitmq = pc.services.RabbitMQ.fixture(image="host:")


def test_psycopg(postgres: Any) -> None:
    psycopg = pytest.importorskip("psycopg", exc_type=ImportError)
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_psycopg_async(postgres: Any) -> None:
    psycopg = pytest.importorskip("psycopg", exc_type=ImportError)

    async def select() -> Any:
        async with await psycopg.AsyncConnection.connect(postgres.dsn) as connection:
            return await (await connection.execute("select 1")).fetchone()

    assert asyncio.run(select()) == (1,)


def test_asyncpg(postgres: Any) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def select() -> Any:
        connection = await asyncpg.connect(postgres.dsn)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()

    assert asyncio.run(select()) == 1


def test_sqlalchemy(postgres: Any) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(postgres.url("psycopg"))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()


def test_pymysql(mariadb: Any) -> None:
    pymysql = pytest.importorskip("pymysql")
    with pymysql.connect(
        host=mariadb.host, port=mariadb.port, user=mariadb.user, password=mariadb.password,
        database=mariadb.database,
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        cursor.execute("select 1")
        assert cursor.fetchone() == (1,)


def test_redis(redis_server: Any) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(redis_server.url()) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"


def test_pika(rabbitmq: Any) -> None:
    pika = pytest.importorskip("pika")
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url()))
    channel = connection.channel()
    channel.queue_declare("queue")
    channel.basic_publish("", "queue", b"message")
    assert channel.basic_get("queue", auto_ack=True)[2] == b"message"
    connection.close()
