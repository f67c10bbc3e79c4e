"""pytest with `containers_engine`: fixtures, seeds, shared containers and xdist on a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import dockerd, inner

pytestmark = [pytest.mark.needs("docker", "root"), pytest.mark.slow]
Run = Callable[..., pytest.RunResult]

CODE = f"""
import socket
import pytest
import pytest_containers as pc

SERVER = (
    "import http.server as h; "
    "h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
)

def seed(container):
    container.write_text("/data/page", "seeded")

endpoint = pc.endpoint("web", 8000)
web = pc.container_fixture(
    {dockerd.IMAGE!r}, ["python3", "-c", SERVER], ports=[8000], workdir="/data", seed=seed,
    endpoint=endpoint,
)
shared = pc.container_fixture({dockerd.IMAGE!r}, ["sleep", "1000"], isolation="none")

def get(address):
    with socket.create_connection(address, 10) as client:
        client.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
        return b"".join(iter(lambda: client.recv(4096), b"")).rpartition(b"\\r\\n")[2]

@pytest.mark.parametrize("number", range(2))
def test_fresh(web, number):
    assert get(web.address(8000)) == b"seeded"
    assert get((endpoint.host, endpoint.port)) == b"seeded"
    web.write_text("/data/page", "changed")

@pytest.mark.parametrize("number", range(2))
def test_shared(shared, containers, number):
    shared.exec(["sh", "-c", "echo x >> /tmp/count"], check=True)
    print("shared", shared.id)
    assert containers.run({dockerd.IMAGE!r}, ["getent", "hosts", "shared"]).wait(60) == 0
"""


@pytest.fixture
def run(
    pytester: pytest.Pytester, daemon: dockerd.Daemon, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Run]:  # fmt: skip
    """Write a test file and run pytest on it with the docker engine."""
    monkeypatch.setenv("DOCKER_HOST", daemon.url)
    inner.prepare(monkeypatch, tmp_path / "home")

    def run(code: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess(*arguments, *inner.plugins(*arguments))

    with daemon.entered():
        yield run


def labelled(daemon: dockerd.Daemon) -> str:
    """Return the containers and networks in the daemon that are of any run."""
    label = "--filter=label=io.github.pytest-containers.run"
    return daemon.call("ps", "-aq", label) + daemon.call("network", "ls", "-q", label)


@pytest.mark.long
def test_fixtures_seeds_endpoints_and_shared_containers(run: Run, daemon: dockerd.Daemon) -> None:
    before = labelled(daemon)
    result = run(CODE, "--containers-engine=docker", "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [f"containers: pytest-containers *, docker engine at {daemon.url}*"]
    )
    again = run(CODE, "--containers-engine=docker", "-v")
    again.assert_outcomes(passed=4)
    again.stdout.fnmatch_lines(["*reused*"])
    assert labelled(daemon) == before


@pytest.mark.long
def test_workers_of_xdist_share(run: Run, daemon: dockerd.Daemon) -> None:
    before = labelled(daemon)
    result = run(CODE, "--containers-engine=docker", "-n2", "--dist=load", "-rP")
    result.assert_outcomes(passed=4)
    shown = {line for line in result.outlines if line.startswith("shared ")}
    assert len(shown) == 1
    assert labelled(daemon) == before


def test_no_engine_is_a_failure_or_a_skip(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "def test_it(containers): containers.run('a:1')\n"
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")
    failed = run(code, "--containers-engine=docker")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*nothing listens there: start Docker, or set DOCKER_HOST*"])
    skipped = run(code, "--containers-engine=docker", "--containers-required=no", "-rs")
    skipped.assert_outcomes(skipped=1)
    skipped.stdout.fnmatch_lines(["SKIPPED*nothing listens there*"])


@pytest.mark.long
def test_containers_that_cannot_be_kept(run: Run, daemon: dockerd.Daemon) -> None:
    before = labelled(daemon)
    code = f"def test_it(containers): containers.run({dockerd.IMAGE!r}, ['true']); assert False\n"
    result = run(code, "--containers-engine=docker", "--containers-keep=failed")
    result.stdout.fnmatch_lines(["*engine 'docker' has no capability 'keep'; use engine 'native'*"])
    assert labelled(daemon) == before
