"""Others who run containers, each behind the same three questions."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from benchmarks.measure import spawn
from benchmarks.rootfs import HOSTNAME, unpack
from pytest_containers.linux.process import CLONE_NEWNET, setns

MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts")
MASKED_FOLDERS = ("/proc/acpi", "/sys/firmware")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
IMAGE = "benchmark:1"


class Peer(Protocol):
    """Somebody who runs containers."""

    name: str

    def run(self, command: list[str]) -> bytes:
        """Run a program in a container of its own, to its end; its output."""

    def exec(self, command: list[str]) -> bytes | None:
        """Run a program in a container that is running; None if that is not offered."""

    def serve(self, port: int) -> None:
        """Start an HTTP server in a container and return when it can be connected to."""

    def stop(self) -> None:
        """End the server."""


def await_port(host: str, port: int, netns_fd: int = -1) -> None:
    """Return once something accepts connections, here or in another network namespace."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with _socket_in(netns_fd) as sock:
            if sock.connect_ex((host, port)) == 0:
                return
        time.sleep(0.001)
    raise RuntimeError(f"nothing listens at {host}:{port}")


def _socket_in(netns_fd: int) -> socket.socket:
    if netns_fd < 0:
        return socket.socket()
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns_fd, CLONE_NEWNET)
        try:
            return socket.socket()
        finally:
            setns(own, CLONE_NEWNET)
    finally:
        os.close(own)


def http_server(port: int) -> list[str]:
    return ["python3", "-m", "http.server", str(port)]


class Bubblewrap:
    """`bwrap --unshare-all` with the mounts that our containers have."""

    name = "bwrap"

    def __init__(self, root: Path) -> None:
        self._mounts = [
            "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm",
            "--mqueue", "/dev/mqueue", "--ro-bind", "/sys", "/sys", "--tmpfs", "/tmp",
            "--ro-bind", "/etc/hostname", "/etc/hosts", "--ro-bind", "/etc/hostname", "/etc/hostname",
            "--ro-bind", "/etc/hostname", "/etc/resolv.conf",
        ]  # fmt: skip
        for path in MASKED:
            if os.path.exists(path):
                self._mounts += ["--ro-bind", "/dev/null", path]
        for path in MASKED_FOLDERS:
            if os.path.isdir(path):
                self._mounts += ["--tmpfs", path]
        for path in READ_ONLY:
            if os.path.exists(path):
                self._mounts += ["--ro-bind", path, path]
        self._server: subprocess.Popen[bytes] | None = None

    def _command(self, share_net: bool = False) -> list[str]:
        share = ["--share-net"] if share_net else []
        return [
            "bwrap",
            "--unshare-all",
            *share,
            "--hostname",
            HOSTNAME,
            "--die-with-parent",
            *self._mounts,
        ]

    def run(self, command: list[str]) -> bytes:
        return spawn([*self._command(), *command])

    def exec(self, command: list[str]) -> bytes | None:
        return self.run(command)  # it has none; the measure is a whole run

    def serve(self, port: int) -> None:
        self._server = subprocess.Popen(
            [*self._command(share_net=True), *http_server(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await_port("127.0.0.1", port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()


class OciRuntime:
    """`runc` or `crun` with the config that `spec` writes."""

    def __init__(self, name: str, root: Path, work: Path) -> None:
        self.name = name
        self._bundle = work / f"bundle-{name}"
        self._bundle.mkdir()
        self._state = ["--root", str(work / f"state-{name}")]
        subprocess.run([name, "spec"], cwd=self._bundle, check=True)
        self._config = json.loads((self._bundle / "config.json").read_text())
        self._config["root"] = {"path": str(root), "readonly": False}
        self._config["process"]["terminal"] = False
        # Not everywhere root may raise a limit, and nobody's time is measured by it.
        self._config["process"]["rlimits"] = []
        self._count = 0

    def _prepare(self, command: list[str], *, host_network: bool = False) -> str:
        self._config["process"]["args"] = command
        linux = dict(self._config["linux"])
        if host_network:
            linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "network"]
        (self._bundle / "config.json").write_text(json.dumps({**self._config, "linux": linux}))
        self._count += 1
        return f"benchmark-{self.name}-{os.getpid()}-{self._count}"

    def run(self, command: list[str]) -> bytes:
        name = self._prepare(command)
        return spawn([self.name, *self._state, "run", "--bundle", str(self._bundle), name])

    @contextmanager
    def running(self) -> Iterator[None]:
        name = self._prepare(["sleep", "1000"])
        child = subprocess.Popen(
            [self.name, *self._state, "run", "--bundle", str(self._bundle), name],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.5)
        self._running = name
        try:
            yield
        finally:
            self._delete(name)
            child.wait()

    def exec(self, command: list[str]) -> bytes | None:
        return spawn([self.name, *self._state, "exec", self._running, *command])

    def serve(self, port: int) -> None:
        self._server_name = self._prepare(http_server(port), host_network=True)
        self._server = subprocess.Popen(
            [self.name, *self._state, "run", "--bundle", str(self._bundle), self._server_name],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await_port("127.0.0.1", port)

    def stop(self) -> None:
        self._delete(self._server_name)
        self._server.wait()

    def _delete(self, name: str) -> None:
        # Unchecked: what runs in the foreground removes itself as well, and may be first.
        command = [self.name, *self._state, "delete", "--force", name]
        subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


class DockerLike:
    """`docker` with its own bridge, or `podman` without a network.

    Args:
        netns_fd: Where its containers' ports are reached, or -1 for here.
    """

    def __init__(self, name: str, command: list[str], tar: Path, netns_fd: int = -1) -> None:
        self.name = name
        self._netns_fd = netns_fd
        self._network = ["--network=none"] if name == "podman" else []
        self._command = command
        # Left alone, Podman raises limits, which not every machine permits to root.
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
        self._limits = limits if name == "podman" else []
        # Docker kills at once.
        self._remove = ["rm", "--force", *(["--time=0"] if name == "podman" else [])]
        subprocess.run([*command, "import", str(tar), IMAGE], check=True, stdout=subprocess.DEVNULL)

    def run(self, command: list[str]) -> bytes:
        return spawn(
            [*self._command, "run", "--rm", *self._limits, *self._network, IMAGE, *command]
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        arguments = [
            *self._command,
            "run",
            "--detach",
            *self._limits,
            *self._network,
            IMAGE,
            "sleep",
            "1000",
        ]
        self._running = spawn(arguments).decode().strip()
        try:
            yield
        finally:
            subprocess.run(
                [*self._command, *self._remove, self._running],
                check=False,
                stdout=subprocess.DEVNULL,
            )

    def exec(self, command: list[str]) -> bytes | None:
        return spawn([*self._command, "exec", self._running, *command])

    def serve(self, port: int) -> None:
        arguments = [
            *self._command,
            "run",
            "--detach",
            *self._limits,
            "--network=host",
            IMAGE,
            *http_server(port),
        ]
        self._server = spawn(arguments).decode().strip()
        await_port("127.0.0.1", port, self._netns_fd)

    def stop(self) -> None:
        spawn([*self._command, *self._remove, self._server])


@contextmanager
def dockerd(work: Path, *, apart: bool = True) -> Iterator[tuple[list[str], int]]:
    """A daemon of our own.

    Args:
        apart: With its bridge in a network namespace of its own; else here, without a bridge.

    Yields:
        The client's command, and a descriptor of the namespace.
    """
    client = shutil.which("docker", path="/usr/bin:/usr/local/bin")
    if client is None or shutil.which("dockerd", path="/usr/sbin:/usr/bin") is None:
        raise RuntimeError("docker is not installed")
    endpoint = f"unix://{work}/docker.sock"
    inside = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up; exec "$0" "$@"']
    with open(work / "dockerd.log", "wb") as log:
        daemon = subprocess.Popen(
            [
                *(inside if apart else []), "dockerd", *([] if apart else ["--bridge=none"]), f"--data-root={work}/docker", f"--exec-root={work}/docker-exec",
                f"--pidfile={work}/docker.pid", f"--host={endpoint}", "--iptables=false",
                "--ip-masq=false",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        command = [client, f"--host={endpoint}"]
        end = time.monotonic() + 60
        while subprocess.run([*command, "info"], capture_output=True).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError((work / "dockerd.log").read_text().strip().splitlines()[-1])
            time.sleep(0.2)
        netns_fd = os.open(f"/proc/{daemon.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield command, netns_fd
        finally:
            os.close(netns_fd)
    finally:
        daemon.terminate()
        daemon.wait()


@contextmanager
def all_installed(tar: Path, work: Path) -> Iterator[tuple[list[Peer], list[str]]]:
    """Everybody who is installed and works here, and why others do not."""
    peers: list[Peer] = []
    missing: list[str] = []
    root = unpack(tar, work / "rootfs")
    with ExitStack() as stack:
        if shutil.which("bwrap"):
            peers.append(Bubblewrap(root))
        for name in ("crun", "runc"):
            if shutil.which(name):
                runtime = OciRuntime(name, root, work)
                try:
                    runtime.run(["true"])
                    stack.enter_context(runtime.running())
                except (RuntimeError, subprocess.SubprocessError) as error:
                    missing.append(f"{name}: {error}")
                else:
                    peers.append(runtime)
        if shutil.which("podman"):
            command = [
                "podman",
                f"--root={work}/podman",
                f"--runroot={work}/podman-run",
                "--cgroup-manager=cgroupfs",
            ]
            _add(stack, peers, missing, "podman", command, tar)
        try:
            command, netns_fd = stack.enter_context(dockerd(work))
        except RuntimeError as error:
            missing.append(f"docker: {error}")
        else:
            _add(stack, peers, missing, "docker", command, tar, netns_fd)
        yield peers, missing


def _add(
    stack: ExitStack,
    peers: list[Peer],
    missing: list[str],
    name: str,
    command: list[str],
    tar: Path,
    netns_fd: int = -1,
) -> None:
    try:
        peer = DockerLike(name, command, tar, netns_fd)
        peer.run(["true"])
        stack.enter_context(peer.running())
    except (RuntimeError, subprocess.SubprocessError) as error:
        missing.append(f"{name}: {error}")
    else:
        peers.append(peer)
