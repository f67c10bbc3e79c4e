"""Every service on this machine's own packages: started, asked in its protocol, seeded."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

import pytest_containers as pc
from pytest_containers.services import Service, SqlService

pytestmark = pytest.mark.slow


def talk(service: Service, request: bytes) -> bytes:
    with socket.create_connection((service.host, service.port), timeout=60) as sock:
        sock.settimeout(5)
        if request:
            sock.sendall(request)
        return sock.recv(4096)


def redis_is_there(redis: pc.services.Redis) -> None:
    assert talk(redis, b"SET a 1\r\n") == b"+OK\r\n"
    assert redis.command("GET", "a") == "1"


def memcached_is_there(memcached: Service) -> None:
    assert talk(memcached, b"set a 0 0 1\r\nx\r\n") == b"STORED\r\n"


def nats_is_there(nats: Service) -> None:
    assert b'"jetstream":true' in talk(nats, b"")


def mosquitto_is_there(mosquitto: Service) -> None:
    assert talk(mosquitto, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")[:1] == b"\x20"


def etcd_is_there(etcd: Service) -> None:
    with urlopen(f"{etcd.url()}/version", timeout=60) as answer:
        assert b"etcdserver" in answer.read()


def nginx_is_there(nginx: Service) -> None:
    with urlopen(nginx.url(), timeout=60) as answer:
        assert b"nginx" in answer.read()


def sql_is_there(db: SqlService) -> None:
    db.sql("create table t (a int); insert into t values (1), (2)")
    assert db.sql("select a from t order by a") == [["1"], ["2"]]
    assert db.database == "containers" and db.dsn.endswith("/containers")


def rabbitmq_is_there(rabbitmq: pc.services.RabbitMQ) -> None:
    assert talk(rabbitmq, b"AMQP\x00\x00\x09\x01")[:1] == b"\x01"
    assert "containers" in rabbitmq.ctl("list_users")


IS_THERE: dict[str, Callable[..., None]] = {
    "Redis": redis_is_there, "Memcached": memcached_is_there, "Nats": nats_is_there,
    "Mosquitto": mosquitto_is_there, "Etcd": etcd_is_there, "Nginx": nginx_is_there,
    "Postgres": sql_is_there, "MariaDB": sql_is_there, "RabbitMQ": rabbitmq_is_there,
}  # fmt: skip
OWN_USER = ("Postgres", "RabbitMQ")
"""Servers that refuse to be root."""


DEAR = ("RabbitMQ",)
"""Their start takes two processors for seconds."""


def of_host(name: str, *, once: bool = False) -> object:
    """A parameter; `once` is for the test that CI has of the dear ones."""
    marks = [pytest.mark.needs(name.lower() if name != "Postgres" else "postgresql")]
    marks += [pytest.mark.needs("id range")] if name == "MariaDB" else []
    marks += [pytest.mark.long] if name in DEAR and not once else []
    return pytest.param(name, marks=marks)


SERVICES = [of_host(name) for name in IS_THERE]


@pytest.fixture
def start(engine: pc.Engine, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services on the host's packages, each in a network where its name is its own."""
    started: list[Service] = []
    networks: list[pc.Network] = []

    def start(name: str, *, seed: object = None, **options: object) -> Service:
        service = getattr(pc.services, name)(**{"image": "host:", **options})
        networks.append(engine.create_network())
        started.append(service.start(engine, seed=seed, project=tmp_path, network=networks[-1]))
        return started[-1]

    yield start
    for service in started:
        service.container.remove()
    for network in networks:
        network.remove()


@pytest.mark.parametrize("name", [of_host(name, once=True) for name in IS_THERE])
def test_it_answers_in_its_protocol_and_tells_its_facts(start, name: str) -> None:
    service = start(name)
    IS_THERE[name](service)
    url = urlsplit(service.url())
    assert (url.hostname, url.port) == (service.host, service.port)
    assert urlsplit(service.url("driver")).scheme == f"{url.scheme}+driver"
    assert urlsplit(service.internal_dsn).hostname == name.lower()
    assert any(letter.isdigit() for letter in service.version)
    assert service.container.status == "running"


@pytest.mark.parametrize("name", SERVICES)
def test_durable_is_possible_everywhere(start, name: str) -> None:
    IS_THERE[name](start(name, durable=True))


@pytest.mark.needs("postgresql")
@pytest.mark.long
def test_postgres_fast_and_durable(start) -> None:
    assert start("Postgres").sql("show fsync") == [["off"]]
    assert start("Postgres", durable=True).sql("show fsync") == [["on"]]
    assert start("Postgres", arguments=["-c", "max_connections=7"]).sql("show max_connections") == [
        ["7"]
    ]


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
def test_seeds_of_sql(start, tmp_path: Path, name: str) -> None:
    import gzip

    (tmp_path / "m").mkdir()
    (tmp_path / "m/1_schema.sql").write_text("create table t (a int, b varchar(20));\n")
    (tmp_path / "m/2_rows.sql.gz").write_bytes(gzip.compress(b"insert into t values (1, 'a b;c');"))
    (tmp_path / "more.sql").write_text("insert into t values (2, NULL); delete from t where a = 3;")
    db = start(name, seed=["m", "more.sql", lambda db: db.sql("insert into t values (4, 'x\ty')")])
    assert db.sql("select a, b from t order by a") == [["1", "a b;c"], ["2", ""], ["4", "x\ty"]]


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
def test_rows_of_sql_are_what_was_selected(start, name: str) -> None:
    db = start(name)
    assert db.sql("select 1; select 2") == [["1"], ["2"]]
    assert db.sql("select null") == db.sql("select ''") == [[""]]
    assert db.sql("select 'a' union all select '' union all select 'b'") == [["a"], [""], ["b"]]
    assert db.sql("select null, ''; select 1 where 1 = 0; select '', 'x'") == [["", ""], ["", "x"]]
    odd = "a\nb\x1e\x1f\x0b\u2028\tc"
    assert db.sql(f"select '{odd}', '{odd}'; select '\n'") == [[odd, odd], ["\n"]]
    assert db.sql("create table t (a int)") == []


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
def test_sql_that_fails(start, name: str) -> None:
    db = start(name)
    with pytest.raises(pc.ExecError, match=r"(?s)SQL in '\w+' failed: .*nonsense"):
        db.sql("select 1; nonsense; create table never (a int)")
    listed = "select count(*) from information_schema.tables where table_name = 'never'"
    assert db.sql(listed) == [["0"]]


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
def test_names_and_passwords_that_need_quoting(start, name: str) -> None:
    user = "o'ne" if name == "MariaDB" else "my user"  # initdb itself cannot quote that
    db = start(name, user=user, password="p@:/'w\\", database='my"`db x')
    db.sql("create table t (a int)")
    url = urlsplit(db.url())
    assert url.username == quote(user) and "@" not in (url.password or "")
    db.clone_database("other'db", db.database)
    assert db.of_database("other'db").sql("select count(*) from t") == [["0"]]
    db.drop_database("other'db")
    db.drop_database("other'db")


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
@pytest.mark.long
def test_the_environment_of_the_official_image(start, name: str) -> None:
    prefix, last = ("POSTGRES", "DB") if name == "Postgres" else ("MARIADB", "DATABASE")
    db = start(
        name, env={f"{prefix}_USER": "me", f"{prefix}_PASSWORD": "pw", f"{prefix}_{last}": "mine"}
    )
    assert (db.user, db.password, db.database) == ("me", "pw", "mine")
    db.sql("create table t (a int)")


@pytest.mark.needs("postgresql")
def test_wrong_credentials_are_refused(start) -> None:
    db = start("Postgres")
    program = db._program(db.container.image, "psql")
    address = db.container.ip  # who comes from the server's own machine needs no password
    url = db.url_at(address, 5432).replace("containers:containers@", "containers:wrong@")
    result = db.exec([*program, url, "-c", "select 1"], text=True)
    assert result.returncode and "password authentication failed" in result.stderr
    right = db.exec([*program, db.url_at(address, 5432), "-c", "select 1"], text=True)
    assert right.returncode == 0


@pytest.mark.needs("postgresql")
def test_a_snapshot_of_a_running_database_recovers(start, engine: pc.Engine) -> None:
    """Without a clean stop: it says so, and nothing that was committed is lost."""
    db = start("Postgres")
    db.sql("create table t (a int); insert into t select generate_series(1, 1000)")
    with db.container.clone("copy") as container:
        copy = db.bound(container)
        assert copy.sql("select count(*) from t") == [["1000"]]
        copy.sql("drop table t")
        assert "database system was not properly shut down" in str(container.logs())
    assert db.sql("select count(*) from t") == [["1000"]]


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
@pytest.mark.long
def test_clones_of_databases_have_what_was_committed(start, name: str) -> None:
    db = start(name)
    db.sql("create table t (a int)")
    clones = []
    for number in range(3):
        db.sql(f"insert into t values ({number})")
        clones.append(db.clone())
    assert [clone.sql("select count(*) from t") for clone in clones] == [[["1"]], [["2"]], [["3"]]]
    for clone in clones:
        clone.container.remove()


@pytest.mark.parametrize("name", [of_host("Postgres"), of_host("MariaDB")])
@pytest.mark.parametrize("label", [None, pytest.param("seeded:1", marks=pytest.mark.long)])
def test_a_server_on_a_snapshot_serves_what_it_has(start, engine, name: str, label) -> None:
    def more(db: SqlService) -> None:
        db.sql("insert into t values (2)")

    login = {"user": "me", "password": "secret", "database": "shop"}
    db = start(name, seed=lambda db: db.sql("create table t (a int)"), **login)
    db.sql("insert into t values (1)")
    image = db.snapshot(label)
    db.container.remove()
    for source in (image, *([label] if label else [])):
        for seed, rows in ((None, "1"), (more, "2")):
            again = start(name, image=source, seed=seed, **login)
            assert again.sql("select count(*) from t") == [[rows]]
    if label:
        engine._core.images.forget_answers()
        with engine.run(label, ["sleep", "100"]) as container:
            assert container.image.name == label
        engine.images.remove(label)


@pytest.mark.needs("postgresql")
@pytest.mark.long
def test_a_server_on_a_snapshot_of_another_database_says_so(start) -> None:
    image = start("Postgres", database="shop").snapshot()
    with pytest.raises(pc.ExecError, match='database "containers" does not exist'):
        start("Postgres", image=image)
    other = start("Postgres", image=image, database="shop", password="another")
    psql = other._program(other.container.image, "psql")
    url = other.url_at(other.container.ip, 5432)
    assert other.exec([*psql, url, "-c", "select 1"]).returncode == 0


@pytest.mark.parametrize(
    "name", [of_host("Redis"), of_host("RabbitMQ"), of_host("Mosquitto"), of_host("Etcd")]
)
def test_others_start_on_their_snapshots_too(start, name: str) -> None:
    first = start(name)
    if name == "Redis":
        first.command("SET", "b", "2")
    IS_THERE[name](start(name, image=first.snapshot()))


@pytest.mark.parametrize(
    ("name", "path", "said", "answer"),
    [
        # SSLRequest, which it declines (protocol.html, 55.2.11); a greeting of version 10.
        (*of_host("Postgres").values, "/.s.PGSQL.5432", "0000000804d2162f", b"N"),
        (*of_host("MariaDB").values, "", "", b"\x0a"),
    ],
)
@pytest.mark.needs("postgresql", "mariadb", "id range")
def test_programs_in_the_container_reach_the_socket(
    start, name: str, path: str, said: str, answer: bytes
) -> None:
    db = start(name)
    talk = (
        "import socket, sys; sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1]); "
        "sock.sendall(bytes.fromhex(sys.argv[2])); sys.stdout.buffer.write(sock.recv(5)[-1:])"
    )
    result = db.exec(["python3", "-c", talk, db.socket + path, said], user="nobody", check=True)
    assert result.stdout == answer


@pytest.mark.needs("redis")
def test_clones_of_redis(start) -> None:
    redis = start("Redis")
    redis.command("SET", "a", "1")
    copy = redis.clone("copy")
    redis.command("SET", "a", "2")
    assert copy.command("GET", "a") == "1"
    copy.container.remove()


@pytest.mark.needs("postgresql")
def test_a_crash_of_one_does_not_touch_the_next(start) -> None:
    def seed(db: SqlService) -> None:
        db.sql("create table t (a int)")

    first = start("Postgres", seed=seed)
    first.sql("insert into t values (1)")
    first.container.kill()
    first.container.wait()
    second = start("Postgres", seed=seed)
    assert second.sql("select count(*) from t") == [["0"]]


@pytest.mark.needs("redis")
def test_seeds_of_redis(start, tmp_path: Path) -> None:
    (tmp_path / "keys.redis").write_text("SET a 1\nRPUSH l x y\n")
    redis = start(
        "Redis", seed=["keys.redis", lambda redis: redis.command("SET", "b", "2")], password="pw"
    )
    assert redis.command("GET", "a") == "1" and redis.command("LLEN", "l") == "2"
    assert redis.command("GET", "b") == "2"
    assert talk(redis, b"GET a\r\n").startswith(b"-NOAUTH")
    assert redis.url().startswith("redis://:pw@")


@pytest.mark.needs("redis")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SET a 1\nSETT b 2\nSET c 3\n", "unknown command 'SETT'"),
        ("SET a 1\nSELECT 99\n", "out of range"),
        ('SET a "x\n', "Invalid argument"),
        ("MULTI\nSET a x\nINCR a\nEXEC\n", "not an integer"),
        ("EVAL \"return {1, {redis.error_reply('MY own')}}\" 0\n", "MY own"),
    ],
)
def test_a_script_of_redis_that_fails_is_not_kept(
    start, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "keys.redis").write_text(text)
    for _ in range(2):
        with pytest.raises(pc.SeedError, match=f"script keys.redis in 'redis' failed: .*{message}"):
            start("Redis", seed="keys.redis", password="pw")


@pytest.mark.needs("redis")
def test_texts_in_a_script_of_redis_may_look_like_errors(start, tmp_path: Path) -> None:
    lines = [
        "ECHO '(error) ERR'",
        'SET a "x\\n(error) ERR"',
        "GET a",
        "",
        "KEYS *",
        "CONFIG GET s*",
    ]
    (tmp_path / "keys.redis").write_text("\n".join(lines))
    redis = start("Redis", seed="keys.redis", database=3)
    assert redis.command("GET", "a") == "x\n(error) ERR"
    with pytest.raises(pc.ExecError, match="commands in 'redis' failed: ERR unknown command"):
        redis.command(input=b"SETT b 2\nSET c 3\n")


@pytest.mark.needs("nginx")
def test_nginx_serves_a_directory_and_takes_a_configuration(start, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with urlopen(start("Nginx", root=tmp_path).url(), timeout=60) as answer:
        assert answer.read() == b"mine"
    config = tmp_path / "nginx.conf"
    config.write_text(
        "user root; error_log /dev/stderr; pid /tmp/p; events {} http { access_log /dev/stdout; "
        "server { listen 80; location / { return 200 own; } } }"
    )
    with urlopen(start("Nginx", config=config).url(), timeout=60) as answer:
        assert answer.read() == b"own"


@pytest.mark.needs("mosquitto")
def test_retained_messages_are_a_state(start) -> None:
    def seed(mosquitto: Service) -> None:
        with socket.create_connection((mosquitto.host, mosquitto.port)) as sock:
            sock.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
            sock.recv(4)
            sock.sendall(b"\x31\x08\x00\x04a/bcseed\xe0\x00"[:10] + b"\xe0\x00")

    mosquitto = start("Mosquitto", seed=seed)
    with socket.create_connection((mosquitto.host, mosquitto.port)) as sock:
        sock.settimeout(5)
        sock.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01y")
        sock.recv(4)
        sock.sendall(b"\x82\x09\x00\x01\x00\x04a/bc\x00")
        data = b""
        while b"a/bc" not in data:
            data += sock.recv(100)


@pytest.mark.needs("mariadb", "id range")
@pytest.mark.long
def test_data_of_mariadb_elsewhere(start) -> None:
    db = start("MariaDB", arguments=["--datadir=/srv/data"])
    assert db.sql("select @@datadir") == [["/srv/data/"]]


def test_a_package_that_is_missing(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pc.services.Redis, "programs", ("no-such-server",))
    with pytest.raises(pc.UnsupportedError, match=r"apt install redis-server, or name an image"):
        start("Redis")


@pytest.mark.needs("mariadb")
def test_a_server_that_changes_its_user_says_what_is_missing(own_engine) -> None:
    engine = own_engine(identity="single")
    with pytest.raises(
        pc.UnsupportedError, match=r"MariaDB.*has a single id.*pytest-containers setup"
    ):
        pc.services.MariaDB(image="host:").start(engine)


@pytest.mark.parametrize("name", [of_host(name) for name in OWN_USER])
@pytest.mark.long
def test_servers_that_refuse_root_run_with_a_single_id(
    own_engine, tmp_path: Path, name: str
) -> None:
    engine = own_engine(identity="single")
    service = getattr(pc.services, name)(image="host:").start(engine, project=tmp_path)
    IS_THERE[name](service)
    assert service.exec(["id", "-un"], user=name.lower(), text=True).stdout == f"{name.lower()}\n"


def test_what_was_not_started_has_no_address() -> None:
    with pytest.raises(pc.NotRunningError, match="was described and not started"):
        _ = pc.services.Redis().port


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Redis", {"arguments": ["--port", "6380"]}, "'--port 6380'"),
        ("Postgres", {"arguments": ["-p", "6000"]}, "'-p 6000'"),
        ("Postgres", {"arguments": ["-p6000"]}, "'-p6000'"),
        ("Postgres", {"arguments": ["-c", "fsync=on", "-c", "port = 6000"]}, "'-c port = 6000'"),
        ("Postgres", {"arguments": ["--port=6000"]}, "'--port=6000'"),
        ("Postgres", {"env": {"PGPORT": "6000"}}, "'PGPORT=6000'"),
        ("MariaDB", {"arguments": ["-P", "33060"]}, "'-P 33060'"),
        ("MySQL", {"arguments": ["--port=3307"]}, "'--port=3307'"),
        ("RabbitMQ", {"env": {"RABBITMQ_NODE_PORT": "1"}}, "'RABBITMQ_NODE_PORT=1'"),
        ("Nats", {"arguments": ["-p", "1"]}, "'-p 1'"),
        ("Mosquitto", {"arguments": ["-p", "1"]}, "'-p 1'"),
        ("Memcached", {"arguments": ["-p", "1"]}, "'-p 1'"),
        (
            "Etcd",
            {"arguments": ["--listen-client-urls=http://0.0.0.0:1"]},
            "'--listen-client-urls=http://0.0.0.0:1'",
        ),
    ],
)
def test_a_port_that_its_configuration_would_move(name: str, options: dict, said: str) -> None:
    kind = getattr(pc.services, name)
    with pytest.raises(pc.SpecError) as caught:
        kind.fixture(**options)
    assert str(caught.value).startswith(
        f"{name}: {said} moves the server away from port {kind.number}, where tests look for it"
    )


def test_words_that_move_no_port_are_left_alone() -> None:
    pc.services.Postgres(arguments=["-p", "5432", "-c", "work_mem=64MB", "-c", "port=5432"])
    pc.services.Redis(arguments=["--maxmemory", "6380", "--port", "6379"])
    pc.services.MariaDB(arguments=["--max-connections=12", "-p6000"])


@pytest.mark.parametrize("arguments", [["--datadir=data"], ["--datadir", "data"], ["-hdata"]])
def test_data_of_mariadb_in_no_absolute_path(arguments: list[str]) -> None:
    with pytest.raises(
        pc.SpecError, match=r"MySQL: --datadir=data is not usable; it must be an ab"
    ):
        pc.services.MySQL(arguments=arguments)


def test_options_that_no_service_has() -> None:
    for make in (pc.services.Postgres, pc.services.Postgres.fixture):
        with pytest.raises(pc.SpecError, match=r"Postgres has no option 'passwort', did you mean "):
            make(passwort="x")
    with pytest.raises(pc.SpecError, match=r"'sed', did you mean 'seed'\? there are .*, inputs,"):
        pc.services.Redis.fixture(sed="x")
    with pytest.raises(pc.SpecError, match="Redis has no option 'command'"):
        pc.services.Redis(command=["x"])


def test_scripts_of_another_service_are_refused_before_anything_starts(
    engine: pc.Engine, tmp_path: Path
) -> None:
    (tmp_path / "a.redis").write_text("")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/1.js").write_text("")
    for seed in ("a.redis", ["m"], ["m/1.js"]):
        with pytest.raises(pc.SpecError, match=r"Postgres can run \.sql, \.sql\.gz and \.sh files"):
            pc.services.Postgres(image="none:1").start(engine, seed=seed, project=tmp_path)
    with pytest.raises(pc.SpecError, match=r"Redis can run \.redis and \.sh files only"):
        pc.services.Redis(image="none:1").start(engine, seed=Path("m"), project=tmp_path)
