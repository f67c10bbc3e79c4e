"""Fixed addresses that lead to one container after the other."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

APP = """
import os, socket
ADDRESS = (os.environ["SITE_HOST"], int(os.environ["SITE_PORT"]))

def say(text=b"hello", sock=None):
    with socket.create_connection(ADDRESS, timeout=60) as sock:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(100), b""))
"""
SERVER = """
import socket, threading, uuid
TOKEN = uuid.uuid4().hex.encode()
server = socket.create_server(("", 7000))
def serve(sock):
    while data := sock.recv(100):
        sock.sendall(TOKEN + b" " + data)
    sock.close()
while True:
    sock, _ = server.accept()
    threading.Thread(target=serve, args=[sock], daemon=True).start()
"""
CONFTEST = f"""
import pytest_containers as pc
pc.endpoint("site", 7000)
import app
site = pc.container_fixture("host:", ["python3", "-c", {SERVER!r}], ports=[7000])
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(app=APP)
    pytester.makeconftest(CONFTEST)
    return pytester


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.long
def test_settings_that_are_read_early_lead_to_the_tests_own(run, project, workers: str) -> None:
    result = run(
        """
import app, time

@pytest.mark.parametrize("n", range(6))
def test_it(site, n):
    token, said = app.say().split()
    assert said == b"hello"
    assert app.say().split()[0] == token
    with site.connect(7000) as sock:
        sock.sendall(b"x")
        assert sock.recv(100).split()[0] == token
    with open("tokens", "a") as file:
        file.write(token.decode() + "\\n")
""",
        "-n",
        workers,
    )
    result.assert_outcomes(passed=6)
    tokens = (project.path / "tokens").read_text().split()
    assert len(set(tokens)) == 6


def test_connections_of_the_last_test_are_reset(run, project) -> None:
    result = run(
        """
import app, socket
kept = []

def test_first(site):
    kept.append(socket.create_connection(app.ADDRESS, timeout=60))
    kept[0].sendall(b"x")
    assert kept[0].recv(100)

def test_second(site):
    with pytest.raises(ConnectionResetError):
        kept[0].recv(100)
    assert app.say()
""",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.long
def test_without_a_container_it_is_refused_and_the_log_says_why(run, project) -> None:
    result = run(
        """
import app

def test_before():
    app.say()

def test_with(site):
    assert app.say()

def test_between():
    app.say()

def test_after(site):
    assert not app.say()
""",
    )
    result.assert_outcomes(passed=1, failed=3)
    output = result.stdout.str()
    assert output.count("forwards to the container of fixture 'site' and refuses connections") >= 2
    assert "1 came while no test had one" in output


def test_an_address_used_while_tests_are_collected_is_explained(run, project) -> None:
    result = run("import app\napp.say()\n")
    result.assert_outcomes(errors=1)
    assert "forwards to the container of fixture 'site'" in result.stdout.str()


def test_in_the_ini_file_for_settings_that_plugins_read(run, pytester) -> None:
    pytester.makeini(
        "[pytest]\ncontainers_endpoint = site:7000 SITE=tcp://{host}:{port}/x OTHER={port}\n"
    )
    pytester.makeconftest(
        f"""
import os, pytest_containers as pc
SITE, OTHER = os.environ["SITE"], os.environ["OTHER"]
assert SITE == f"tcp://127.0.0.1:{{OTHER}}/x"
site = pc.container_fixture("host:", ["python3", "-c", {SERVER!r}], ports=[7000])
"""
    )
    result = run(
        """
import os, socket

def test_it(site):
    with socket.create_connection(("127.0.0.1", int(os.environ["OTHER"]))) as sock:
        sock.sendall(b"x")
        assert sock.recv(100).endswith(b" x")
"""
    )
    result.assert_outcomes(passed=1)


@pytest.mark.needs("memcached")
@pytest.mark.long
def test_two_services_of_a_kind_have_an_address_each(run, pytester) -> None:
    pytester.makeconftest(
        """
import pytest_containers as pc
one = pc.services.Memcached.fixture(image="host:", endpoint="ONE")
two = pc.services.Memcached.fixture(image="host:", endpoint={"TWO": "{host}:{port}"})
"""
    )
    result = run(
        """
import os, socket

def say(address, text):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.rpartition("/")[2], int(port)), timeout=60) as sock:
        sock.sendall(text)
        return sock.recv(100)

def test_it(one, two):
    assert say(os.environ["ONE"], b"set a 0 0 1\\r\\nx\\r\\n") == b"STORED\\r\\n"
    assert say(os.environ["TWO"], b"get a\\r\\n") == b"END\\r\\n"
    assert b"VALUE a" in say(os.environ["ONE"], b"get a\\r\\n")
"""
    )
    result.assert_outcomes(passed=1)


def test_two_fixtures_cannot_set_one_variable(run, pytester) -> None:
    """Told with both; a file that is imported again sets its own once more."""
    pytester.makeconftest(
        """
import pytest_containers as pc
one = pc.services.Memcached.fixture(image="host:", endpoint="URL")
"""
    )
    pytester.makepyfile(
        again="""
import pytest_containers as pc
other = pc.services.Memcached.fixture(image="host:", endpoint="OTHER")
"""
    )
    result = run(
        """
import again, importlib
importlib.reload(again)

two = pc.services.Redis.fixture(
    image="host:", endpoint={"URL": "{url}"},
)
"""
    )
    assert result.ret != 0
    name = "test_two_fixtures_cannot_set_one_variable.py"
    assert (
        f"endpoint of fixture 'two' ({name}:7): variable URL is already set by the endpoint of "
        "fixture 'one' (conftest.py:2); use another variable for one of them"
    ) in result.stdout.str()


@pytest.mark.needs("postgresql", "id range")
def test_an_endpoint_does_not_lead_to_databases_of_tests(run, pytester) -> None:
    pytester.makeini(
        "[pytest]\ncontainers_endpoint = db:5432 DB=postgresql://containers:containers@{host}:{port}/containers\n"
    )
    result = run(
        """
def test_it(db):
    pass

db = pc.services.Postgres.fixture(image="host:", isolation="database")
"""
    )
    result.assert_outcomes(errors=1)
    assert "fixture 'db': isolation='database' cannot have an endpoint: its" in result.stdout.str()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "pc.services.Postgres.fixture(endpoint='URL', isolation='database')",
            "isolation='database' cannot have an endpoint",
        ),
        (
            "pc.services.MariaDB.fixture(endpoint=pc.endpoint('db', 1), isolation='database')",
            "isolation='database' cannot have an endpoint",
        ),
        ("pc.endpoint('db', 5432); pc.endpoint('db', 5433)", "is already for port 5432"),
        ("pc.endpoint('db', 0)", "not a whole number from 1 to 65535"),
        ("pc.endpoint('db', 1, env={'X': '{nothing}'})", "may use {host}, {port} only"),
        ("pc.services.Redis.fixture(endpoint=5.0)", "endpoint=5.0 is not usable"),
    ],
)
def test_bad_endpoints(run, code: str, message: str) -> None:
    result = run(code)
    assert result.ret != 0
    assert message in result.stdout.str()


def test_a_bad_line_of_the_ini_file(run, pytester) -> None:
    pytester.makeini("[pytest]\ncontainers_endpoint = site\n")
    result = run("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "it must be 'fixture:port VARIABLE=value" in result.stderr.str()
