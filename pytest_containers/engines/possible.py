"""Which engine can run containers here: a trial of some milliseconds for the native one."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping

from pytest_containers.linux import landlock
from pytest_containers.model.errors import ContainersError

_TRIAL = (
    "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "true",
)  # fmt: skip
"""It also makes all mounts private, which is where AppArmor refuses mounts. No ``/proc`` and no
``/sys``: where new ones are refused, a run does with those that are there."""
_PATIENCE_S = 5.0
_MACHINES = ("x86_64", "aarch64")


def first_engine(no_daemon: Callable[[], str]) -> tuple[str, Mapping[str, str]]:
    """Return the first engine that works here, and why those before it do not.

    Args:
        no_daemon: Returns why there is no daemon of Docker to work with; empty if there is one.

    Returns:
        The name of the engine, empty if none works; and the reasons by the names of the others.
    """
    reasons: dict[str, str] = {}
    trials: dict[str, Callable[[], str]] = {
        "native": why_not,
        "docker": no_daemon,
        "process": lambda: "" if landlock.version() else "this kernel has no Landlock",
    }
    for name, trial in trials.items():
        reason = trial()
        if not reason:
            return name, reasons
        reasons[name] = reason
    return "", reasons


def why_not() -> str:
    """Return why containers cannot run here; empty if they can.

    The kernel is asked for the namespaces that a run begins with. Where the program for
    that is not installed, a whole run is started.
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return f"this is {sys.platform} on {platform.machine()}"
    program = shutil.which("unshare")
    if program is None:
        return _too_old() or _whole_run()
    try:
        trial = subprocess.Popen(
            [program, *_TRIAL],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return str(error)
    with trial:
        too_old = _too_old()  # its imports take as long as the trial
        try:
            _, said = trial.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            trial.kill()
            return str(error)
    if too_old or trial.returncode == 0:
        return too_old
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("unshare: ") if lines else "namespaces are refused"


def _too_old() -> str:
    from pytest_containers.runtime import refusals

    if refusals.kernel_version() < refusals.LEAST_KERNEL:
        return f"Linux {platform.release()} is too old"
    return ""


def _whole_run() -> str:
    from pytest_containers.engines.native.engine import Engine

    try:
        with Engine() as engine:
            _ = engine.facts
    except ContainersError as error:
        return error.message
    return ""
