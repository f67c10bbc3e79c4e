"""The docker engine beside the bare API: ``python -m benchmarks.docker [--rounds N]``.

Both create, start, wait for and remove a container of the same image, with the same daemon, which
has its bridge in a network namespace of its own; this process is in it. Needs root and dockerd.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import docker

from benchmarks import rootfs
from benchmarks.measure import Case, Result, interleave, timed
from benchmarks.peers import dockerd
from pytest_containers.engines.choose import create_engine
from pytest_containers.model.engine import Engine

IMAGE = "bench:1"
ENGINE, BARE = "docker engine", "bare API"
LIMIT = 1.1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docker")
    parser.add_argument("--rounds", type=int, default=15, help="values per case (15)")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    tar = rootfs.tarball(arguments.cache)
    with tempfile.TemporaryDirectory(prefix="bd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        results = report(tar, Path(name), arguments.rounds)
    print("\n".join(page(results)))
    sys.exit(0 if results else 1)


def report(tar: Path, work: Path, rounds: int) -> list[Result]:
    """All cases."""
    with dockerd(work) as (command, netns_fd):
        subprocess.run([*command, "import", str(tar), IMAGE], check=True, capture_output=True)
        if ctypes.CDLL(None).setns(netns_fd, 0x40000000):
            raise OSError("the network of the daemon cannot be entered")
        url = f"unix://{work}/docker.sock"
        client = docker.APIClient(url)
        with create_engine("docker", endpoint=url, home=work / "home") as engine:
            engine.start()
            try:
                return measure(engine, client, rounds)
            finally:
                client.close()


def measure(engine: Engine, client: docker.APIClient, rounds: int) -> list[Result]:
    """Interleave the engine and the bare API."""
    network = engine.create_network()
    bridge = getattr(network, "name")  # noqa: B009 - of this engine only
    image = engine.image(IMAGE)

    def ours(*command: str) -> None:
        with engine.run(image, command, network=network) as container:
            container.wait(60)

    def bare(*command: str) -> None:
        host = client.create_host_config(network_mode=bridge)
        created = client.create_container(IMAGE, list(command), host_config=host)
        client.start(created["Id"])
        client.wait(created["Id"])
        client.remove_container(created["Id"], force=True, v=True)

    def ours_exec() -> None:
        running.exec(["true"])

    def bare_exec() -> None:
        made = client.exec_create(running.id, ["true"])
        client.exec_start(made["Id"])
        # The output ends before the daemon knows the exit code.
        while client.exec_inspect(made["Id"])["ExitCode"] is None:
            pass

    with engine.run(image, ["sleep", "1000"], network=network) as running:
        cases = [
            Case(
                "create, start, wait, remove",
                {ENGINE: timed(lambda: ours("true")), BARE: timed(lambda: bare("true"))},
                limits={BARE: LIMIT},
            ),
            Case(
                "exec true",
                {ENGINE: timed(ours_exec), BARE: timed(bare_exec)},
                limits={BARE: LIMIT},
            ),
        ]
        results = [result for case in cases for result in interleave(case, rounds, warm_up=2)]
    network.remove()
    return results


def page(results: list[Result]) -> list[str]:
    """A table."""
    lines = ["| case | docker engine | bare API | ratio |", "|---|---|---|---|"]
    for ours, bare in zip(results[::2], results[1::2], strict=True):
        ratio = ours.median / bare.median
        lines.append(f"| {ours.case} | {ours.median:.1f} ms | {bare.median:.1f} ms | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
