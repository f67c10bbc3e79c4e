"""Builds side by side: ``python -m benchmarks.build [--rounds N] [--write FILE]``.

The same Dockerfiles on the same base: by us, by Docker (its classic builder and BuildKit, both with
the daemon running already) and by buildah. RUN is in the host's network for all of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest_containers as pc
from benchmarks import machine
from benchmarks.measure import Case, Result, interleave
from benchmarks.peers import dockerd

BASE = "bench-base:1"
FILES = 2_000
STEPS = ["ENV A=1", "WORKDIR /app"] + [
    line
    for number in range(9)
    for line in (f"RUN echo {number} > /made-{number}", f"COPY d{number} /app/d{number}/")
]
CACHED = "\n".join([f"FROM {BASE}", *STEPS[:17], "COPY . /app/", 'CMD ["true"]']) + "\n"
INSTALL = f"""\
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends curl
COPY d0 /a/
COPY d1 /b/
COPY d2/f0 /c
"""
CLI = "from pytest_containers.cli.main import main; raise SystemExit(main())"
Build = Callable[[Path, bool], object]
"""Builds a context; whether what was built before may be used."""


def main() -> None:
    """Measure, print, and write a page of the documentation if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build")
    parser.add_argument("--rounds", type=int, default=10, help="values of a cached build (10)")
    parser.add_argument("--slow-rounds", type=int, default=3, help="values of an uncached one (3)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    machine.leave_hybrid_cgroups()
    tar = base(arguments.cache)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        lines = report(tar, Path(name), arguments)
    print("\n".join(lines))
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


def base(cache: Path) -> Path:
    """A minimal Debian."""
    tar = cache / "minbase.tar"
    if not tar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = tar.with_name("draft.tar")
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(draft)], check=True
        )
        draft.rename(tar)
    return tar


def fill(folder: Path) -> None:
    """A context of `FILES` files in ten directories."""
    for number in range(10):
        (folder / f"d{number}").mkdir(parents=True)
        for file in range(FILES // 10):
            (folder / f"d{number}" / f"f{file}").write_text(f"{number} {file}\n" * 50)


def report(tar: Path, work: Path, arguments: argparse.Namespace) -> list[str]:
    """Everything, as a Markdown page."""
    cached, install, changed = (work / name for name in ("cached", "install", "changed"))
    for folder, text in ((cached, CACHED), (install, INSTALL), (changed, CACHED)):
        fill(folder)
        (folder / "Dockerfile").write_text(text)
    with ExitStack() as stack:
        builders = stack.enter_context(everybody(tar, work))
        for build in builders.values():
            build(cached, True)
            build(changed, True)
        time.sleep(3)  # what has just been written is not believed to be unchanged
        builders["ours"](cached, True)
        results = interleave(
            Case("20 instructions, all cached", timed(builders, cached, cached=True)),
            arguments.rounds, warm_up=1,
        )  # fmt: skip
        results += interleave(
            Case("one file of 2,000 changed", changing(builders, changed)),
            arguments.rounds, warm_up=1,
        )  # fmt: skip
        results += interleave(
            Case("apt-get install and three COPY, nothing cached",
                 timed(builders, install, cached=False)),
            arguments.slow_rounds, warm_up=0,
        )  # fmt: skip
        reading = walk(cached)
        ignored = large(builders["ours"], work)
    return page(results, reading, ignored, arguments)


def timed(
    builders: dict[str, Build], folder: Path, *, cached: bool
) -> dict[str, Callable[[], float]]:
    """Samples in milliseconds."""

    def sample(build: Build) -> float:
        return milliseconds(lambda: build(folder, cached))

    return {name: partial(sample, build) for name, build in builders.items()}


def changing(builders: dict[str, Build], folder: Path) -> dict[str, Callable[[], float]]:
    """The same after a change of what the last COPY but one copies."""
    count = 0

    def sample(build: Build) -> float:
        nonlocal count
        count += 1
        (folder / "d9" / "f7").write_text(f"changed {count}\n")
        return milliseconds(lambda: build(folder, True))

    return {name: partial(sample, build) for name, build in builders.items()}


@contextmanager
def everybody(tar: Path, work: Path) -> Iterator[dict[str, Build]]:
    """All who can build, with the base image; in a process that runs already, and by commands."""
    environ = {**os.environ, "PYTEST_CONTAINERS_HOME": str(work / "ours")}
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    with ExitStack() as stack:
        engine = stack.enter_context(pc.Engine(home=work / "ours"))
        engine.images.import_rootfs(tar, BASE, config)
        builders: dict[str, Build] = {
            "ours": lambda folder, cached: engine.build(
                folder, options=pc.BuildOptions(no_cache=not cached, network="host")
            ),
            "ours, command": command(
                [sys.executable, "-c", CLI, "build", "--network=host"], environ
            ),
        }
        docker, _ = stack.enter_context(dockerd(work, apart=False))
        subprocess.run([*docker, "import", str(tar), BASE], check=True, stdout=subprocess.DEVNULL)
        for name, buildkit in (("docker, BuildKit", "1"), ("docker, classic", "0")):
            environ = {**os.environ, "DOCKER_BUILDKIT": buildkit}
            builders[name] = command([*docker, "build", "--network=host"], environ)
        if shutil.which("buildah"):
            buildah = ["buildah", f"--root={work}/buildah", f"--runroot={work}/buildah-run"]
            made = subprocess.run(
                [*buildah, "from", "scratch"], check=True, capture_output=True, text=True
            ).stdout.strip()
            subprocess.run([*buildah, "add", made, str(tar), "/"], check=True, capture_output=True)
            subprocess.run([*buildah, "config", "--env", config["Env"][0], made], check=True)
            subprocess.run(
                [*buildah, "commit", "--rm", made, BASE], check=True, capture_output=True
            )
            bud = [*buildah, "bud", "--layers", "--isolation=chroot", "--network=host"]
            builders["buildah"] = command([*bud, "--pull-never"], dict(os.environ))
        yield builders


def command(words: list[str], environ: dict[str, str]) -> Build:
    """A builder that is a command."""

    def build(folder: Path, cached: bool) -> None:
        more = [] if cached else ["--no-cache"]
        done = subprocess.run(
            [*words, *more, str(folder)], env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{words[0]}: {done.stderr[-2000:]}")

    return build


def milliseconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def walk(folder: Path) -> float:
    """What reading a context costs at least: names and what stat(2) says, in milliseconds."""

    def look() -> None:
        for path, _, files in os.walk(folder):
            for file in files:
                os.stat(os.path.join(path, file))

    return statistics.median(milliseconds(look) for _ in range(9))


def large(build: Build, work: Path) -> tuple[float, float]:
    """A context of 1 GB of which .dockerignore leaves 1 MB: milliseconds and MB read from it."""
    folder = work / "large"
    (folder / "left").mkdir(parents=True)
    (folder / "out").mkdir()
    (folder / "left" / "file").write_bytes(os.urandom(1_000_000))
    for number in range(10):
        with (folder / "out" / str(number)).open("wb") as file:
            file.truncate(100_000_000)
    (folder / ".dockerignore").write_text("out\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    before = read_bytes()
    took = milliseconds(lambda: build(folder, False))
    return took, (read_bytes() - before) / 1e6


def read_bytes() -> int:
    """What this process has read so far (proc(5), rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


def page(
    results: list[Result], reading: float, ignored: tuple[float, float],
    arguments: argparse.Namespace,
) -> list[str]:  # fmt: skip
    """The tables and what they were measured on."""
    lines = [
        "# Benchmarks of builds",
        "",
        f"Made by `python -m benchmarks.build --rounds {arguments.rounds} --slow-rounds {arguments.slow_rounds} --write",
        "docs/reference/benchmarks-builds.md`: everybody in one run, in random order, on the same base.",
        "`ours` is in a Python process that runs already, as for a fixture; `ours, command` starts one,",
        "and a run. Below 1 means that we are faster.",
        "",
        "| work | who | median | lowest to highest | values | ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for result in results:
        mine = first.setdefault(result.case, result.median)
        ratio = "" if result.who.startswith("ours") else f"{mine / result.median:.2f}"
        lines.append(
            f"| {result.case} | {result.who} | {result.median:.0f} ms | "
            f"{min(result.values):.0f} to {max(result.values):.0f} | {len(result.values)} | {ratio} |"
        )
    lines += [
        "",
        f"Looking at the context of {FILES:,} files (names and times, nothing else) takes {reading:.0f} ms.",
        f"A context of 1 GB of which `.dockerignore` leaves 1 MB is built in {ignored[0]:.0f} ms;",
        f"{ignored[1]:.1f} MB are read meanwhile, of everything.",
    ]
    return [*lines, *machine.table()]


if __name__ == "__main__":
    main()
