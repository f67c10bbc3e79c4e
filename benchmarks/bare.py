"""The floor: servers started on a prepared directory, without any container."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_containers.services import MariaDB, Postgres

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
AMQP = b"AMQP\x00\x00\x09\x01"
CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05ready"


@dataclass
class Bare:
    """A server of the machine's packages.

    Attributes:
        command: For its directory and port.
        request, answer: What it is asked, and what the beginning of a good answer contains.
        prepare: Makes its directory.
        user: Who runs it; None is whoever runs the benchmark.
    """

    command: Callable[[Path, int], list[str]]
    request: bytes
    answer: bytes
    prepare: Callable[[Path], None] = lambda folder: None
    user: str | None = None
    env: Callable[[Path, int], dict[str, str]] = lambda folder, port: {}

    def template(self, folder: Path) -> Path:
        """A prepared directory, to be copied for each start."""
        folder.mkdir()
        if self.user is not None:
            shutil.chown(folder, self.user, self.user)
        self.prepare(folder)
        return folder

    def sample(
        self, template: Path, ask: Callable[[int], None] | None = None
    ) -> Callable[[], float]:
        """Milliseconds from the start to an answer, and until it has ended."""

        def sample() -> float:
            folder = template.with_name("copy")
            if folder.exists():
                shutil.rmtree(folder)
            subprocess.run(["cp", "-a", template, folder], check=True)
            port = free_port()
            began = time.perf_counter()
            child = subprocess.Popen(
                self.command(folder, port), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, user=self.user, group=self.user, start_new_session=True,
                env={**os.environ, **self.env(folder, port)},
                extra_groups=[] if self.user is not None else None,
            )  # fmt: skip
            try:
                until_answered(port, self.request, self.answer)
                if ask is not None:
                    ask(port)
            finally:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            return (time.perf_counter() - began) * 1000

        return sample


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until_answered(port: int, request: bytes, answer: bytes, host: str = "127.0.0.1") -> None:
    """Return once the server answers.

    Raises:
        RuntimeError: It does not within a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=5) as sock:
                if request:
                    sock.sendall(request)
                if answer in sock.recv(4096):
                    return
        except OSError:
            pass
        time.sleep(0.001)
    raise RuntimeError(f"nothing answers at port {port}")


def _postgres(folder: Path, port: int) -> list[str]:
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"]
    words = [word for setting in (*settings, *Postgres.fast) for word in ("-c", setting)]
    return [f"{POSTGRES}/postgres", "-D", f"{folder}/data", *words]


def _initdb(folder: Path) -> None:
    default = Postgres()
    (folder / "password").write_text(f"{default.password}\n")
    command = [
        f"{POSTGRES}/initdb", f"--pgdata={folder}/data", f"--username={default.user}", "--no-sync",
        f"--pwfile={folder}/password", "--auth=scram-sha-256", "--encoding=UTF8",
        "--locale=C.UTF-8", "--wal-segsize=1",
    ]  # fmt: skip
    as_user("postgres", command)
    as_user(
        "postgres", [f"{POSTGRES}/postgres", "--single", "-D", f"{folder}/data", "postgres"],
        f"create database {default.database}\n".encode(),
    )  # fmt: skip


def _mariadb(folder: Path, port: int) -> list[str]:
    return [
        "mariadbd", "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/socket",
        "--bind-address=127.0.0.1", f"--port={port}", f"--pid-file={folder}/pid", *MariaDB.fast,
        *MariaDB.sizes,
    ]  # fmt: skip


def _install(folder: Path) -> None:
    command = [
        "mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--skip-test-db",
        "--auth-root-authentication-method=normal", *MariaDB.sizes,
    ]  # fmt: skip
    as_user("mysql", command)


def _rabbitmq(folder: Path, port: int) -> dict[str, str]:
    return {
        "RABBITMQ_NODENAME": "bench@localhost", "HOME": str(folder), "RABBITMQ_LOGS": "-",
        "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia", "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()), "RABBITMQ_PID_FILE": f"{folder}/pid",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins", "LANG": "C.UTF-8",
        "RABBITMQ_LOG_BASE": f"{folder}/log", "ERL_EPMD_PORT": str(free_port()),
    }  # fmt: skip


def _mosquitto(folder: Path, port: int) -> list[str]:
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    return ["mosquitto", "-c", str(config)]


def as_user(user: str, command: list[str], data: bytes = b"") -> None:
    subprocess.run(
        command, check=True, user=user, group=user, extra_groups=[], input=data,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


SERVERS = {
    "Postgres": Bare(_postgres, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"", _initdb, "postgres"),
    "Redis": Bare(
        lambda folder, port: [
            "redis-server", "--port", str(port), "--dir", str(folder), "--save", "",
            "--appendonly", "no",
        ],
        b"PING\r\n", b"+PONG",
    ),
    "Memcached": Bare(
        lambda folder, port: ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(port)],
        b"version\r\n", b"VERSION",
    ),
    "Nats": Bare(
        lambda folder, port: [
            "nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)
        ],
        b"", b"INFO {",
    ),
    "Mosquitto": Bare(_mosquitto, CONNECT, b"\x20\x02\x00\x00"),
    "MariaDB": Bare(_mariadb, b"", b"\x0a", _install, "mysql"),
    "RabbitMQ": Bare(
        lambda folder, port: ["/usr/lib/rabbitmq/bin/rabbitmq-server"], AMQP, b"\x01",
        lambda folder: first_start(folder), "rabbitmq", _rabbitmq,
    ),
}  # fmt: skip


def first_start(folder: Path) -> None:
    """Let RabbitMQ make its files."""
    port = free_port()
    child = subprocess.Popen(
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user="rabbitmq", group="rabbitmq",
        extra_groups=[], start_new_session=True, env={**os.environ, **_rabbitmq(folder, port)},
    )  # fmt: skip
    until_answered(port, AMQP, b"\x01")
    child.terminate()
    child.wait()
    os.killpg(child.pid, signal.SIGKILL) if _lives(child.pid) else None


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
