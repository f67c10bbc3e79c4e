"""A PostgreSQL beside a container that takes all it can get (`whole` runs it).

``python neighbour.py HOME SECONDS ROUNDS`` measures a transaction of two statements, first alone
and then beside each hog and all of them in one container, in turn in each round. It prints a JSON
object for each: median, mean and 95th percentile of all transactions in milliseconds, and their
ratios to those alone.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg

import pytest_containers as pc

# In processes of their own, which go on whatever the kernel refuses or kills.
HOGS = """
import os, sys, time

def forks():
    while True:
        os.fork()

def memory():
    held = [bytearray(1 << 20) for _ in range(4000)]

def disk():
    fd = os.open("/srv/all", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(fd, bytes(1 << 20))
    finally:
        os.ftruncate(fd, 0)

def log():
    while True:
        os.write(1, b"a line that fills the log\\n" * 1000)

def again(hog):
    while True:
        try:
            if os.fork() == 0:
                while True:
                    try:
                        hog()
                    except OSError:
                        pass
            os.wait()
        except OSError:
            time.sleep(0.01)

for name in sys.argv[1:]:
    if os.fork() == 0:
        again(globals()[name])
time.sleep(1000)
"""
LIMITS = {"pids_limit": 200, "mem_limit": "256m", "scratch_size_bytes": 128 << 20}
ALL = ["memory", "disk", "log", "forks"]  # the last takes all processes
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "alone": ([], {}),
    "fork bomb": (["forks"], LIMITS),
    "memory hog": (["memory"], LIMITS),
    "disk hog": (["disk"], LIMITS),
    "log flood": (["log"], LIMITS),
    "all four": (ALL, LIMITS),
    "all four, cpus=1": (ALL, {**LIMITS, "cpus": 1}),
}


@contextlib.contextmanager
def beside(engine: pc.Engine, hogs: list[str], options: dict[str, Any]) -> Iterator[None]:
    """Have a container with these hogs, if there are any, while the context lasts."""
    if not hogs:
        yield
        return
    command = ["python3", "-c", HOGS, *hogs]
    with engine.run("host:", command, wait_ready=False, **options) as container:
        time.sleep(0.3)
        yield
        assert container.exit_code is None, container.logs()


def transactions(connection: psycopg.Connection[Any], seconds: float) -> list[float]:
    """Return the milliseconds that each transaction took."""
    took = []
    end = time.perf_counter() + seconds
    number = 0
    while (start := time.perf_counter()) < end:
        number = number * 7919 % 1000 + 1
        with connection.transaction():
            connection.execute("update account set balance = balance + 1 where id = %s", [number])
            connection.execute("select balance from account where id = %s", [number]).fetchone()
        took.append((time.perf_counter() - start) * 1000)
        time.sleep(0.001)
    return took


def main(home: str, seconds: str, rounds: str) -> None:
    """Measure and print."""
    took: dict[str, list[float]] = {name: [] for name in CASES}
    with pc.Engine(home=home) as engine:
        database = pc.services.Postgres(image="host:").start(engine)
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("create table account (id integer primary key, balance integer)")
            connection.execute("insert into account select n, 0 from generate_series(1, 1000) n")
            transactions(connection, 1)
            for _ in range(int(rounds)):
                for name, (hogs, options) in CASES.items():
                    with beside(engine, hogs, options):
                        took[name] += transactions(connection, float(seconds))
    alone = figures(took["alone"])
    for name, values in took.items():
        found = figures(values)
        found |= {f"{key} / alone": found[key] / alone[key] for key in alone}
        rounded = {key: round(value, 3) for key, value in found.items()}
        print(json.dumps({"beside": name, "transactions": len(values), **rounded}), flush=True)


def figures(values: list[float]) -> dict[str, float]:
    """Return median, mean and 95th percentile."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "p95": statistics.quantiles(values, n=20)[-1],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
