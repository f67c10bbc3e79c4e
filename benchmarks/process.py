"""A fresh seeded PostgreSQL of the process engine beside one that is started by hand.

Both run until a client has its answer to a start message. Run it as an ordinary user, or as root
on a machine with the user ``postgres``: ``python benchmarks/process.py [ROUNDS]``.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine

ROUNDS = 15


def seed(db: pc.services.Postgres) -> None:
    """Make a table with a row."""
    db.sql("create table visit (name text); insert into visit values ('seeded')")


def answer(address: tuple[str, int]) -> None:
    """Wait until a server asks for a password, or lets in."""
    login = b"user\0containers\0database\0containers\0\0"
    message = struct.pack("!II", len(login) + 8, 196608) + login
    while True:
        try:
            with socket.create_connection(address, 5) as client:
                client.sendall(message)
                if client.recv(1) == b"R":
                    return
        except OSError:
            pass
        time.sleep(0.001)


def bare(command: list[str], port: int, user: str | None) -> float:
    """Start a server by hand; return how long it took."""
    began = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, user=user)
    answer(("127.0.0.1", port))
    took_s = time.perf_counter() - began
    server.send_signal(signal.SIGINT)
    server.wait()
    return took_s


def main() -> None:
    """Print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    user = "postgres" if os.geteuid() == 0 else None
    service = pc.services.Postgres(image="host:")
    times: dict[str, list[float]] = {"bare": [], "process": []}
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        create_engine("process") as engine,
    ):
        first = service.start(engine, seed=seed)
        args = first.container.command
        made = first.clone()  # its files, for the server by hand
        made.container.stop()
        data = Path(folder) / "data"
        shutil.copytree(made.container.view.place("/var/lib/postgresql/data"), data)  # type: ignore[attr-defined]
        made.container.remove()
        first.container.remove()
        os.chmod(folder, 0o711)
        if user is not None:
            ids = pwd.getpwnam(user)
            for path in (data, *data.rglob("*")):
                os.chown(path, ids.pw_uid, ids.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = {"/var/lib/postgresql/data": str(data), "port=5432": f"port={port}"}
        command = [words.get(word, word) for word in args]
        command = [
            f"unix_socket_directories={folder}/data" if "unix_socket" in word else word
            for word in command
        ]
        # As a fixture does it: the state is looked up once.
        base = engine.image(service.source())
        spec = dataclasses.replace(service.serve(base), image=first.container.image)
        for _ in range(rounds):
            time.sleep(0.2)
            times["bare"].append(bare(command, port, user))
            time.sleep(0.2)
            began = time.perf_counter()
            server = engine.run(spec)
            answer(server.address(5432))
            times["process"].append(time.perf_counter() - began)
            server.remove()
    for name, taken in times.items():
        middle, least = statistics.median(taken) * 1000, min(taken) * 1000
        print(f"{name:8} median {middle:6.1f} ms, least {least:6.1f} ms, {rounds} starts")
    ratio = statistics.median(times["process"]) / statistics.median(times["bare"])
    print(f"ratio    {ratio:.2f}")


if __name__ == "__main__":
    main()
