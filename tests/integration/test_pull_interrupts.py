"""Ctrl-C in a pull, whatever it waits for: an exit code, a store without remains, and a resumption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from helpers.layouts import Layout, digest, gzipped, layer, member, output
from helpers.registry import Proxy, Rule, upload

import pytest_containers as pc

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

_PULL = (
    "import sys; from pytest_containers.cli import main; sys.exit(main(['pull', *sys.argv[1:]]))"
)
_STALL_S = 60.0


class Pull:
    """A pull by the command line that is interrupted."""

    def __init__(self, name: str, home: Path) -> None:
        self._process = subprocess.Popen(
            ["env", "--default-signal", sys.executable, "-c", _PULL, name],
            env={**os.environ, "PYTEST_CONTAINERS_HOME": str(home)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def interrupt_when(self, condition: Callable[[], bool]) -> tuple[int, str]:
        """Send the signal of Ctrl-C; return exit code and output, far earlier than a stall ends."""
        end = time.monotonic() + 20
        while not condition() and time.monotonic() < end:
            time.sleep(0.01)
        self._process.send_signal(signal.SIGINT)
        try:
            shown, _ = self._process.communicate(timeout=_STALL_S / 3)
        finally:
            self._process.kill()
        return self._process.returncode, shown


@pytest.fixture
def big(proxy: Proxy, base: bytes, tmp_path: Path, plain_registry: str) -> tuple[str, str]:
    """An image with a layer of some megabytes; its name, and the path of the layer's blob."""
    top = layer([member("noise", os.urandom(4_000_000))])
    upload(f"{Layout(tmp_path / 'l').image([base, top])}:1", f"{plain_registry}/interrupted:1")
    return f"{proxy.address}/interrupted:1", f"blobs/{digest(gzipped(top))}"


def assert_clean(store: Path) -> None:
    assert os.listdir(store / "tmp") == []
    assert os.listdir(store / "images") == []


@pytest.mark.long
def test_while_a_layer_arrives(
    proxy: Proxy, big: tuple[str, str], own_engine: Callable[..., pc.Engine], tmp_path: Path
) -> None:
    name, blob = big
    store = tmp_path / "store"
    proxy.rules = [Rule(blob, cut_after=2_500_000), Rule(blob, delay_s=_STALL_S)]
    code, shown = Pull(name, store).interrupt_when(lambda: proxy.asked(blob) == 2)
    assert (code, "Traceback" in shown) == (130, False), shown
    assert_clean(store)
    assert [path.stat().st_size for path in (store / "partial").iterdir()] == [2_500_000]
    proxy.rules = []
    assert output(own_engine(), name, "echo whole") == "whole\n"
    resumed = [headers for _, path, headers in proxy.requests if blob in path]
    assert resumed[-1]["Range"] == "bytes=2500000-"


@pytest.mark.parametrize(
    "request_path", ["manifests/", pytest.param("blobs/", marks=pytest.mark.long)]
)
def test_while_the_registry_does_not_answer(
    proxy: Proxy, big: tuple[str, str], tmp_path: Path, request_path: str
) -> None:
    name, _ = big
    proxy.rules = [Rule(f"GET .*{request_path}", times=9, delay_s=_STALL_S)]
    pull = Pull(name, tmp_path / "store")
    code, shown = pull.interrupt_when(lambda: proxy.asked(f"GET .*{request_path}") > 0)
    assert (code, "Traceback" in shown) == (130, False), shown
    assert_clean(tmp_path / "store")


@pytest.mark.long
def test_while_another_process_has_the_layer(
    proxy: Proxy, big: tuple[str, str], tmp_path: Path
) -> None:
    name, blob = big
    store = tmp_path / "store"
    (store / "locks").mkdir(parents=True)
    with FileLock(store / "locks" / f"blob-{blob[len('blobs/sha256:') :]}.lock"):
        # The other layers are there as soon as nothing but the lock is waited for.
        pull = Pull(name, store)
        code, shown = pull.interrupt_when(lambda: any((store / "layers").glob("*/*/record.json")))
    assert (code, "Traceback" in shown) == (130, False), shown
    assert_clean(store)
