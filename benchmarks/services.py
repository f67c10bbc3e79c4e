"""Databases and brokers side by side: ``python -m benchmarks.services [--rounds N] [--write FILE]``.

For root, on Debian with the servers' packages: their bare start on a prepared directory is the
floor. Images for Docker are made of the same packages.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

import pytest_containers as pc
from benchmarks import machine, rootfs
from benchmarks.bare import POSTGRES, SERVERS
from benchmarks.measure import Case, Result, Sample, interleave
from benchmarks.peers import dockerd

PACKAGES = "postgresql,mariadb-server,redis-server,rabbitmq-server,nats-server,mosquitto,memcached"
SCRIPTS = Path(__file__).parents[1] / "tests" / "images"
TABLES, TESTS = 200, 100
SLOW = ("RabbitMQ",)
SQL = "".join(
    f"create table t{n} (a int primary key, b text); "
    f"insert into t{n} select g, repeat(md5(g::text), 3) from generate_series(1, 1500) g; "
    for n in range(TABLES)
)
SUITE = """
import psycopg, pytest
pytest_plugins = []
@pytest.mark.parametrize("n", range({tests}))
def test_it(dsn, n):
    with psycopg.connect(dsn) as connection:
        for table in range({tables}):
            assert connection.execute(f"select * from t{{table}} limit 1").fetchone()
"""
OURS = """
import pytest
import pytest_containers as pc
SQL = open({sql!r}).read()
def load(db):
    db.sql(SQL)
db = pc.services.Postgres.fixture(image="host:", seed=load)
@pytest.fixture
def dsn(db):
    return db.dsn
"""
TEMPLATE = """
import psycopg, pytest
from pytest_postgresql import factories
SQL = open({sql!r}).read()
def load(**how):
    with psycopg.connect(**how) as connection:
        connection.execute(SQL)
server = factories.postgresql_proc(
    executable="{bindir}/pg_ctl", load=[load],
    postgres_options="-c fsync=off -c full_page_writes=off -c synchronous_commit=off",
)
client = factories.postgresql("server")
@pytest.fixture
def dsn(client):
    info = client.info
    return f"host={{info.host}} port={{info.port}} user={{info.user}} dbname={{info.dbname}}"
"""
DOCKER = """
import psycopg, pytest
from testcontainers.postgres import PostgresContainer
SQL = open({sql!r}).read()
@pytest.fixture
def dsn():
    with PostgresContainer("bench/postgres:1", driver=None) as container:
        url = container.get_connection_url(driver=None)
        with psycopg.connect(url) as connection:
            connection.execute(SQL)
        yield url
"""


def main() -> None:
    """Measure, print, and write a page of the documentation if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.services")
    parser.add_argument("--rounds", type=int, default=20, help="values per case (20)")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of what takes seconds (3)")
    parser.add_argument(
        "--quick", action="store_true", help="servers beside their bare starts only, in a minute"
    )
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    machine.leave_hybrid_cgroups()
    tar = Path() if arguments.quick else rootfs.tarball(arguments.cache, PACKAGES, "services")
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        work.chmod(0o711)
        subprocess.run(["mount", "-t", "tmpfs", "benchmark", work], check=True)  # in our namespace
        (work / "sql").write_text(SQL)
        if arguments.quick:
            lines = quick(work, arguments.rounds)
        else:
            lines = report(work, tar, arguments.rounds, arguments.slow_rounds)
    print("\n".join(lines))
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------- who does it


class Testcontainers:
    """A process where the daemon's networks are reached."""

    def __init__(self, daemon: list[str], netns_fd: int) -> None:
        self.env = {
            **os.environ, "DOCKER_HOST": daemon[1].removeprefix("--host="),
            "TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
        }  # fmt: skip
        self.inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns_fd}"]
        self._child = subprocess.Popen(
            [*self.inside, sys.executable, "-m", "benchmarks.testcontainers_worker"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.env,
        )  # fmt: skip

    def sample(self, name: str) -> Sample:
        def sample() -> float:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(f"{name}\n")
            self._child.stdin.flush()
            answer = self._child.stdout.readline().strip()
            try:
                return float(answer)
            except ValueError:
                raise RuntimeError(f"testcontainers: {name}: {answer}") from None

        return sample

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


@contextmanager
def testcontainers(tar: Path, work: Path) -> Iterator[Testcontainers]:
    """Docker with images of the same packages, and entrypoints like the official ones'."""
    with dockerd(work) as (docker, netns_fd):
        base = work / "base"
        base.mkdir()
        for file in SCRIPTS.glob("*.sh"):
            shutil.copy(file, base / file.name)
        subprocess.run(
            [*docker, "import", tar, "bench/base:1"], check=True, stdout=subprocess.DEVNULL
        )
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        images = {
            "postgres": (
                "postgres.sh",
                ["postgres", "-c", "fsync=off"],
                [f"PATH={POSTGRES}:{path}", "PGDATA=/var/lib/postgresql/data"],
            ),
            "mariadb": ("mariadb.sh", ["mariadbd"], []),
            "redis": ("plain.sh", ["redis-server", "--bind", "*", "--protected-mode", "no"], []),
            "memcached": ("plain.sh", ["memcached", "-u", "root"], []),
            "nats": ("plain.sh", ["nats-server", "-js", "-a", "0.0.0.0"], []),
            # The official image's command; testcontainers brings the file.
            "mosquitto": (
                "plain.sh",
                ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"],
                [],
            ),
            "rabbitmq": (
                "plain.sh",
                ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
                [
                    "RABBITMQ_LOGS=-",
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-rabbit loopback_users []",
                ],
            ),
        }
        for image, (script, command, env) in images.items():
            words = ", ".join(f'"{word}"' for word in command)
            lines = [
                "FROM bench/base:1", f"COPY {script} /usr/local/bin/docker-entrypoint.sh",
                "RUN rm -rf /var/lib/mysql && chmod 755 /usr/local/bin/docker-entrypoint.sh",
                *(f'ENV {pair.partition("=")[0]}="{pair.partition("=")[2]}"' for pair in env),
                'ENTRYPOINT ["docker-entrypoint.sh"]', f"CMD [{words}]",
            ]  # fmt: skip
            (base / "Dockerfile").write_text("\n".join(lines) + "\n")
            subprocess.run(
                [*docker, "build", "--quiet", "--network=none", "--tag", f"bench/{image}:1", base],
                check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DOCKER_BUILDKIT": "0"},
            )  # fmt: skip
        worker = Testcontainers(docker, netns_fd)
        try:
            yield worker
        finally:
            worker.close()


def ours(engine: pc.Engine, name: str, *, seed: object = None) -> Sample:
    """From asking for it to an answer, and until it is gone."""
    service = getattr(pc.services, name)(image="host:")
    first = service.start(engine, seed=seed, project="/")
    spec = first.container.spec
    first.container.remove()

    def sample() -> float:
        began = time.perf_counter()
        container = engine.run(spec, name=name.lower())
        running = service.bound(container)
        if name == "Postgres":
            ask_postgres(running.port, running.host)
        # Else it has been asked in its protocol, and has answered: that is when it counts as ready.
        container.remove()
        return (time.perf_counter() - began) * 1000

    return sample


def ask_postgres(port: int, host: str = "127.0.0.1") -> None:
    """A driver's connection, and a statement."""
    default = pc.services.Postgres()
    login = f"user={default.user} password={default.password} dbname={default.database}"
    end = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(f"host={host} port={port} {login}") as connection:
                connection.execute("select 1").fetchone()
                return
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.001)


# --------------------------------------------------------------------- pytest runs


def run_suite(
    folder: Path, conftest: str, tests: int, *arguments: str, before: list[str] | None = None,
    env: dict[str, str] | None = None,
) -> tuple[float, str]:  # fmt: skip
    """Seconds that a suite takes, and what pytest wrote."""
    folder.mkdir(exist_ok=True)
    sql = str(folder.parent / "sql")
    (folder / "conftest.py").write_text(conftest.format(sql=sql, bindir=POSTGRES))
    (folder / "test_it.py").write_text(SUITE.format(tests=tests, tables=TABLES))
    plugins = [
        word for name in ("randomly", "cacheprovider", "django") for word in ("-p", f"no:{name}")
    ]
    command = [
        *(before or []),
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *plugins,
        *arguments,
        str(folder),
    ]
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    took = time.perf_counter() - began
    if result.returncode:
        raise RuntimeError(result.stdout[-2000:] + result.stderr[-2000:])
    return took, result.stdout


def suites(work: Path, home: Path, docker: Testcontainers, rounds: int) -> dict[str, list[float]]:
    """Seconds per 100 tests, states and template made before (they count in neither)."""
    env = {**os.environ, "PYTEST_CONTAINERS_HOME": str(home)}
    few = 10
    found: dict[str, list[float]] = {}
    run_suite(work / "ours", OURS, 2, env=env)

    def per_test(took: float, text: str, tests: int) -> float:
        """Without what happens once: the first test's setup has the seed."""
        first = re.search(r"([\d.]+)s setup +\S*test_it\[0\]", text)
        once = float(first[1]) if first else 0.0
        whole = float(re.search(r"in ([\d.]+)s", text)[1])  # type: ignore[index]
        return (whole - once) / (tests - 1) * TESTS

    for _ in range(rounds):
        for who, options in (("ours", []), ("ours, no look-ahead", ["--containers-lookahead=off"])):
            took, text = run_suite(
                work / "ours", OURS, TESTS, "--durations=0", "-vv", *options, env=env
            )
            found.setdefault(who, []).append(per_test(took, text, TESTS))
        user = {**os.environ, "HOME": str(work / "template"), "TMPDIR": str(work / "template")}
        (work / "template").mkdir(exist_ok=True)
        shutil.chown(work / "template", "nobody", "nogroup")
        python = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        took, text = run_suite(
            work / "template", TEMPLATE, TESTS, "--durations=0", "-vv", before=python, env=user
        )
        found.setdefault("pytest-postgresql, template on one server", []).append(
            per_test(took, text, TESTS)
        )
        took, text = run_suite(
            work / "docker-suite", DOCKER, few, before=docker.inside, env=docker.env
        )
        whole = float(re.search(r"in ([\d.]+)s", text)[1])  # type: ignore[index]
        found.setdefault(f"testcontainers ({few} tests, times {TESTS // few})", []).append(
            whole * TESTS / few
        )
    return found


def second_run(work: Path, home: Path) -> float:
    """Milliseconds from asking for the first database to having it, in a run that seeds nothing."""
    env = {**os.environ, "PYTEST_CONTAINERS_HOME": str(home)}
    _, text = run_suite(work / "ours", OURS, 1, "--durations=0", "-vv", env=env)
    return float(re.search(r"([\d.]+)s setup", text)[1]) * 1000  # type: ignore[index]


AHEAD = """
import json, time, pytest
spans = []
@pytest.fixture
def span():
    began = time.perf_counter()
    yield
    spans.append((time.perf_counter() - began) * 1000)
@pytest.mark.parametrize("n", range({tests}))
def test_it(span, dsn, n):
    {use}
@pytest.mark.parametrize("n", range({tests}))
def test_pause(n):
    time.sleep(0.06)
def test_last():
    json.dump(spans, open("spans", "w"))
"""
SELECT = """import psycopg
    with psycopg.connect(dsn) as connection:
        connection.execute("select 1").fetchone()"""
ANY = """
import pytest_containers as pc
dsn = pc.services.{name}.fixture(image="host:")
"""
PAUSES_FIRST = """
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (item.callspec.params["n"], item.name.startswith("test_it"))
               if hasattr(item, "callspec") else (10**6, False))
"""


def seen_by_a_test(work: Path, home: Path, option: str, name: str = "Postgres") -> list[float]:
    """Milliseconds of setup, use and teardown, for tests that follow one of 60 ms.

    A `select 1` is the use of PostgreSQL; others have answered when they count as ready.
    """
    folder = work / f"ahead-{name}"
    folder.mkdir(exist_ok=True)
    database = name == "Postgres"
    conftest = OURS.format(sql=str(work / "sql")) if database else ANY.format(name=name)
    (folder / "conftest.py").write_text(conftest + PAUSES_FIRST)
    use = SELECT if database else "pass"
    (folder / "test_it.py").write_text(AHEAD.format(tests=40, use=use))
    env = {**os.environ, "PYTEST_CONTAINERS_HOME": str(home)}
    plugins = [
        word for name in ("randomly", "cacheprovider", "django") for word in ("-p", f"no:{name}")
    ]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, f"--containers-lookahead={option}",
         str(folder)],
        check=True, env=env, cwd=folder, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    import json

    found: list[float] = json.loads((folder / "spans").read_text())
    return found[2:]


# ------------------------------------------------------------------------ large seeds

LARGE_TABLES, LARGE_ROWS = 100, 70_000


def load_large(db: pc.services.Postgres) -> None:
    """About 1 GB in 100 tables."""
    for table in range(LARGE_TABLES):
        db.sql(
            f"create table t{table} (a int primary key, b text); insert into t{table} "
            f"select g, repeat(md5(g::text), 3) from generate_series(1, {LARGE_ROWS}) g"
        )


def large(place: Path, scratch: str) -> dict[str, float]:
    """Start, read a row of every table; what memory and disk that adds."""
    with pc.Engine(home=place / "home") as engine:
        service = pc.services.Postgres(image="host:", scratch=scratch)
        first = service.start(engine, seed=load_large, project="/")
        spec = first.container.spec
        first.container.remove()
        found: dict[str, list[float]] = {"start": [], "read": [], "memory": [], "disk": []}
        for _ in range(5):
            subprocess.run(["sync"], check=True)
            memory, disk = available(), shutil.disk_usage(place).used
            began = time.perf_counter()
            container = engine.run(spec, name="db")
            db = service.bound(container)
            started = time.perf_counter()
            with psycopg.connect(db.dsn) as connection:
                for table in range(LARGE_TABLES):
                    connection.execute(f"select * from t{table} limit 1").fetchone()
            read = time.perf_counter()
            found["start"].append((started - began) * 1000)
            found["read"].append((read - started) * 1000)
            found["memory"].append((memory - available()) / 1024)
            found["disk"].append((shutil.disk_usage(place).used - disk) / 2**20)
            container.remove()
        return {name: sorted(values)[len(values) // 2] for name, values in found.items()}


def available() -> int:
    """MemAvailable plus what is cached, in KiB: the page cache of files is no cost of ours."""
    known = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
    }
    return known["MemFree"] + known["Cached"] - known["Shmem"] + known["Buffers"]


@contextmanager
def xfs(work: Path) -> Iterator[Path]:
    """XFS with reflinks, in a file."""
    image, place = work / "xfs.img", work / "xfs"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(8 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        image.unlink()


def large_seeds(disk: Path) -> list[tuple[str, dict[str, float]]]:
    """Where layers and writable layers may be."""
    found = []
    ext4 = disk / "ext4"
    ext4.mkdir()
    found.append(("layer on ext4, writes to memory (default)", large(ext4, "tmpfs")))
    found.append(("layer on ext4, writes to ext4", large(ext4, "disk")))
    memory = disk / "memory"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "benchmark", memory], check=True)
    found.append(("layer in memory, writes to memory", large(memory, "tmpfs")))
    subprocess.run(["umount", "--lazy", memory], check=True)
    with xfs(disk) as place:
        found.append(("layer on XFS, writes to memory", large(place, "tmpfs")))
        found.append(("layer on XFS, writes to XFS (reflinks)", large(place, "disk")))
    return found


# ----------------------------------------------------------------------------- report


def quick(work: Path, rounds: int) -> list[str]:
    """Servers that start in milliseconds, bare, in a container and started ahead."""
    lines = ["| server | ours | bare | ours / bare | look-ahead |", "|---|---|---|---|---|"]
    with pc.Engine(home=work / "home") as engine:
        for name, bare in SERVERS.items():
            if name in SLOW:
                continue
            ask = ask_postgres if name == "Postgres" else None
            template = bare.template(work / f"bare-{name}")
            pair = {"ours": ours(engine, name), "bare start": bare.sample(template, ask)}
            mine, floor = (one.median for one in interleave(Case(name, pair), rounds))
            seen = median(seen_by_a_test(work, work / "home", "on", name))
            lines.append(
                f"| {name} | {mine:.1f} ms | {floor:.1f} ms | {mine / floor:.2f} | {seen:.1f} ms |"
            )
            say(lines[-1])
    return lines


def report(work: Path, tar: Path, rounds: int, slow_rounds: int) -> list[str]:
    """Everything, as a Markdown page."""
    home = work / "home"
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(
            prefix="benchmark-", dir="/var/tmp", ignore_cleanup_errors=True
        ) as disk,
        testcontainers(tar, Path(disk)) as docker,
        pc.Engine(home=home) as engine,
    ):

        def seed(db: pc.services.Postgres) -> None:
            db.sql("create table t (a int)")

        for name, bare in SERVERS.items():
            say(f"{name}: start to gone")
            template = bare.template(work / f"bare-{name}")
            times = slow_rounds if name in SLOW else rounds
            ask = ask_postgres if name == "Postgres" else None
            mine = ours(engine, name, seed=seed if name == "Postgres" else None)
            pair = {"ours": mine, "bare start": bare.sample(template, ask)}
            results += interleave(Case(name, pair, rounds=times), times, warm_up=1)
            theirs: dict[str, Callable[[], float]] = {"testcontainers": docker.sample(name)}
            try:
                results += interleave(
                    Case(name, theirs, rounds=slow_rounds), slow_rounds, warm_up=1
                )
            except RuntimeError as error:
                say(str(error))
        say("seen by a test")
        seen = {option: seen_by_a_test(work, home, option) for option in ("on", "off")}
        ahead = {
            name: median(
                seen["on"] if name == "Postgres" else seen_by_a_test(work, home, "on", name)
            )
            for name in SERVERS
            if name not in SLOW
        }
        say("suites of 100 tests")
        compared = suites(work, home, docker, slow_rounds)
        again = [second_run(work, home) for _ in range(5)]
    say("seeds of 1 GB")
    with tempfile.TemporaryDirectory(
        prefix="benchmark-", dir="/var/tmp", ignore_cleanup_errors=True
    ) as large_disk:
        places = large_seeds(Path(large_disk))
    return page(results, seen, ahead, compared, again, places, rounds, slow_rounds)


def say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def page(
    results: list[Result], seen: dict[str, list[float]], ahead: dict[str, float], compared: dict[str, list[float]],
    again: list[float], places: list[tuple[str, dict[str, float]]], rounds: int, slow_rounds: int,
) -> list[str]:  # fmt: skip
    """The tables and what they were measured on."""
    by_name: dict[str, dict[str, float]] = {}
    for result in results:
        by_name.setdefault(result.case, {})[result.who] = result.median
    lines = [
        "# Benchmarks: databases and brokers",
        "",
        f"Made by `python -m benchmarks.services --rounds {rounds} --slow-rounds {slow_rounds} --write",
        "docs/reference/benchmarks-services.md`: medians. A prepared server on this machine's own packages,",
        "from asking for it to its first answer and until it is gone. Bare is the same server started on a",
        "copy of the same directory in memory, without any container; its copy is not counted. Look-ahead is",
        "what a test in pytest sees of it (setup, answer, teardown) that follows one of 60 ms.",
        "",
        "| server | ours | bare | ours / bare | look-ahead | testcontainers on Docker | testcontainers / ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for server, who in by_name.items():
        theirs = who.get("testcontainers")
        told = (
            "not measured | " if theirs is None else f"{theirs:.0f} ms | {theirs / who['ours']:.0f}"
        )
        lines.append(
            f"| {server} | {who['ours']:.1f} ms | {who['bare start']:.1f} ms | "
            f"{who['ours'] / who['bare start']:.2f} | "
            f"{f'{ahead[server]:.1f} ms' if server in ahead else 'not measured'} | {told} |"
        )
    followed = (
        f"A test that follows one of 60 ms and asks for a fresh PostgreSQL, connects and selects, sees "
        f"{median(seen['on']):.1f} ms of it, {median(seen['off']):.1f} ms without look-ahead (setup, `select 1` and "
        f"teardown; medians of {len(seen['on'])})."
    )
    suite = (
        f"100 tests, each with a PostgreSQL of {TABLES} tables and 40 MB of which it reads a row per table; "
        "what is done once is not counted:"
    )
    lines += [
        "",
        followed,
        "",
        suite,
        "",
        "| who | 100 tests | ours / theirs |",
        "|---|---|---|",
    ]
    mine = median(compared["ours"])
    for name, values in compared.items():
        ratio = (
            ""
            if name == "ours"
            else f"{mine / median(values):.3f} (1 / {median(values) / mine:.1f})"
        )
        lines.append(f"| {name} | {median(values):.1f} s | {ratio} |")
    second = (
        f"A second pytest run, with nothing to seed, has its first database {median(again):.0f} ms after it was "
        "asked for (the run itself is started in that time)."
    )
    lines += [
        "",
        second,
        "",
        f"A seed of 1 GB in {LARGE_TABLES} tables; a row of every table is read:",
        "",
        "| where | start | read | memory added | disk added |",
        "|---|---|---|---|---|",
    ]
    for where, known in places:
        lines.append(
            f"| {where} | {known['start']:.0f} ms | {known['read']:.0f} ms | {known['memory']:.0f} MiB | "
            f"{known['disk']:.0f} MiB |"
        )
    return [*lines, *machine.table()]


if __name__ == "__main__":
    main()
