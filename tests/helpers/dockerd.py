"""A daemon of Docker's for tests, with files of its own: without a bridge, or in its own network."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def daemon(work: Path) -> Iterator[list[str]]:
    """Run a daemon in a directory, whose path is short; yields its client's command line."""
    client = [
        shutil.which("docker", path="/usr/bin:/usr/local/bin") or "docker",
        f"--host=unix://{work}/s",
    ]
    with open(work / "log", "wb") as log:
        process = subprocess.Popen(
            ["dockerd", f"--data-root={work}/data", f"--exec-root={work}/exec", f"--pidfile={work}/pid",
             f"--host=unix://{work}/s", "--iptables=false", "--ip-masq=false", "--bridge=none"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while subprocess.run([*client, "info"], capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((work / "log").read_text())
            time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(30)


_TLS_PORT = 2376
_NAME_SERVER = "192.0.2.53"
_APART = f'ip link set lo up; ip address add {_NAME_SERVER}/32 dev lo; exec "$0" "$@"'
_CLONE_NEWNET = 0x40000000


class Daemon:
    """A daemon with bridges, in a network namespace of its own.

    Attributes:
        work: Its directory, whose path is short.
        url: The address of its API.
        tls_url: The same with TLS; its certificates are in `work`, as ``DOCKER_CERT_PATH``.
        options: More arguments of ``dockerd``.
        apart, prepare: The command and the script that put it into namespaces of its own.
        end_signal: What ends it.
    """

    apart: Sequence[str] = ("unshare", "--net", "--")
    prepare: str = _APART
    end_signal: signal.Signals = signal.SIGTERM

    def __init__(self, work: Path, *options: str) -> None:
        self.work = work
        self.url = f"unix://{work}/s"
        self.tls_url = f"tcp://127.0.0.1:{_TLS_PORT}"
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._net = -1

    def start(self) -> None:
        """Start it, also again: its images and containers are there still."""
        work, inside = self.work, [*self.apart, "sh", "-c", self.prepare]
        if self._net >= 0:  # after its first end
            inside = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._net}", "--"]
        with open(work / "log", "ab") as log:
            self._process = subprocess.Popen([*inside, *self.command()], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while subprocess.run([*self.client, "info"], capture_output=True).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((work / "log").read_text())
            time.sleep(0.1)
        if self._net < 0:
            self._net = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with self.entered():
                self._names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._names.bind((_NAME_SERVER, 53))
            threading.Thread(target=_know_no_name, args=(self._names,), daemon=True).start()

    def command(self) -> list[str]:
        """The command line of the daemon."""
        work = self.work
        return [
            "dockerd", f"--data-root={work}/data", f"--exec-root={work}/exec",
            f"--pidfile={work}/pid", f"--host={self.url}", "--iptables=false", "--ip-masq=false",
            f"--dns={_NAME_SERVER}", *self.options, *_tls_options(work),
        ]  # fmt: skip

    @property
    def client(self) -> list[str]:
        """The command line of its client."""
        found = shutil.which("docker", path="/usr/bin:/usr/local/bin") or "docker"
        return [found, f"--host={self.url}"]

    def call(self, *arguments: str) -> str:
        """Run its client, and return what it says."""
        done = subprocess.run(
            [*self.client, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and those that it starts, in the network of the daemon."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._net)
            yield
        finally:
            _setns(own)
            os.close(own)

    def stop(self) -> None:
        """End it; `start` starts it again."""
        if self._process is not None:
            self._process.send_signal(self.end_signal)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.stop()
        if self._net >= 0:
            with suppress(OSError):  # it is not connected, but its thread wakes up
                self._names.shutdown(socket.SHUT_RDWR)
            self._names.close()
            os.close(self._net)
            self._net = -1


class PodmanService(Daemon):
    """Podman, which speaks Docker's API too; its mounts and processes are its own, and end with it.

    Else processes that watch programs of `exec` would stay for five minutes.
    """

    apart = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
    end_signal = signal.SIGKILL  # of the process that waits for PID 1
    # crun refuses to run beside both versions of cgroups. Where Podman keeps what runs is its own.
    prepare = (
        "mkdir -p /run/containers; mount -t tmpfs none /run/containers; "
        f"umount -l /sys/fs/cgroup/unified 2>/dev/null; f=$(mktemp); echo nameserver {_NAME_SERVER} "
        f">$f; mount --bind $f /etc/resolv.conf; rm $f; {_APART}"
    )

    def command(self) -> list[str]:
        """The command line of the service."""
        work = self.work
        settings = work / "containers.conf"
        # Left alone, Podman raises limits, which not every machine permits to root; its init is a
        # package of its own, while that of Docker comes with it; and it takes its older network
        # plugins, whose name server loses names on a busy machine.
        init = shutil.which("docker-init", path="/usr/bin:/usr/sbin:/usr/libexec/docker")
        settings.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]\n'
            f'[engine]\ninit_path = "{init}"\n[network]\nnetwork_backend = "netavark"\n'
        )
        return [
            "env", f"CONTAINERS_CONF={settings}", "podman", f"--root={work}/data",
            f"--runroot={work}/exec", f"--network-config-dir={work}/net",
            "--cgroup-manager=cgroupfs", "--events-backend=file", "system", "service", "--time=0",
            self.url,
        ]  # fmt: skip


def _tls_options(work: Path) -> list[str]:
    """Make certificates for both ends, and return the options for that of the daemon."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(work / "ca.pem"))
    for cert, key in (("server-cert", "server-key"), ("cert", "key")):
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(work / f"{key}.pem"))
        issued.cert_chain_pems[0].write_to_path(str(work / f"{cert}.pem"))
    return [
        f"--host=tcp://127.0.0.1:{_TLS_PORT}", "--tlsverify", f"--tlscacert={work}/ca.pem",
        f"--tlscert={work}/server-cert.pem", f"--tlskey={work}/server-key.pem",
    ]  # fmt: skip


def _know_no_name(sock: socket.socket) -> None:
    """Answer all questions for names: without a name server, each would take 20 s."""
    with suppress(OSError):
        while True:
            question, client = sock.recvfrom(512)
            if question:
                no_such_name = b"\x81\x83"
                sock.sendto(question[:2] + no_such_name + question[4:], client)


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def apart(*options: str, kind: type[Daemon] = Daemon) -> Iterator[Daemon]:
    """Run a daemon in a network namespace of its own, with an image; see `docker_image`."""
    import tempfile

    from helpers.docker_image import write_tar

    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp", ignore_cleanup_errors=True) as name:
        daemon = kind(Path(name), *options)
        try:
            daemon.start()
            daemon.call("import", str(write_tar(Path(name) / "root.tar")), IMAGE)
            yield daemon
        finally:
            daemon.close()
            for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
                if line.split()[1].startswith(f"{name}/"):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=True)


IMAGE = "conformance:1"
