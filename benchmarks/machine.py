"""What the figures were measured on, without naming the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from pytest_containers.linux.process import CLONE_NEWNS, unshare

PROGRAMS = {
    "bwrap": ["bwrap", "--version"],
    "runc": ["runc", "--version"],
    "crun": ["crun", "--version"],
    "podman": ["podman", "--version"],
    "docker": ["dockerd", "--version"],
}


def describe() -> dict[str, str]:
    """Processor, memory, kernel, distribution and the versions of everybody."""
    cpu = field("/proc/cpuinfo", "model name", ":") or platform.machine()
    memory_kib = int(field("/proc/meminfo", "MemTotal", ":").split()[0])
    found = {
        "processor": f"{len(os.sched_getaffinity(0))} x {cpu}",
        "memory": f"{memory_kib / 1024**2:.0f} GiB",
        "kernel": platform.release().partition("-")[0],
        "distribution": field("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "unprivileged",
    }
    return found | {who: version(who) for who in PROGRAMS}


def table() -> list[str]:
    """Return what the figures were measured on as the lines of a table of Markdown."""
    return [
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in describe().items()),
    ]


def leave_hybrid_cgroups() -> None:
    """Take cgroup2 out of this process's view where the machine has both versions.

    crun refuses to run beside both. For root only; in a mount namespace that ends with us, and
    with it what the peers leave mounted.
    """
    if os.geteuid() != 0:
        return
    unshare(CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    unified = "/sys/fs/cgroup/unified"
    if os.path.ismount(unified):
        subprocess.run(["umount", unified], check=True)


def version(who: str) -> str:
    """What a program says of its own version, or that it is not installed."""
    try:
        answer = subprocess.run(PROGRAMS[who], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return "not installed"
    first = answer.stdout.splitlines()[0]
    return next(word.rstrip(",") for word in first.split() if word[0].isdigit())


def field(path: str, name: str, separator: str) -> str:
    """A value of a file of ``name separator value`` lines; empty when it is not there."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return ""
