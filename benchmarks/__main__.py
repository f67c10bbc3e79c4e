"""Run all benchmarks side by side: ``python -m benchmarks [--rounds N] [--write FILE]``."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest_containers as pc
from benchmarks import machine, ours, peers, rootfs
from benchmarks.measure import Case, Result, expect, interleave, nonce, timed

WITH_PLUGIN, WITHOUT = "with the plugin", "without"


def main() -> None:
    """Measure, print, and write a page of the documentation if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=30, help="values per case (30)")
    parser.add_argument(
        "--slow-rounds", type=int, default=5, help="values of the slowest cases (5)"
    )
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache/pytest-containers-benchmarks"
    )
    arguments = parser.parse_args()
    machine.leave_hybrid_cgroups()
    lines = report(arguments.rounds, arguments.slow_rounds, arguments.cache)
    print("\n".join(lines))
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


def report(rounds: int, slow_rounds: int, cache: Path) -> list[str]:
    """Everything, as a Markdown page."""
    tar = rootfs.tarball(cache)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        home = work / "home"
        with (
            pc.Engine(home=home) as engine,
            peers.all_installed(tar, work) as (others, missing),
        ):
            mine = ours.Ours(engine, f"rootfs:{tar}")
            results = measure(mine, others, rounds, slow_rounds, work, home)
            growth = ours.Growth(engine)
    command = f"python -m benchmarks --rounds {rounds} --slow-rounds {slow_rounds}"
    return page(results, growth, missing, command)


def measure(
    mine: ours.Ours,
    others: list[peers.Peer],
    rounds: int,
    slow_rounds: int,
    work: Path,
    home: Path,
) -> list[Result]:
    """All cases that are compared."""
    everybody: list[peers.Peer] = [mine, *others]

    def echo(do: Callable[[list[str]], bytes | None]) -> Callable[[], object]:
        def work() -> None:
            text = nonce()
            expect(text, do(["echo", text]) or b"")

        return work

    ports = itertools.count(18000)

    def serve(peer: peers.Peer) -> Callable[[], float]:
        def sample() -> float:
            port = next(ports)  # each time another: a server that was killed may still be there
            took = timed(lambda: peer.serve(port))()
            peer.stop()
            return took

        return sample

    cases = [
        Case("start to gone", {one.name: timed(echo(one.run)) for one in everybody}, rounds=rounds),
        Case("the same with a bound directory", {
            name: timed(partial(mine.run_with_bind, work, read_only=name == "read-only"))
            for name in ("read-only", "writable")
        }, rounds=rounds),
        Case(
            "start to gone, its system calls filtered or not",
            {"filtered": timed(echo(mine.run)),
             "seccomp=unconfined": timed(echo(mine.run_unfiltered))},
            rounds=rounds,
        ),
        Case(
            "start to gone, with limits or not",
            {"mem_limit and pids_limit": timed(echo(mine.run_limited)),
             "no limits": timed(echo(mine.run))},
            rounds=rounds,
        ),
        Case("exec", {one.name: timed(echo(one.exec)) for one in everybody}, rounds=rounds),
        Case("HTTP server, asked for to connected", {one.name: serve(one) for one in everybody}, rounds=rounds),
        Case("first container of a cold run", {"ours": ours.cold(home, "host:")}, rounds=rounds),
        Case(
            "pytest with one plain test",
            {WITH_PLUGIN: ours.unused(work, home, loaded=True),
             WITHOUT: ours.unused(work, home, loaded=False)},
            rounds=rounds,
        ),
        Case(
            "100 tests with a container each",
            {"plain": ours.suite(work, home, 0), "xdist -n 2": ours.suite(work, home, 2)},
            unit="s", rounds=slow_rounds,
        ),
    ]  # fmt: skip
    results = []
    for case in cases:
        print(f"measuring: {case.name}", file=sys.stderr)
        results += interleave(case, rounds, warm_up=2)
    return results


def page(results: list[Result], growth: ours.Growth, missing: list[str], command: str) -> list[str]:
    """The table and what it was measured on."""
    lines = [
        "# Benchmarks",
        "",
        f"Made by `{command} --write docs/reference/benchmarks.md`: everybody measured in one run,",
        "in random order, after a warm-up; medians with quartiles. Below 1 means that we are faster.",
        "",
        "| work | who | median | quartiles | values | ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for result in results:
        mine = first.setdefault(result.case, result.median)
        low, high = result.quartiles
        ratio = (
            ""
            if result.median == mine
            else f"{mine / result.median:.3f} (1 / {result.median / mine:.1f})"
        )
        lines.append(
            f"| {result.case} | {result.who} | {result.median:.2f} {result.unit} | "
            f"{low:.2f} to {high:.2f} | {len(result.values)} | {ratio} |"
        )
    loaded, without = (
        next(one.values for one in results if one.who == who) for who in (WITH_PLUGIN, WITHOUT)
    )
    costs = statistics.median(a - b for a, b in zip(loaded, without, strict=True))
    starts = growth.starts_ms
    early, middle, late = (
        statistics.median(starts[at : at + 10]) for at in (1, 95, len(starts) - 10)
    )
    lines += [
        "",
        f"A plugin that is not used costs {costs:.1f} ms: the median difference of {len(loaded)} pairs.",
        "",
        (
            f"A live idle container costs {growth.kib_each / 1024:.2f} MiB beside its own program (change of "
            f"MemAvailable over {len(starts)}, less that of as many plain programs)."
        ),
        "",
        (
            f"A start takes {starts[0]:.2f} ms for the first, and in medians of ten {early:.2f} ms after it, "
            f"{middle:.2f} ms around the 100th and {late:.2f} ms up to the {len(starts)}th."
        ),
        "",
        "Docker has its own bridge here (in a network namespace of its own, without iptables), Podman,",
        "runc, crun and bwrap have none, all of them that of the host (Docker: its daemon's) for the",
        "HTTP server. Our containers always have one of their own, which the test reaches.",
        "",
    ]
    lines += [f"Not measured: {reason}" for reason in missing]
    return [*lines, *machine.table()]


if __name__ == "__main__":
    main()
