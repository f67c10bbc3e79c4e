"""Services take variables, mounts and scripts as the official images do, and serve TLS."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

import pytest_containers as pc
from pytest_containers.services import Service
from pytest_containers.services.certificates import authority_file, server_certificate
from pytest_containers.services.extensions import package_of

from .test_services import SERVICES, start  # noqa: F401 - a fixture

INIT = "/docker-entrypoint-initdb.d"


@pytest.fixture(autouse=True)
def _authority(monkeypatch: pytest.MonkeyPatch, store_home: Path) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(store_home))


def context_of(service: Service) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=service.sslrootcert)


def wrapped(service: Service, ask: bytes = b"", *, answer: int = 0) -> ssl.SSLSocket:
    """Connect, and begin TLS after a question and so many bytes of its answer, with all checks."""
    sock = socket.create_connection((service.host, service.port), timeout=60)
    if ask:
        sock.sendall(ask)
    if answer:
        sock.recv(answer)
    return context_of(service).wrap_socket(sock, server_hostname=service.host)


def says(sock: ssl.SSLSocket, request: bytes) -> bytes:
    with sock:
        sock.sendall(request)
        return sock.recv(4096)


MYSQL_TLS = b"\x20\x00\x00\x01" + (0x8A00).to_bytes(4, "little") + b"\0\0\0\1\x21" + b"\0" * 23
TLS: dict[str, Callable[[Service], object]] = {
    # Each is a protocol's first request and the start of its answer, over a verified connection.
    "Postgres": lambda it: wrapped(it, bytes.fromhex("0000000804d2162f"), answer=1).close(),
    "MariaDB": lambda it: mariadb_over_tls(it),
    "Redis": lambda it: says(wrapped(it), b"PING\r\n").index(b"+PONG"),
    "Memcached": lambda it: says(wrapped(it), b"version\r\n").index(b"VERSION"),
    "Nats": lambda it: says(wrapped(it, answer=4096), b"CONNECT {}\r\nPING\r\n").index(b"PONG"),
    "Mosquitto": lambda it: says(
        wrapped(it), b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
    ).index(b"\x20\x02\x00\x00"),
    "Etcd": lambda it: urlopen(f"{it.url()}/version", timeout=60, context=context_of(it)).close(),
    "Nginx": lambda it: urlopen(it.url(), timeout=60, context=context_of(it)).close(),
    "RabbitMQ": lambda it: says(wrapped(it), b"AMQP\x00\x00\x09\x01").index(b"\x01"),
}


SCHEMES = {
    "Postgres": "postgresql", "MariaDB": "mysql", "Redis": "rediss", "Memcached": "memcacheds",
    "Nats": "tls", "Mosquitto": "mqtts", "Etcd": "https", "Nginx": "https", "RabbitMQ": "amqps",
}  # fmt: skip


def mariadb_over_tls(mariadb: Service) -> None:
    with socket.create_connection((mariadb.host, mariadb.port), timeout=60) as sock:
        sock.recv(4096)  # the greeting
        sock.sendall(MYSQL_TLS)
        context_of(mariadb).wrap_socket(sock, server_hostname="localhost").close()


def rabbitmq_is_configured(rabbitmq: pc.services.RabbitMQ) -> None:
    settings = rabbitmq.ctl("environment")
    assert "{heartbeat,17}" in settings and "{channel_max,99}" in settings


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVICES)
def test_tls(start, tmp_path: Path, name: str) -> None:  # noqa: F811
    options: dict[str, object] = {}
    if name == "RabbitMQ":  # it starts slowly: this one shows more
        (tmp_path / "own").mkdir()
        (tmp_path / "own/rabbitmq.conf").write_text("heartbeat = 17\n")
        options["mounts"] = [f"{tmp_path}/own:/etc/rabbitmq:ro"]
        options["env"] = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit channel_max 99"}
    service = start(name, tls=True, **options)
    TLS[name](service)
    url = urlsplit(service.url())
    assert (url.scheme, url.hostname) == (SCHEMES[name], "127.0.0.1") and url.port == service.port
    assert "sslrootcert" not in service.internal_dsn
    if name == "RabbitMQ":
        rabbitmq_is_configured(service)


@pytest.mark.slow
@pytest.mark.needs("postgresql")
def test_variables_and_scripts_of_postgres(start, tmp_path: Path) -> None:  # noqa: F811
    scripts = tmp_path / "init"
    scripts.mkdir()
    (scripts / "10-schema.sql").write_text("create table t (a text, made uuid)")
    (scripts / "20-rows.sql.gz").write_bytes(
        gzip.compress(b"insert into t values ('gz', gen_random_uuid())")
    )
    (scripts / "30-more.sh").write_text(
        'psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<-SQL\n'
        "insert into t values ('$(id -un)', null)\nSQL\n"
    )
    (scripts / "README").write_text("is left alone")
    options = {
        "mounts": [f"{scripts}:{INIT}:ro"],
        "extensions": ["citext", "hstore", "pgcrypto", "pg_stat_statements"],
        "env": {
            "POSTGRES_USER": "me",
            "POSTGRES_INITDB_ARGS": "--data-checksums --locale='C'",
            "POSTGRES_HOST_AUTH_METHOD": "trust",
        },
    }
    first = start("Postgres", **options)
    rows = first.sql("select * from t order by a")
    assert [row[0] for row in rows] == ["gz", "postgres"]
    assert first.database == "me" and first.url().startswith("postgresql://me:containers@")
    settings = {row[0]: row[1] for row in first.sql("select name, setting from pg_settings")}
    assert settings["data_checksums"] == "on" and settings["lc_collate"] == "C"
    assert settings["wal_segment_size"] == str(1 << 20)  # ours, beside theirs
    hba = first.sql("select type, user_name, address, auth_method from pg_hba_file_rules")
    assert hba[-1] == ["host", "{all}", "all", "trust"]
    assert first.sql("select 'A'::citext = 'a', crypt('x', 'ab') is null") == [["t", "f"]]
    assert first.sql("select count(*) > 0 from pg_stat_statements") == [["t"]]
    who = first.exec(["psql", "-tAc", "select current_user, current_database()"], text=True)
    assert who.stdout == "me|me\n", who.stderr
    assert start("Postgres", **options).sql("select * from t order by a") == rows  # one state
    (scripts / "40-last.sql").write_text("insert into t values ('last')")
    changed = start("Postgres", **options).sql("select * from t order by a")
    assert [row[0] for row in changed] == ["gz", "last", "postgres"] and changed[0] != rows[0]


@pytest.mark.slow
@pytest.mark.needs("postgresql")
@pytest.mark.long
def test_mounted_configuration_and_keys_of_postgres(start, tmp_path: Path) -> None:  # noqa: F811
    made = server_certificate(["db"])
    (tmp_path / "server.crt").write_bytes(made.certificate)
    key = tmp_path / "server.key"
    key.write_bytes(made.key)
    key.chmod(0o600)
    (tmp_path / "hba").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
    config = "work_mem = '7MB'\nlogging_collector = on\nport = 6000\nunix_socket_directories = ''\n"
    (tmp_path / "conf").write_text(config)
    settings = (
        "config_file=/own/conf", "hba_file=/own/hba", "ssl=on",
        "ssl_cert_file=/own/server.crt", "ssl_key_file=/own/server.key",
    )  # fmt: skip
    db = start(
        "Postgres",
        mounts=[f"{tmp_path}:/own:ro"],
        arguments=[word for setting in settings for word in ("-c", setting)],
    )
    assert db.sql("show work_mem") == [["7MB"]]
    request = bytes.fromhex("0000000804d2162f")
    with socket.create_connection((db.host, db.port), timeout=60) as sock:
        sock.sendall(request)
        assert sock.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(authority_file()))
        context.wrap_socket(sock, server_hostname="db").close()
    psql = ["psql", f"host={db.container.ip} sslmode=disable", "-c", "select 1"]
    assert "no pg_hba.conf entry" in db.exec(psql, text=True).stderr
    owner = db.exec(["stat", "-c", "%U %a", "/own/server.key"], text=True).stdout
    assert owner == "postgres 600\n"


@pytest.mark.slow
@pytest.mark.needs("postgresql")
def test_another_container_reaches_the_socket_in_a_volume(
    start,  # noqa: F811
    engine: pc.Engine,
) -> None:
    volume = engine.create_volume()
    mounts = [pc.VolumeMount(volume, "/var/run/postgresql")]
    with engine.run("host:", ["chmod", "1777", "/var/run/postgresql"], mounts=mounts) as other:
        other.wait()
    db = start("Postgres", mounts=mounts)
    with engine.run("host:", ["sleep", "100"], mounts=mounts) as other:
        psql = [
            *db._program(other.image, "psql"),
            "-h",
            db.socket,
            "-U",
            db.user,
            "-tAc",
            "select 1",
        ]
        assert other.exec(psql, text=True).stdout == "1\n"
    db.container.remove()
    volume.remove()


@pytest.mark.slow
@pytest.mark.needs("mariadb", "id range")
def test_variables_and_scripts_of_mariadb(start, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "1.sql").write_text("create table t (a text); insert into t values (user())")
    (tmp_path / "2.sh").write_text(
        'mariadb --socket=/run/mysqld/mysqld.sock -uroot "$MARIADB_DATABASE" '
        "-e \"insert into t values ('sh')\"\n"
    )
    (tmp_path / "own.cnf").write_text("[mariadbd]\nmax_connections = 17\n")
    db = start(
        "MariaDB",
        env={"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1", "MYSQL_DATABASE": "shop"},
        mounts=[
            f"{tmp_path}/1.sql:{INIT}/1.sql:ro",
            f"{tmp_path}/2.sh:{INIT}/2.sh:ro",
            f"{tmp_path}/own.cnf:/etc/mysql/conf.d/own.cnf:ro",
        ],
    )
    assert db.sql("select * from t order by a") == [["root@localhost"], ["sh"]]
    assert db.sql("select @@max_connections") == [["17"]] and db.database == "shop"
    assert db.sql("select user, host from mysql.user where user = 'root' order by host") == [
        ["root", "%"],
        ["root", "localhost"],
    ]
    client = db.exec(["mariadb", "-N", "-e", "select current_user()"], text=True)
    assert client.stdout == "containers@%\n", client.stderr


@pytest.mark.slow
@pytest.mark.needs("postgresql", "mariadb", "id range")
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Postgres", {"arguments": ["-c", "nonsense=1"]}, 'parameter "nonsense"'),
        ("Postgres", {"env": {"POSTGRES_INITDB_ARGS": "--nonsense"}}, "option '--nonsense'"),
        ("Postgres", {"mounts": ["./bad.sql:/docker-entrypoint-initdb.d/bad.sql"]}, '"selct"'),
        ("MariaDB", {"arguments": ["--nonsense=1"]}, "unknown variable 'nonsense=1'"),
    ],
)
def test_reasons_of_servers_that_do_not_start(
    start,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict,
    reason: str,
) -> None:
    (tmp_path / "bad.sql").write_text("selct 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pc.ContainersError) as caught:
        start(name, **options)
    message = str(caught.value)
    assert reason in message and len(message) < 1500
    assert "fsync" not in message and "--datadir" not in message  # no command lines


@pytest.mark.slow
@pytest.mark.needs("postgresql")
def test_an_extension_that_is_missing(start) -> None:  # noqa: F811
    with pytest.raises(pc.UnsupportedError, match="apt install postgresql-[0-9]+-no-such") as info:
        start("Postgres", extensions=["no_such"])
    assert "extension 'no_such' of PostgreSQL" in str(info.value)


def test_packages_of_extensions() -> None:
    names = ("vector", "postgis", "hll", "plpython3u", "citext", "pg_cron", "set_user")
    assert [package_of(name, "15") for name in names] == [
        "postgresql-15-pgvector", "postgresql-15-postgis-3", "postgresql-15-hll",
        "postgresql-plpython3-15", "postgresql-15", "postgresql-15-cron", "postgresql-15-set-user",
    ]  # fmt: skip


@pytest.mark.needs("mosquitto")
def test_users_of_mosquitto(start) -> None:  # noqa: F811
    mosquitto = start("Mosquitto", user="me", password="secret", users={"you": "s3"})

    def connect(user: bytes, password: bytes) -> int:
        fields = b"".join(len(part).to_bytes(2, "big") + part for part in (b"x", user, password))
        body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + fields
        with socket.create_connection((mosquitto.host, mosquitto.port), timeout=60) as sock:
            sock.sendall(b"\x10" + bytes([len(body)]) + body)
            return sock.recv(4)[3]

    assert [connect(b"me", b"secret"), connect(b"you", b"s3"), connect(b"me", b"s3")] == [0, 0, 5]
    assert mosquitto.url().startswith("mqtt://me:secret@")


@pytest.mark.needs("redis")
def test_redis_reads_a_mounted_configuration(start, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "redis.conf").write_text("maxclients 77\n")
    redis = start(
        "Redis",
        password="pw",
        mounts=[f"{tmp_path}/redis.conf:/etc/redis.conf:ro"],
        arguments=["/etc/redis.conf", "--maxmemory-policy", "allkeys-lru"],
    )
    assert redis.exec(["redis-cli", "config", "get", "maxclients"], text=True).stdout.split() == [
        "maxclients",
        "77",
    ]
    assert "allkeys-lru" in redis.command("CONFIG", "GET", "maxmemory-policy")


@pytest.mark.needs("nginx")
def test_nginx_reads_conf_d_and_serves_a_directory(start, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "index.html").write_text("mine")
    (tmp_path / "own.conf").write_text("server { listen 80; root /srv/www; }")
    nginx = start(
        "Nginx", root=tmp_path, mounts=[f"{tmp_path}/own.conf:/etc/nginx/conf.d/own.conf:ro"]
    )
    with urlopen(nginx.url(), timeout=60) as answer:
        assert answer.read() == b"mine"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Postgres", {"env": {"POSTGRES_PASSWORD_FILE": "/x"}}, "env POSTGRES_PASSWORD_FILE has "),
        ("MySQL", {"env": {"MYSQL_ROOT_PASSWORD_FILE": "/x"}}, r"pass the value itself"),
        ("MariaDB", {"env": {"MARIADB_PASSWORD_HASH": "*"}}, "a hash lets nobody in"),
        ("Redis", {"env": {"REDIS_PASSWORD": "x"}}, "does not have it: pass password="),
        ("RabbitMQ", {"env": {"RABBITMQ_SSL_CERTFILE": "/x"}}, "pass tls=True"),
        ("Postgres", {"mounts": [pc.Tmpfs("/var/lib/postgresql/data")]}, "would hide the data"),
        ("MariaDB", {"mounts": ["./d:/var/lib/mysql/"]}, "would hide the data of the server"),
        ("Postgres", {"extensions": "citext"}, "must be a list of texts"),
        ("Mosquitto", {"users": {"a:b": "c"}}, "user 'a:b' cannot be written"),
    ],
)
def test_words_that_cannot_be_heeded(name: str, options: dict, message: str) -> None:
    with pytest.raises(pc.SpecError, match=message):
        getattr(pc.services, name)(**options)


@pytest.mark.needs("postgresql", "mariadb", "id range")
@pytest.mark.parametrize(
    ("name", "variable"),
    [("Postgres", "POSTGRES_INITDB_WALDIR"), ("MariaDB", "MARIADB_REPLICATION_USER")],
)
def test_words_of_entrypoints_only(start, name: str, variable: str) -> None:  # noqa: F811
    with pytest.raises(pc.SpecError, match=f"env {variable} means something to the entrypoint"):
        start(name, env={variable: "x"})


class Plain(Service):
    """A service without TLS."""

    reference = "host:"
    number = 7

    def serve(self, image: pc.Image) -> pc.ContainerSpec:
        return self.spec(["true"], pc.wait.port())


def test_tls_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(pc.SpecError, match="Plain has no tls=True; mount a certificate"):
        Plain(tls=True)
    with pytest.raises(pc.SpecError, match="Redis has no certificate: describe it with tls=True"):
        _ = pc.services.Redis().sslrootcert
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pc.UnsupportedError, match="needs the program openssl.*apt install openssl"):
        _ = pc.services.Redis(tls=True).sslrootcert


def test_the_key_of_the_authority_is_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTEST_CONTAINERS_HOME", str(tmp_path))
    path = authority_file()
    folder, earlier = path.parent, path.read_bytes()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in folder.iterdir()) == ["ca.crt", "ca.key", "lock"]
    assert authority_file().read_bytes() == earlier
    os.utime(path, (0, 0))
    assert authority_file().read_bytes() != earlier  # an old one is made anew
    folder.chmod(0o755)
    with pytest.raises(pc.ContainersError, match="which others may use too"):
        authority_file()
