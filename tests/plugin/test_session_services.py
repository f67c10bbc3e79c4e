"""Servers that are up before tests are collected."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from helpers.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.needs("redis")]

SAY = """
import os, socket

def say(address, text=b"PING\\r\\n"):
    host, _, port = address.rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(text)
        return sock.recv(100)

def is_up(address):
    try:
        return say(address) == b"+PONG\\r\\n"
    except OSError:
        return False
"""
LOOKS_AT_IMPORT = """
import os
from say import is_up, say

class TestIt:
    at_import = say(os.environ["REDIS_URL"])

    def test_class_body(self):
        assert self.at_import == b"+PONG\\r\\n"

@pytest.mark.skipif(not is_up(os.environ["REDIS_URL"]), reason="no server")
@pytest.mark.parametrize("n", range(3))
def test_mark(n, cache):
    assert cache.command("INCR", "n") != "0"
    assert say(os.environ["REDIS_URL"], b"INCR total\\r\\n")
    with open("total", "a") as file:
        file.write(f"{cache.command('GET', 'total')} {cache.container.id}\\n")
"""
INI = "[pytest]\ncontainers_services =\n    cache = redis@host: endpoint=REDIS_URL\n"
CONFTEST = """
import pytest_containers as pc
cache = pc.session_service("redis", image="host:", endpoint="REDIS_URL")
assert cache.command("PING") == "PONG"
assert cache.url().startswith("redis://")
"""


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(say=SAY)
    pytester.syspathinsert()
    return pytester


@pytest.mark.parametrize("workers", ["0", "2"])
def test_up_before_conftest_files_if_declared_in_ini(run, pytester, workers: str) -> None:
    pytester.makeini(INI)
    pytester.makeconftest(
        'import os\nfrom say import say\nassert say(os.environ["REDIS_URL"]) == b"+PONG\\r\\n"'
    )
    run(LOOKS_AT_IMPORT, "-n", workers).assert_outcomes(passed=4)
    # One server for all processes.
    lines = [line.split() for line in (pytester.path / "total").read_text().splitlines()]
    assert max(count for count, _ in lines) == "3"
    assert len({container for _, container in lines}) == 1


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "2"])
@pytest.mark.long
def test_up_from_its_line_in_a_conftest(run, pytester, workers: str) -> None:
    pytester.makeconftest(CONFTEST)
    run(LOOKS_AT_IMPORT, "-n", workers).assert_outcomes(passed=4)


@pytest.mark.long
def test_each_worker_may_have_its_own(run, pytester) -> None:
    pytester.makeini(INI.rstrip() + " per_worker=yes\n")
    result = run(
        """
import os, time
from say import say

@pytest.mark.parametrize("n", range(2))
def test_it(n, cache):
    say(os.environ["REDIS_URL"], b"SET n 1\\r\\n")
    assert cache.command("GET", "n") == "1"
    with open("ids", "a") as file:
        file.write(cache.container.id + "\\n")
    while len(open("ids").read().split()) < 2:
        time.sleep(0.01)
""",
        "-n", "2",
    )  # fmt: skip
    result.assert_outcomes(passed=2)
    assert len(set((pytester.path / "ids").read_text().split())) == 2


@pytest.mark.needs("postgresql", "id range")
@pytest.mark.long
def test_seeds_and_isolation_are_as_elsewhere(run, pytester) -> None:
    pytester.path.joinpath("schema.sql").write_text(
        "create table t (n int); insert into t values (7)"
    )
    pytester.makeini(
        "[pytest]\ncontainers_services =\n"
        "    db = postgres@host: seed=schema.sql isolation=database user=me database=shop\n"
        "    cache = redis@host: isolation=server endpoint=REDIS_URL\n"
    )
    result = run(
        """
import os
from say import is_up, say

UP = is_up(os.environ["REDIS_URL"])

@pytest.mark.parametrize("n", range(2))
def test_a_database_each(db, n):
    assert db.user == "me" and db.database != "shop"
    assert db.sql("select n from t; delete from t") == [["7"]]

@pytest.mark.parametrize("n", range(2))
def test_a_server_each(cache, n):
    assert UP
    assert say(os.environ["REDIS_URL"], b"INCR n\\r\\n") == b":1\\r\\n"

def test_else_the_one_from_the_start():
    assert is_up(os.environ["REDIS_URL"])
"""
    )
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize(
    "argument", ["--collect-only", "--fixtures", "--help", "--version", "--markers"]
)
def test_nothing_starts_where_no_test_runs(run, pytester, argument: str) -> None:
    pytester.makeini(INI)
    pytester.makeconftest(
        """
import os, pytest_containers as pc
db = pc.session_service("redis", image="host:", endpoint="DB", name="db")
assert db.url() == os.environ["DB"]
"""
    )
    trace = pytester.path / "trace"
    result = run("def test_it(cache): pass", argument, "--containers-debug", str(trace))
    assert result.ret == 0
    assert not trace.exists()
    if argument == "--fixtures":
        result.stdout.fnmatch_lines(["cache *"])


SPY = """
import sys
from pytest_containers.runtime import launch
original = launch._launch

def recorded():
    with open("launches", "a") as file:
        print("pytest_containers.plugin.session_services" in sys.modules, file=file)
    return original()

launch._launch = recorded
"""


def test_the_run_is_launched_once_and_before_its_options_are_known(run, pytester) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(spy=SPY)
    pytester.syspathinsert()
    result = run("def test_it(cache): assert cache.url()", "-p", "spy")
    result.assert_outcomes(passed=1)
    assert (pytester.path / "launches").read_text() == "False\n"


@pytest.mark.parametrize("argument", ["--collect-only", "--containers-engine=docker"])
def test_nothing_is_launched_without_use(run, pytester, argument: str) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(spy=SPY)
    pytester.syspathinsert()
    run("def test_it(cache): pass", "-p", "spy", argument)
    assert not (pytester.path / "launches").exists()


@pytest.mark.parametrize("place", ["ini", "conftest"])
def test_a_server_that_does_not_start_is_one_error(run, pytester, place: str) -> None:
    if place == "ini":
        pytester.makeini(INI.rstrip() + " arguments=--nonsense arguments=1\n")
    else:
        pytester.makeconftest(CONFTEST.replace('"host:"', '"host:", arguments=["--nonsense", "1"]'))
    result = run("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    error = result.stderr.str()
    assert "session service 'cache' (" in error
    assert "was not started" in error
    assert "Bad directive" in error  # by the server itself
    assert "Traceback" not in error + result.stdout.str()
    assert "session_services.py" not in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cache", "it must be 'NAME = SERVICE[@IMAGE] OPTION=VALUE"),
        ("cache = redis@", "it must be 'NAME = SERVICE[@IMAGE] OPTION=VALUE"),
        ("cache = redis pasword=x", "did you mean 'password'?"),
        ("cache = redi", "there is no service 'redi'"),
        ("cache = redis database=x", "database must be a number"),
        ("cache = redis init=perhaps", "init must be yes or no"),
        ("cache = redis password=x password=y", "'password' may stand there once only"),
        ("cache = redis ready=log", "ready has no form in an ini file"),
        ("cache = redis per_worker=yes endpoint=6379", "per_worker=True cannot have a fixed port"),
        ("db = postgres isolation=database endpoint=X", "cannot have an endpoint"),
    ],
)
def test_lines_that_are_not_usable(run, pytester, line: str, message: str) -> None:
    pytester.makeini(f"[pytest]\ncontainers_services = {line}\n")
    result = run("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_two_of_one_name(run, pytester) -> None:
    pytester.makeini(INI)
    pytester.makeconftest(CONFTEST.replace("REDIS_URL", "OTHER"))
    result = run("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "session service 'cache' (conftest.py:2) is already declared in" in result.stderr.str()


def test_ctrl_c_while_it_starts(load, pytester) -> None:
    pytester.makeconftest(
        """
import time
import pytest_containers as pc

def slow(redis):
    open("seeding", "w").close()
    time.sleep(1000)

cache = pc.session_service("redis", image="host:", seed=slow)
"""
    )
    command = [sys.executable, "-m", "pytest", *load]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not pytester.path.joinpath("seeding").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "Interrupted while session service 'cache' was starting" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "2"])
def test_a_fixed_port_is_shared_by_all_workers(run, pytester, workers: str) -> None:
    port = free_port()
    pytester.makeini(INI.replace("REDIS_URL", f"{port} endpoint=REDIS_URL"))
    result = run(
        LOOKS_AT_IMPORT.replace('os.environ["REDIS_URL"]', f'"127.0.0.1:{port}"'), "-n", workers
    )
    result.assert_outcomes(passed=4)


REFUSED = """
import pytest_containers as pc
cache = pc.services.Redis.fixture(image="host:", endpoint="REDIS_URL")
"""


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.long), "2"])
@pytest.mark.long
def test_an_endpoint_that_refused_is_named_in_the_summary(run, pytester, workers: str) -> None:
    pytester.makeconftest(REFUSED)
    test = """
import os
from say import is_up

@pytest.mark.skipif(not is_up(os.environ["REDIS_URL"]), reason="no server")
def test_it(): pass
"""
    result = run(test, "-n", workers)
    assert result.ret == 0
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["*endpoints without a container*", "WARNING: endpoint of fixture 'cache' (127.0.0.1:*"]
    )
    assert "make it a session service" in result.stdout.str()
    result = run(test, "-n", workers, "--containers-strict")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR: endpoint of fixture 'cache'" in result.stdout.str()


def test_refusals_of_clients_in_c_are_found_in_reports(run, pytester) -> None:
    """libpq, for one, connects where Python does not see it; its message has the port."""
    pytester.makeconftest(REFUSED)
    pytester.makeini("[pytest]\ncontainers_strict = yes\n")
    result = run(
        """
import os
PORT = os.environ["REDIS_URL"].rpartition(":")[2]
pytest.skip(f"server at 127.0.0.1, port {PORT} failed: Connection refused", allow_module_level=True)
"""
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "refused a connection while no container was behind it" in result.stdout.str()


@pytest.mark.long
def test_a_served_endpoint_is_not_named(run, pytester) -> None:
    pytester.makeconftest(REFUSED)
    result = run(
        """
import os
from say import is_up

def test_it(cache):
    assert is_up(os.environ["REDIS_URL"])
""",
        "--containers-strict",
    )
    assert result.ret == 0
    assert "endpoints without a container" not in result.stdout.str()


@pytest.mark.long
def test_a_fixed_port_of_a_fixture(run, pytester) -> None:
    port = free_port()
    pytester.makeconftest(REFUSED.replace('"REDIS_URL"', str(port)))
    result = run(
        f"""
from say import say

@pytest.mark.parametrize("n", range(2))
def test_it(cache, n):
    assert say("127.0.0.1:{port}", b"INCR n\\r\\n") == b":1\\r\\n"
"""
    )
    result.assert_outcomes(passed=2)


@pytest.mark.long
def test_a_fixed_port_that_another_worker_has(run, pytester) -> None:
    port = free_port()
    pytester.makeconftest(REFUSED.replace('"REDIS_URL"', str(port)))
    result = run(
        """
import time

@pytest.mark.parametrize("n", range(2))
def test_it(request, n):
    try:
        request.getfixturevalue("cache")
        while not glob("failed"):
            time.sleep(0.02)
    except pc.StartError:
        open("failed", "w").close()
        raise

def glob(name):
    import os
    return os.path.exists(name)
""",
        "-n", "2",
    )  # fmt: skip
    result.assert_outcomes(passed=1, failed=1)
    message = (
        f"host port {port}/tcp on 127.0.0.1: it is taken by fixture 'cache' in worker gw?, of this "
        'run; share one container between all tests and workers with isolation="none"'
    )
    result.stdout.fnmatch_lines([f"*{message}*"])


def test_a_fixed_port_that_another_process_has(run, pytester) -> None:
    port = free_port()
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(1, flush=True); s.accept()"
    pytester.makeconftest(REFUSED.replace('"REDIS_URL"', str(port)))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        result = run("def test_it(cache): pass")
        process.kill()
    result.assert_outcomes(errors=1)
    assert f"it is taken by process {process.pid}: " in result.stdout.str()
