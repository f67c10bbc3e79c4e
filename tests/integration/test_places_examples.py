"""The README's examples in other places: each passes, or is skipped with what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.in_docker import FLAGS, InDocker

EXAMPLES = Path(__file__).parents[2] / "examples"
FAST = (
    "test_http_service.py", "test_own_service.py", "test_mail.py", "test_parallel.py",
    "test_build.py", "test_oci_bundle.py",
)  # fmt: skip
"""Without those that make a Debian, or take drivers of databases."""
NUMBER = 15
RUN = """
import os, pathlib, sys
import pytest
# The settings of examples/pytest.ini that need no other plugin.
pathlib.Path("/tmp/pytest.ini").write_text("[pytest]\\nfilterwarnings = error\\n")
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
plugins = ["-p", "no:cacheprovider", "-p", "pytest_containers.plugin"]
ini = ["-c", "/tmp/pytest.ini", "--rootdir=/examples", "--containers-engine=auto"]
sys.exit(pytest.main(["-rs", "--tb=short", *plugins, *ini, *sys.argv[1:]]))
"""
NATIVE, PROCESS = "native engine", "process engine: files confined, processes visible"
OF_PROCESS = {
    "engine 'process' has no capability 'shares'; use engine 'native' or 'docker'": 2,
    "engine 'process' has no capability 'builds'; use engine 'native' or 'docker'": 2,
    # This example makes a native engine by itself.
    "The seccomp filter around this process forbids it. Start the container with `--security-opt "
    "seccomp=unconfined": 2,
}
PLACES: dict[str, tuple[list[str], str, dict[str, int]]] = {
    "documented flags, root": ([*FLAGS, "--user=0:0"], NATIVE, {}),
    "documented flags, user": ([*FLAGS, "--user=4321:4321"], NATIVE, {}),
    "masked proc, root": ([FLAGS[0], "--user=0:0"], NATIVE, {}),
    "masked proc, user": ([FLAGS[0], "--user=4321:4321"], NATIVE, {}),
    "default flags, root": (["--user=0:0"], PROCESS, OF_PROCESS),
    "default flags, user": (["--user=1000:1000"], PROCESS, OF_PROCESS),
}
"""The options of `docker run`, the engine that ``auto`` takes, and what is skipped how often."""


def _skipped(output: str) -> dict[str, int]:
    """Return the reasons of skipped tests, with their numbers."""
    found: dict[str, int] = {}
    for count, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", output, re.M):
        found[reason] = found.get(reason, 0) + int(count)
    return found


@pytest.mark.needs("docker", "root", "postgresql", "redis", "smtp")
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_examples_pass_or_say_what_they_need(in_docker: InDocker, place: str) -> None:
    if not EXAMPLES.exists():
        pytest.skip("needs a checkout, with examples")
    options, engine, needed = PLACES[place]
    options = [f"--volume={EXAMPLES}:/examples:ro", *options]
    names = (f"/examples/{name}" for name in FAST)
    done = in_docker(RUN, "-k", "not own_database", *names, options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^containers: .*, {engine}", done.stdout, re.M)
    counts = {
        sentence: sum(
            number for reason, number in _skipped(done.stdout).items() if sentence in reason
        )
        for sentence in needed
    }
    assert counts == needed
    assert f"{NUMBER - sum(needed.values())} passed" in done.stdout
