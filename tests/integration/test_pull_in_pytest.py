"""Images of a registry in test suites: fixtures, settings, and what the terminal shows."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.registry import Proxy, Rule
from helpers.timeline import data_of

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

Publish = Callable[[str], str]
SUITE = """
import pytest_containers as pc

app_image = pc.image_fixture("{image}")

@pc.container_fixture
def app(app_image):
    return pc.ContainerSpec(app_image)

def test_it(app):
    assert app.wait(60) == 0
    print("captured", app.logs().stdout)
"""


def arguments(*more: str) -> list[str]:
    base = ["-p", "pytest_containers.plugin", "-p", "no:randomly", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *base, *more]


@pytest.fixture
def suite(tmp_path: Path, proxy: Proxy, published: Publish) -> Callable[..., tuple[int, str]]:
    """Runs a suite that needs an image of a registry; its exit code and output.

    With `terminal` it has one, and that is told all that is shown on it so far.
    """
    name = f"{proxy.address}/{published('suite')}"
    (tmp_path / "test_suite.py").write_text(SUITE.format(image=name))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(*more: str, terminal: Callable[[str], object] | None = None) -> tuple[int, str]:
        environ = {
            **os.environ, "PYTEST_CONTAINERS_HOME": str(tmp_path / "store"), "TERM": "xterm",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }  # fmt: skip
        if terminal is None:
            done = subprocess.run(
                arguments(*more),
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environ,
                timeout=60,
            )
            return done.returncode, done.stdout + done.stderr
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            arguments(*more), stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environ
        )
        os.close(theirs)
        shown = bytearray()
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # the other side is closed
                break
            shown += data
            terminal(shown.decode(errors="replace"))
        os.close(ours)
        return child.wait(), shown.decode()

    return run


@pytest.mark.long
def test_a_line_in_logs(suite: Callable[..., tuple[int, str]], proxy: Proxy) -> None:
    code, text = suite()
    assert code == 0
    assert f"containers: pulled {proxy.address}/suite:1: " in text
    assert "captured" not in text
    code, text = suite()
    assert (code, text.count("containers: pulled")) == (0, 0)  # it is stored


@pytest.mark.long
def test_quiet_is_quiet(suite: Callable[..., tuple[int, str]]) -> None:
    code, text = suite("-q")
    assert (code, text.count("containers: pulled")) == (0, 0)


@pytest.mark.long
def test_bars_on_a_terminal(suite: Callable[..., tuple[int, str]], proxy: Proxy) -> None:
    is_drawn = threading.Event()

    def hold(body: bytes) -> bytes:
        is_drawn.wait(60)
        return body

    def look(shown: str) -> None:
        if "downloading" in shown:
            is_drawn.set()

    # The first is the configuration, before there is anything to draw.
    proxy.rules = [Rule("GET .*/blobs/"), Rule("GET .*/blobs/", times=3, body=hold)]
    code, text = suite(terminal=look)
    assert code == 0, text
    assert f"containers: pull {proxy.address}/suite:1" in text
    assert "downloading" in text
    assert "\x1b[3F\x1b[J" in text  # drawn again in place
    assert "containers: pulled" in text
    assert "captured" not in text


@pytest.mark.long
def test_a_worker_says_it_too(suite: Callable[..., tuple[int, str]]) -> None:
    code, text = suite("-p", "xdist", "-n", "2")
    assert code == 0, text
    assert text.count("containers: pulled") == 1


@pytest.mark.long
def test_policies_of_the_command_line(suite: Callable[..., tuple[int, str]], proxy: Proxy) -> None:
    code, text = suite("--containers-pull=never")
    assert code == 1
    assert "may not be pulled" in text
    assert suite()[0] == 0
    asked = len(proxy.requests)
    assert suite("--containers-pull=never")[0] == 0
    assert len(proxy.requests) == asked
    assert suite("--containers-pull=always")[0] == 0
    assert len(proxy.requests) == asked + 1
    code, text = suite("--containers-pull=sometimes")
    assert code == 4
    assert "one of missing, always, never" in text


@pytest.mark.long
def test_the_page_of_the_run_has_the_pull(
    suite: Callable[..., tuple[int, str]], proxy: Proxy, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    for pulls in ([("pull", f"{proxy.address}/suite:1", "")], []):  # then it is stored
        assert suite(f"--containers-report={page}")[0] == 0
        images = data_of(page)["images"]
        assert [(image["verb"], image["name"], image["error"]) for image in images] == pulls


@pytest.mark.long
def test_another_image_for_a_fixture(
    suite: Callable[..., tuple[int, str]], proxy: Proxy, published: Publish
) -> None:
    other = f"{proxy.address}/{published('suite/other')}"
    code, text = suite("-s", f"--containers-image=app_image={other}")
    assert code == 0, text
    assert "captured suite/other" in text
