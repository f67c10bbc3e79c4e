"""A seeded PostgreSQL per test on one daemon, by the docker engine and by testcontainers.

``python -m benchmarks.docker_postgres [--tests N] [--pause S …]``: both run a suite of N tests in
the same daemon with the same image; each test gets a fresh database with the same tables and asks
one of them. Measured is what a test sees: from the start of its setup to the end of its teardown.
Between two such tests is one that takes S seconds and needs no database. Needs root, dockerd,
mmdebstrap and testcontainers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import rootfs
from benchmarks.bare import POSTGRES
from benchmarks.peers import dockerd

ENGINE, PEER = "docker engine", "testcontainers"
AIM = 5.0
IMAGE = "bench/postgres:1"
SCRIPT = Path(__file__).parents[1] / "tests" / "images" / "postgres.sh"
SQL = "".join(
    f"create table t{n} (a int primary key, b text); "
    f"insert into t{n} select g, md5(g::text) from generate_series(1, 1000) g; "
    for n in range(20)
)
CONFTEST = {
    ENGINE: f"""
import pytest
import pytest_containers as pc
def load(db):
    db.sql(open("sql").read())
db = pc.services.Postgres.fixture(image="{IMAGE}", seed=load)
@pytest.fixture
def dsn(span, db):
    return db.dsn
""",
    PEER: f"""
import psycopg, pytest
from testcontainers.postgres import PostgresContainer
@pytest.fixture
def dsn(span):
    with PostgresContainer("{IMAGE}", driver=None) as container:
        url = container.get_connection_url(driver=None)
        with psycopg.connect(url) as connection:
            connection.execute(open("sql").read())
        yield url
""",
}
SUITE = """
import json, time, psycopg, pytest
spans = []
@pytest.fixture
def span():
    began = time.perf_counter()
    yield
    spans.append((time.perf_counter() - began) * 1000)
@pytest.mark.parametrize("n", range({tests}))
class TestAll:
    def test_pause(self, n):
        time.sleep({pause})
    def test_it(self, dsn, n):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*) from t7").fetchone() == (1000,)
            connection.execute("insert into t7 values (0)")
def test_last():
    json.dump(spans, open("spans", "w"))
"""
ORDER = """
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.callspec.params["n"] if hasattr(item, "callspec") else 10**6)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docker_postgres")
    parser.add_argument("--tests", type=int, default=12, help="tests per suite (12)")
    parser.add_argument(
        "--pause", type=float, nargs="+", default=[0.0, 0.5], help="seconds between them (0, 0.5)"
    )
    parser.add_argument("--ours-only", action="store_true", help="leave testcontainers out")
    parser.add_argument("options", nargs="*", help="more options of pytest for the docker engine")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    tar = rootfs.tarball(arguments.cache, "postgresql", "postgres")
    peers = [ENGINE] if arguments.ours_only else [ENGINE, PEER]
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/tmp", ignore_cleanup_errors=True) as name:
        work = Path(name)
        with dockerd(work) as (command, netns_fd):
            build(command, tar, work)
            inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns_fd}"]
            lines = []
            for pause in arguments.pause:
                spans = {
                    who: run(work, inside, who, arguments.tests, pause, arguments.options)
                    for who in peers
                }
                lines += page(pause, spans)
    print("\n".join(lines))


def build(docker: list[str], tar: Path, work: Path) -> None:
    """Make the image in the daemon: with an entrypoint like that of the official one."""
    context = work / "context"
    context.mkdir()
    (context / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    lines = [
        "FROM bench/base:1", f"COPY {SCRIPT.name} /usr/local/bin/docker-entrypoint.sh",
        "RUN chmod 755 /usr/local/bin/docker-entrypoint.sh",
        f"ENV PATH={POSTGRES}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data",
        'VOLUME /var/lib/postgresql/data', 'ENTRYPOINT ["docker-entrypoint.sh"]',
        "STOPSIGNAL SIGINT", "EXPOSE 5432", 'CMD ["postgres"]',
    ]  # fmt: skip
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    subprocess.run([*docker, "import", tar, "bench/base:1"], check=True, capture_output=True)
    subprocess.run(
        [*docker, "build", "--quiet", "--network=none", "--tag", IMAGE, context],
        check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )  # fmt: skip


def run(
    work: Path, inside: list[str], who: str, tests: int, pause: float, options: list[str]
) -> list[float]:
    """Run the suite of one of them in the network of the daemon; what its tests saw, in ms."""
    folder = work / f"{who.split()[0]}-{pause}"
    folder.mkdir()
    (folder / "sql").write_text(SQL)
    (folder / "conftest.py").write_text(CONFTEST[who] + ORDER)
    (folder / "test_it.py").write_text(SUITE.format(tests=tests, pause=pause))
    env = {
        **os.environ, "DOCKER_HOST": f"unix://{work}/docker.sock",
        "PYTEST_CONTAINERS_HOME": str(work / "home"), "TESTCONTAINERS_RYUK_DISABLED": "true",
    }  # fmt: skip
    plugins = [word for name in ("randomly", "cacheprovider") for word in ("-p", f"no:{name}")]
    ours = ["--containers-engine=docker", *options] if who == ENGINE else []
    if who == PEER:
        # Its containers are in the bridge of the daemon, and so is this process.
        env["TESTCONTAINERS_CONNECTION_MODE"] = "bridge_ip"
    done = subprocess.run(
        [*inside, sys.executable, "-m", "pytest", "-q", *plugins, *ours, str(folder)],
        env=env, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:] + done.stderr)
    found: list[float] = json.loads((folder / "spans").read_text())
    return found[1:]  # the first test of ours makes the seed


def page(pause: float, spans: dict[str, list[float]]) -> list[str]:
    """Return lines about one length of the test before."""
    lines = [f"after a test of {pause:g} s:"]
    for who, values in spans.items():
        low, _, high = statistics.quantiles(values, n=4)
        middle = statistics.median(values)
        lines.append(f"  {who:15} median {middle:7.1f} ms, quartiles {low:.1f} and {high:.1f}")
    if PEER in spans:
        ratio = statistics.median(spans[PEER]) / statistics.median(spans[ENGINE])
        lines.append(f"  testcontainers takes {ratio:.1f} times as long; the aim is {AIM:g}")
    return lines


if __name__ == "__main__":
    main()
