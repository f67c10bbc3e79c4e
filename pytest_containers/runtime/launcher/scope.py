"""A scope of systemd for a run: a cgroup that is handed over with its controllers.

The way where the caller's own cgroup has processes, and nothing above it is writable: a session of
a user who came by ssh, or root's. systemd moves the supervisor, which the caller may not, and
removes the scope with all below it when its last process has ended.
"""

from __future__ import annotations

import os
import time

from pytest_containers.linux import cgroups
from pytest_containers.linux.cgroups import Hierarchy
from pytest_containers.runtime.launcher.limits import NAMED
from pytest_containers.runtime.wire.faults import FaultError

_PATIENCE_S, _PAUSE_S = 5.0, 0.005
_MANAGER = (
    "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
)  # fmt: skip


def move_to_scope(pid: int, tree: Hierarchy, controllers: set[str]) -> str:
    """Have systemd make a scope with a process in it; returns its directory.

    Raises:
        FaultError: ``UnsupportedError``: there is no systemd, or it refuses, or it does not hand
            down the controllers.
    """
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        raise _unsupported(f"{tree.path} has processes, and there is no systemd to ask for a scope")
    names = ", ".join(NAMED[name] for name in sorted(controllers))
    import subprocess  # few runs need it, and all would wait for it

    before = f"{names}: {tree.path} has processes of others, and nothing above it is ours"
    unit = f"pytest-containers-{os.urandom(6).hex()}.scope"
    words = [
        "busctl", "call", *_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "3",
        "PIDs", "au", "1", str(pid), "Delegate", "b", "true",
        "CollectMode", "s", "inactive-or-failed", "0",
    ]  # fmt: skip
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    if os.geteuid():
        words.insert(1, "--user")
        environment["XDG_RUNTIME_DIR"] = f"/run/user/{os.geteuid()}"
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unsupported(f"{before}; systemd cannot be asked for a scope: {error}") from None
    if done.returncode:
        cause = done.stderr.strip() or f"busctl ended with {done.returncode}"
        raise _unsupported(f"{before}; systemd gives no scope: {cause}")
    path = _path_of(pid, tree, unit)
    if path is None:
        raise _unsupported(f"{before}; systemd did not move the run to its scope")
    missing = controllers - set(cgroups.read(path, "cgroup.controllers").split())
    if missing:
        raise _unsupported(
            f"{names}: systemd does not hand down the controllers {', '.join(sorted(missing))}; "
            "put `Delegate=cpu cpuset io memory pids` below [Service] into "
            "/etc/systemd/system/user@.service.d/delegate.conf"
        )
    return path


def _path_of(pid: int, tree: Hierarchy, unit: str) -> str | None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        for other in cgroups.hierarchies(pid):
            if other.mount == tree.mount and os.path.basename(other.path) == unit:
                return other.path
        time.sleep(_PAUSE_S)
    return None


def _unsupported(message: str) -> FaultError:
    return FaultError("UnsupportedError", message)
