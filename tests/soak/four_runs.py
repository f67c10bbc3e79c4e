"""Several pytest runs at once on one store, with workers each (`test_soak` runs it).

``python four_runs.py RUNS TESTS HOME TMP`` starts RUNS of pytest with ``-n 2``, all on a store that
is new, with TESTS tests each. It is the subreaper of all of them, and prints for each run its exit
code and what pytest said, and at the end what is left.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it for the tests

from helpers import leaks

from pytest_containers.images.store.store import Store
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS

SUITE = """
import os

import pytest
import pytest_containers as pc

TESTS = int(os.environ["SOAK_TESTS"])

redis = pc.services.Redis.fixture(image="host:", seed=lambda redis: redis.command("SET", "a", "1"))

built = pc.build_fixture("app", network="none")

@pytest.mark.parametrize("number", range(TESTS))
def test_container(containers, number):
    container = containers.run("host:", ["sh", "-c", f"echo {number}; exec sleep 1000"],
                               ready=pc.wait.log(str(number)))
    assert container.exec(["true"]).returncode == 0

@pytest.mark.parametrize("number", range(TESTS // 4))
def test_service(redis, number):
    assert redis.command("GET", "a") == "1"
    redis.command("SET", "a", "2")

@pytest.mark.parametrize("number", range(TESTS // 4))
def test_image(containers, built, number):
    assert containers.run(built, ["cat", "/srv/built"], wait_ready=False).wait(30) == 0
"""


def main(runs: str, tests: str, home: str, tmp: str) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)
    before = (leaks.mounts(), leaks.links())
    commands = []
    for number in range(int(runs)):
        folder = Path(tmp, str(number))
        (folder / "tmp").mkdir(parents=True)
        (folder / "test_suite.py").write_text(SUITE)
        (folder / "app").mkdir()
        (folder / "app" / "Dockerfile").write_text("FROM host:\nRUN echo built > /srv/built\n")
        environment = {
            **os.environ, "PYTEST_CONTAINERS_HOME": home, "SOAK_TESTS": tests,
            "TMPDIR": str(folder / "tmp"),
        }  # fmt: skip
        plugin = ["-p", "pytest_containers.plugin"] if os.environ.get("SOAK_LOAD_PLUGIN") else []
        command = [
            sys.executable,
            "-m",
            "pytest",
            *plugin,
            "-q",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            ".",
        ]
        commands.append(subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ))  # fmt: skip
    for process in commands:
        said, _ = process.communicate()
        print(json.dumps({"exit": process.returncode, "said": said[-3000:]}), flush=True)
    end = time.monotonic() + 5
    while (left := _left(*before)) and time.monotonic() < end:
        time.sleep(0.05)
    store = Store(Path(home))
    store.sweep()
    holds = (
        [path.name for path in Path(home, "holds").iterdir()]
        if Path(home, "holds").exists()
        else []
    )
    print(
        json.dumps({"left": left, "store tmp": os.listdir(Path(home, "tmp")), "holds": len(holds)})
    )


def _left(mounts: set[leaks.Mount], links: set[str]) -> list[str]:
    """Return the processes, mounts and links that are there now and should not be."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    alive = leaks.descendants(leaks.process_table()).values()
    return sorted(map(str, [*alive, *(leaks.mounts() - mounts), *(leaks.links() - links)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
