"""Scripts in containers, and how they are run here and with the command line of Docker."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest_containers as pc

BACKGROUND = ["sleep", "1000"]
"""What a container of an exec runs."""


class Result(NamedTuple):
    """How a program ended; 125 and more without output where it was not started."""

    code: int
    stdout: str
    stderr: str = ""


class Case(NamedTuple):
    """A script and what is compared.

    Attributes:
        script: For ``/bin/sh -c``; or the command itself, or None for the image's.
        options: Of the container, as `ContainerSpec` has them.
        exec: Options of `exec`; then the script runs in a container that sleeps.
        end: What ends the container once it has written "up": ``"stop"`` or the name of a signal.
        image: Its name, in both stores.
    """

    script: str | list[str] | None
    options: Mapping[str, Any] = {}
    exec: Mapping[str, Any] | None = None
    end: str = ""
    image: str = "base:1"

    @property
    def command(self) -> list[str] | None:
        return ["/bin/sh", "-c", self.script] if isinstance(self.script, str) else self.script


class Docker:
    """Runs cases with the command line of Docker."""

    def __init__(self, client: list[str], shared: Path) -> None:
        self._client = client
        self._shared = shared
        # A copy from before there are threads: pytest changes the environment for every test. A copy
        # meanwhile fails, and so does an execve that reads it, with EFAULT.
        self._environ = dict(os.environ)
        self._containers: dict[str, str] = {}
        self._lock = threading.Lock()

    def run(self, case: Case) -> Result:
        if case.exec is not None:
            return self._exec(case, case.exec)
        if case.end:
            return self._end(case)
        return self._call("run", "--rm", *self._container(case, case.command))

    def _exec(self, case: Case, options: Mapping[str, Any]) -> Result:
        assert case.command is not None
        flags = _flags({key: value for key, value in options.items() if key != "input"})
        if "input" in options:
            flags.append("-i")
        container = self._background(case)
        return self._call("exec", *flags, container, *case.command, input=options.get("input"))

    def _background(self, case: Case) -> str:
        """The container that all execs with the same options share."""
        with self._lock:
            key = repr(case.options)
            if key not in self._containers:
                started = self._call("run", "-d", *self._container(case, BACKGROUND))
                self._containers[key] = started.stdout.strip()
            return self._containers[key]

    def close(self) -> None:
        """Remove the containers of execs."""
        self._call("rm", "-f", *self._containers.values())

    def _end(self, case: Case) -> Result:
        container = self._call("run", "-d", *self._container(case, case.command)).stdout.strip()
        try:
            while "up\n" not in self._call("logs", container).stdout:
                pass
            if case.end == "stop":
                self._call("stop", "-t", "1", container)
            else:
                self._call("kill", "-s", case.end, container)
            code = int(self._call("wait", container).stdout)
            return self._call("logs", container)._replace(code=code)
        finally:
            self._call("rm", "-f", container)

    def _container(self, case: Case, command: list[str] | None) -> list[str]:
        options = {"hostname": "box", **case.options}
        mounts = _mounts(options.pop("mounts", ()), self._shared)
        entrypoint = options.pop("entrypoint", None)
        flags = [*_flags(options), "--network=none"]
        for mount in mounts:
            match mount:
                case pc.Bind(source, target, read_only):
                    flags += ["-v", f"{source}:{target}{':ro' if read_only else ''}"]
                case pc.Tmpfs(target, size, mode):
                    choices = ["exec"]
                    choices += [] if mode is None else [f"mode={mode:o}"]
                    choices += [] if size is None else [f"size={size}"]
                    flags += ["--tmpfs", f"{target}:{','.join(choices)}"]
        arguments = list(command or ())
        if entrypoint is not None:
            flags.append(f"--entrypoint={entrypoint[0] if entrypoint else ''}")
            arguments = [*entrypoint[1:], *arguments]
        return [*flags, case.image, *arguments]

    def _call(self, *arguments: str, input: str | None = None) -> Result:
        done = subprocess.run(
            [*self._client, *arguments], input=(input or "").encode(), capture_output=True,
            timeout=60, env=self._environ,
        )  # fmt: skip
        stdout, stderr = done.stdout.decode(), done.stderr.decode()
        # dockerd hands on what it was started with: signal 32, which libc lets nobody reset.
        stdout = stdout.replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000")
        if (stdout + stderr).startswith(NOT_STARTED):
            return Result(done.returncode, "")
        return Result(done.returncode, stdout, stderr)


NOT_STARTED = ("docker: Error response", "OCI runtime exec failed", "Error response from daemon")
VALUES = {
    "user": "--user", "workdir": "--workdir", "hostname": "--hostname", "shm_size":
    "--shm-size", "stop_signal": "--stop-signal",
}  # fmt: skip
SWITCHES = {
    "read_only": "--read-only", "init": "--init", "tty": "--tty",
    "no_new_privileges": "--security-opt=no-new-privileges",
}  # fmt: skip
LISTS = {"groups": "--group-add", "cap_add": "--cap-add", "cap_drop": "--cap-drop"}


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Options of a container or an exec as Docker's command line has them."""
    flags = []
    for name, value in options.items():
        if name in VALUES:
            flags.append(f"{VALUES[name]}={value}")
        elif name in SWITCHES:
            flags.append(SWITCHES[name])
        elif name in LISTS:
            flags += [f"{LISTS[name]}={each}" for each in value]
        elif name == "env":
            flags += [f"--env={variable}={content}" for variable, content in value.items()]
        elif name == "ulimits":
            for limit, allowed in value.items():
                soft, hard = allowed if isinstance(allowed, tuple) else (allowed, allowed)
                flags.append(f"--ulimit={limit}={soft}:{hard}")
        else:
            raise ValueError(f"no flag of Docker is known for {name!r}")
    return flags


def _mounts(mounts: Any, shared: Path) -> list[pc.Bind | pc.Tmpfs]:
    return [
        mount
        if isinstance(mount, pc.Tmpfs)
        else pc.Bind(
            str(mount.source).replace("SHARED", str(shared)), mount.target, mount.read_only
        )
        for mount in mounts
    ]


def run_here(engine: pc.Engine, shared: Path, case: Case) -> Result:
    options = {"hostname": "box", "network": False, **case.options}
    options["mounts"] = _mounts(options.pop("mounts", ()), shared)
    command = case.command if case.exec is None else BACKGROUND
    try:
        with engine.run(case.image, command, wait_ready=False, **options) as container:
            if case.exec is not None:
                assert case.command is not None
                done = container.exec(case.command, text=True, timeout_s=60, **case.exec)
                return Result(done.returncode, done.stdout, done.stderr)
            if case.end:
                pc.wait.log("up").until(container, pc.wait.Deadline(30))
            if case.end == "stop":
                container.stop(1)
            elif case.end:
                container.kill(case.end)
            code = container.wait(60)
            logs = container.logs()
            return Result(code, str(logs.stdout), str(logs.stderr))
    except (pc.StartError, pc.SpecError) as error:
        not_started = 125 if case.exec is None else 126
        return Result(getattr(error, "exit_code", None) or not_started, "")
