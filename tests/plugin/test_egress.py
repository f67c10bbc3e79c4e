"""`egress` by container, scope and ini; and what the report of a failed test says without it."""

from __future__ import annotations

import pytest

from pytest_containers.runtime.network.outside import way_out

needs_way_out = pytest.mark.skipif(not way_out()[0], reason=way_out()[1])
HAS = """
def has_way_out(container):
    routes = container.exec(["cat", "/proc/net/route"], text=True, check=True).stdout
    return "00000000" in [row.split()[1] for row in routes.splitlines()]
"""
TRIES = """
TRY = (
    "import socket\\n"
    "for address in ('192.0.2.1', 'www.example.test'):\\n"
    "    try: socket.create_connection((address, 443), 5)\\n"
    "    except OSError: pass\\n"
)
app = pc.container_fixture("host:", ["sleep", "100"])

def test_fails(app):
    app.exec(["python3", "-c", TRY], check=True)
    assert False

def test_quiet(app): assert False
def test_not_ready(containers):
    containers.run("host:", ["python3", "-c", TRY + "raise SystemExit(3)"], ports=[80])
"""


@pytest.mark.parametrize(
    "workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.long)], ids=["plain", "xdist"]
)
def test_the_report_tells_what_was_refused(run, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    result = run(TRIES, *workers)
    result.assert_outcomes(failed=3)
    refused = [line for line in result.outlines if line.startswith("refused: ")]
    line = (
        "refused: it looked up www.example.test and it tried once to connect to an address "
        "outside; egress=True lets it reach other machines"
    )
    assert refused == [line, line]


@needs_way_out
def test_by_container_and_scope(run) -> None:
    result = run(
        HAS
        + """
import pytest
one = pc.container_fixture("host:", ["sleep", "100"], egress=True)
other = pc.container_fixture("host:", ["sleep", "100"])
wide = pc.container_fixture("host:", ["sleep", "100"], scope="module")
shut = pc.container_fixture("host:", ["sleep", "100"], scope="module", egress=False)

@pytest.fixture(scope="module", autouse=True)
def online(module_containers):
    module_containers.egress = True

def test_container(one, other):
    assert has_way_out(one) and not has_way_out(other)

def test_scope(wide, shut, other, containers):
    assert has_way_out(wide) and not has_way_out(shut) and not has_way_out(other)
    containers.egress = True
    assert has_way_out(containers.run("host:", ["sleep", "100"]))
    containers.run("host:", ["true"], network=False)
"""
    )
    result.assert_outcomes(passed=2)


@needs_way_out
@pytest.mark.long
def test_by_ini_and_command_line(run, pytester: pytest.Pytester) -> None:
    suite = (
        HAS
        + """
app = pc.container_fixture("host:", ["sleep", "100"])
shut = pc.container_fixture("host:", ["sleep", "100"], egress=False)

def test_app(app): assert has_way_out(app)
def test_shut(shut): assert not has_way_out(shut)
def test_no_network(containers):
    assert containers.run("host:", ["true"], network=False).wait(60) == 0
"""
    )
    pytester.makeini("[pytest]\ncontainers_egress = yes\n")
    run(suite).assert_outcomes(passed=3)
    pytester.makeini("[pytest]\n")
    run(suite).assert_outcomes(passed=2, failed=1)
    run(suite, "--containers-egress").assert_outcomes(passed=2, failed=1)  # it decides for all


@needs_way_out
def test_what_has_a_way_out_is_not_blamed(run) -> None:
    result = run(
        """
def test_fails(containers):
    c = containers.run("host:", ["sleep", "100"], egress=True)
    c.exec(["python3", "-c", "import socket; socket.create_connection(('2001:db8::1', 1), 5)"])
    assert False
"""
    )
    result.assert_outcomes(failed=1)
    assert "refused:" not in str(result.stdout)
