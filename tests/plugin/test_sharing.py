"""Isolation: one for all, a database for each, and workers that die."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

COMMON = """
import os, time
def token(c):
    return c.read_text("/srv/token").strip()
TOKEN = ["sh", "-c", "cat /proc/sys/kernel/random/uuid > /srv/token; touch /srv/up; sleep 1000"]
one = pc.container_fixture("host:", TOKEN, ready=pc.wait.file("/srv/up"), isolation="none")
"""


@pytest.mark.parametrize("workers", ["0", "3"])
def test_one_container_for_all_tests_and_workers(run, pytester, workers: str) -> None:
    result = run(
        COMMON
        + """
@pytest.mark.parametrize("n", range(9))
def test_it(one, n, containers):
    with open("tokens", "a") as file:
        file.write(token(one) + "\\n")
    other = containers.run("host:", ["sh", "-c", "getent hosts one && touch /srv/found; sleep 9"],
                           ready=pc.wait.file("/srv/found"))
    assert other.ip != one.ip
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=9)
    tokens = (pytester.path / "tokens").read_text().split()
    assert len(tokens) == 9
    assert len(set(tokens)) == 1


@pytest.mark.long
def test_a_worker_that_crashes_does_not_take_it_along(run, pytester) -> None:
    result = run(
        COMMON
        + """
@pytest.mark.parametrize("n", range(12))
def test_it(one, n):
    with open("tokens", "a") as file:
        file.write(token(one) + "\\n")
    if n == 1:
        os.kill(os.getpid(), 9)
    time.sleep(0.1)
""",
        "-n",
        "2",
    )
    result.assert_outcomes(passed=11, failed=1)
    assert len(set((pytester.path / "tokens").read_text().split())) == 1


@pytest.mark.long
def test_a_failure_to_start_is_told_to_all(run) -> None:
    result = run(
        """
one = pc.container_fixture("host:", ["sh", "-c", "echo broken; exit 3"], ports=[1], isolation="none")

@pytest.mark.parametrize("n", range(4))
def test_it(one, n):
    pass
""",
        "-n",
        "2",
    )
    result.assert_outcomes(errors=4)
    assert result.stdout.str().count("ended with exit code 3") >= 4


@pytest.mark.parametrize(
    ("end", "workers"),
    [("one.kill(); one.wait()", "0"), ("one.kill(); one.wait()", "2"), ("one.remove()", "0")],
)
@pytest.mark.long
def test_one_that_a_test_has_ended_is_explained_to_the_others(
    run, pytester, end: str, workers: str
) -> None:
    result = run(
        COMMON
        + f"""
def test_a_ends_it(one):
    {end}
    open("ended", "w").close()

@pytest.mark.parametrize("n", range(4))
def test_others(n, request):
    while not os.path.exists("ended"):
        time.sleep(0.02)
    request.getfixturevalue("one")
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=1, failed=4)
    how = "has ended with exit code 137" if "kill" in end else "was removed"
    message = f"'one' is shared by all tests of the run (isolation='none') and {how}; a test that"
    assert result.stdout.str().count(message) >= 4


@pytest.mark.needs("postgresql", "id range")
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.long
def test_a_database_for_each_test_on_one_server(run, pytester, workers: str) -> None:
    result = run(
        """
def load(db):
    db.sql("create table t(a int); insert into t values (1)")

db = pc.services.Postgres.fixture(image="host:", seed=load, isolation="database")

@pytest.mark.parametrize("n", range(4))
def test_it(db, n):
    assert db.sql("select count(*) from t") == [["1"]]
    db.sql("insert into t values (2)")
    assert db.database in db.dsn and db.database.startswith("test_")
    with open("servers", "a") as file:
        file.write(db.container.id + " " + db.database + "\\n")

def test_others_are_gone(db):
    names = db.sql("select datname from pg_database where datname like 'test\\\\_%'")
    assert [db.database] in names and len(names) <= 2
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=5)
    lines = [line.split() for line in (pytester.path / "servers").read_text().splitlines()]
    assert len({server for server, _ in lines}) == 1
    assert len({database for _, database in lines}) == 4


@pytest.mark.needs("mariadb", "id range")
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.long)])
@pytest.mark.long
def test_a_database_of_mariadb_for_each_test(run, pytester, workers: str) -> None:
    result = run(
        """
def load(db):
    db.sql("create table t(a int); insert into t values (1); create view v as select a from t")

db = pc.services.MariaDB.fixture(image="host:", seed=load, isolation="database")

@pytest.mark.parametrize("n", range(4))
def test_it(db, n):
    assert db.sql("select count(*) from v") == [["1"]]
    db.sql("insert into t values (2)")
    assert db.sql("select database()") == [[db.database]] and db.database in db.dsn
    assert db.sql("select count(*) from t", database="containers") == [["1"]]
    with open("servers", "a") as file:
        file.write(db.container.id + " " + db.database + "\\n")

def test_others_are_gone(db):
    names = db.sql("show databases like 'test\\\\_%'")
    assert [db.database] in names and len(names) <= 2
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=5)
    lines = [line.split() for line in (pytester.path / "servers").read_text().splitlines()]
    assert len({server for server, _ in lines}) == 1
    assert len({database for _, database in lines}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("isolation='pod'", "isolation 'pod' is not one of server, database, none"),
        ("isolation='database'", "isolation='database' is for SQL services"),
        ("inputs=3", "inputs=3 is not usable; it must be a path, a glob, or a list of these"),
        ("inputs=[3]", "inputs=[3] is not usable"),
        ("inputs='none'", "inputs: there is nothing at"),
        ("inputs=[pc.__path__[0], 'none']", "inputs: there is nothing at"),
        ("seed=3", "seed 3 is not usable"),
        ("seed='none.sh'", "none.sh does not exist; relative paths start from"),
        ("seed='test_it_.txt'", "test_it_.txt does not exist"),
        ("inputs=['none'], seed='seed.sh'", "there is nothing at"),
    ],
)
def test_bad_arguments(run, pytester, arguments: str, message: str) -> None:
    (pytester.path / "seed.sh").write_text("true\n")
    result = run(
        f"""
db = pc.container_fixture("host:", ["sleep", "9"], {arguments})

def test_it(db):
    pass
"""
    )
    assert result.ret != 0
    assert message in result.stdout.str() + result.stderr.str()
