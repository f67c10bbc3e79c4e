"""A shard's first database: ``python -m benchmarks.fleets [--rounds N] [--write FILE]``.

A seeded PostgreSQL of this machine's packages, from the request, with an engine that has started
nothing yet, to the answer of its first query. Each value is of a new process with an empty store,
but for the one that has the state already.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine
from benchmarks.measure import Case, Result, interleave
from benchmarks.pull import fresh, milliseconds, registry

TABLES = 50
SQL = "".join(
    f"create table t{n} (a int primary key, b text); "
    f"insert into t{n} select g, repeat(md5(g::text), 3) from generate_series(1, 1500) g; "
    for n in range(TABLES)
)
SHARD = """
import sys, time
import pytest_containers as pc
from pytest_containers.model.sharing import SharedPlace, Sharing
home, place, folder = sys.argv[1:]
warnings = []
sharing = Sharing(states=SharedPlace(place), warn=warnings.append) if place else None
with pc.Engine(home=home, sharing=sharing) as engine:
    service = pc.services.Postgres(image="host:")
    began = time.perf_counter()
    db = service.start(engine, seed="schema.sql", project=folder)
    assert db.sql("select count(*) from t0") == [["1500"]]
    print((time.perf_counter() - began) * 1000)
assert not warnings, warnings
"""


def main() -> None:
    """Measure, print, and write a page of the documentation if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleets")
    parser.add_argument("--rounds", type=int, default=10, help="values per case (10)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    machine.leave_hybrid_cgroups()
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name,
        registry(Path(name)) as address,
    ):
        lines = report(Path(name), address, arguments.rounds)
    print("\n".join(lines))
    if arguments.write is not None:
        arguments.write.write_text("\n".join(lines) + "\n")


def report(work: Path, address: str, rounds: int) -> list[str]:
    """Everything, as a Markdown page."""
    (work / "schema.sql").write_text(SQL)
    place = f"{address}/ci/states"
    stored = work / "stored"
    shard(work, stored, place)
    blobs = layers_of(f"http://{address}/v2/ci/states")

    def transfer() -> None:
        for url in blobs:
            with urllib.request.urlopen(url) as response:
                shutil.copyfileobj(response, Null())

    def on_empty(where: str) -> Callable[[], float]:
        def sample() -> float:
            home = fresh(work, "shard") / "home"
            return shard(work, home, where)

        return sample

    case = Case(
        "first database of a shard",
        {
            "seed in the store": lambda: shard(work, stored, place),
            "seed in the registry": on_empty(place),
            "seed made": on_empty(""),
            "transfer alone": lambda: milliseconds(transfer),
        },
    )
    size = sum(int(urllib.request.urlopen(url).headers["Content-Length"]) for url in blobs)
    return page(interleave(case, rounds, warm_up=1), size, rounds)


def shard(work: Path, home: Path, place: str) -> float:
    """One job of a fleet; returns the milliseconds from its request to its first answer."""
    command = [sys.executable, "-c", SHARD, str(home), place, str(work)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def layers_of(base: str) -> list[str]:
    """Return the addresses of the layers of all states."""

    def document(path: str) -> dict[str, list[dict[str, str]]]:
        accept = (
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
        )
        request = urllib.request.Request(f"{base}/{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request) as response:
            answer: dict[str, list[dict[str, str]]] = json.load(response)
        return answer

    found = []
    for tag in document("tags/list")["tags"]:
        name = str(tag)
        if name.startswith("state-") and name.count("-") == 1:
            for entry in document(f"manifests/{name}")["manifests"]:
                layers = document(f"manifests/{entry['digest']}")["layers"]
                found += [f"{base}/blobs/{layer['digest']}" for layer in layers]
    return found


class Null:
    """Takes bytes and keeps none."""

    def write(self, data: bytes) -> int:
        """Take `data`."""
        return len(data)


def page(results: list[Result], size: int, rounds: int) -> list[str]:
    """The table and what it was measured on."""
    medians = {result.who: statistics.median(result.values) for result in results}
    extra = medians["seed in the registry"] - medians["seed in the store"]
    lines = [
        "# Benchmarks of fleets",
        "",
        f"Made by `python -m benchmarks.fleets --rounds {rounds}`, with `--write` for this page:",
        f"PostgreSQL with a seed of {TABLES} tables, from the request (`Postgres(...).start`) in a new",
        "process to the answer of the first query, with the start of the run, and a registry on",
        "loopback. With an empty store two states are fetched, at once and while they are unpacked:",
        "the empty database and the seed on top of it. What was made is pushed afterwards.",
        "",
        "| work | who | median | lowest to highest | values |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        lines.append(
            f"| {result.case} | {result.who} | {result.median:.0f} ms | "
            f"{min(result.values):.0f} to {max(result.values):.0f} | {len(result.values)} |"
        )
    lines += [
        "",
        f"The state has {size / 1e6:.1f} MB compressed. From the registry it costs {extra:.0f} ms more",
        "than from the store, with the transfer.",
    ]
    return [*lines, *machine.table()]


if __name__ == "__main__":
    main()
