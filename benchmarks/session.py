"""What a session service adds until collection starts: ``python -m benchmarks.session [--pairs N]``.

Each round starts pytest without the plugin, with the plugin and no container, with a session
service of Redis and with two of them, and Redis by itself, in turn. The state of the server is made
before. Times are from the start of the process to `pytest_collection`, or to Redis' first answer.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Case, Sample, interleave

CONFTEST = """
import os, time
def pytest_collection():
    with open(os.environ["STAMP"], "w") as file:
        file.write(repr(time.monotonic()))
"""
PLUGIN = ["-p", "pytest_containers.plugin"]
SERVICE = "    {name} = redis@host: endpoint={name}_URL\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session")
    parser.add_argument("--pairs", type=int, default=30, help="values per case (30)")
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        print("\n".join(report(Path(folder), pairs)))


def report(folder: Path, pairs: int) -> list[str]:
    """Measure all cases in turn, and return the lines of a table."""
    (folder / "home").mkdir(mode=0o700)
    cases: dict[str, Sample] = {
        "pytest without the plugin": pytest_case(folder, "plain", 0, []),
        "with the plugin, no container": pytest_case(folder, "unused", 0, PLUGIN),
        "with a session service": pytest_case(folder, "service", 1, PLUGIN),
        "with two session services": pytest_case(folder, "services", 2, PLUGIN),
        "redis-server by itself, to its answer": lambda: bare_redis(folder),
    }
    case = Case("until collection starts", cases)
    results = interleave(case, pairs)
    base = results[0].median
    lines = ["| | median, ms | quartiles | more than plain pytest, ms |", "|---|---|---|---|"]
    for result in results:
        low, high = result.quartiles
        more = result.median - base
        lines.append(
            f"| {result.who} | {result.median:.1f} | {low:.1f}, {high:.1f} | {more:+.1f} |"
        )
    return lines


def pytest_case(folder: Path, name: str, services: int, arguments: list[str]) -> Sample:
    """Return a function that runs pytest on an empty test, and returns the milliseconds."""
    project = folder / name
    project.mkdir()
    lines = "".join(SERVICE.format(name=f"cache{number}") for number in range(services))
    (project / "pytest.ini").write_text(
        "[pytest]\n" + (f"containers_services =\n{lines}" if lines else "")
    )
    (project / "conftest.py").write_text(CONFTEST)
    (project / "test_it.py").write_text("def test_it(): pass\n")
    stamp = project / "stamp"
    env = {**os.environ, "STAMP": str(stamp), "PYTEST_CONTAINERS_HOME": str(folder / "home")}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]

    def sample() -> float:
        began = time.monotonic()
        subprocess.run(command, cwd=project, env=env, check=True, stdout=subprocess.DEVNULL)
        return (float(stamp.read_text()) - began) * 1000

    return sample


def bare_redis(folder: Path) -> float:
    """Return the milliseconds from the start of redis-server to its first answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--save", "", "--dir", str(folder)]
    began = time.monotonic()
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as process:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(b"PING\r\n")
                    if sock.recv(100) == b"+PONG\r\n":
                        break
            except OSError:
                time.sleep(0.001)
        elapsed = time.monotonic() - began
        process.kill()
    return elapsed * 1000


if __name__ == "__main__":
    main()
