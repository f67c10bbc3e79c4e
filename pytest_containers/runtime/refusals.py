"""What it means that the machine refuses a run, and the way out."""

from __future__ import annotations

import errno
import os

from pytest_containers.runtime import identity

LEAST_KERNEL = (5, 12)
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
DEBIAN_SWITCH = "/proc/sys/kernel/unprivileged_userns_clone"
MOST_NAMESPACES = "/proc/sys/user/max_user_namespaces"
CONTAINER_FLAGS = (
    "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined "
    "--security-opt apparmor=unconfined`"
)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
IDS = "give container users their ids"
_IN_CONTAINER = ("/.dockerenv", "/run/.containerenv")


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int("".join(letter for letter in minor if letter.isdecimal()) or 0)


def explain(doing: str, code: int, detail: str = "") -> str:
    """Explain why the kernel refused `doing`, and the way out.

    Args:
        code: The errno.
        detail: What exactly was refused, if known.
    """
    refused = (
        f"{doing}: {detail}: {os.strerror(code)}" if detail else f"{doing}: {os.strerror(code)}"
    )
    if kernel_version() < LEAST_KERNEL:
        least = ".".join(map(str, LEAST_KERNEL))
        return f"{refused}. This is Linux {os.uname().release}; containers need {least} or newer"
    if code in _EXHAUSTED:
        return f"{refused}. The limits of this process do not suffice: see `ulimit -a`"
    switch = _switch(code)
    if switch:
        return f"{refused}. {switch}"
    if doing == IDS:
        refusal = identity.refusal_of_maps()
        return f"{refused}. {refusal.reason[0].upper()}{refusal.reason[1:]}: {refusal.remedy}"
    return f"{refused}. {_reason(code, detail)}"


def _switch(code: int) -> str:
    """Return which switch of the kernel forbids user namespaces; empty if none does."""
    if read_setting(DEBIAN_SWITCH) == "0" and os.geteuid() != 0:
        return (
            "User namespaces are switched off for users here: "
            "sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if read_setting(MOST_NAMESPACES) == "0" or code == errno.ENOSPC:
        return (
            "No more user namespaces are permitted: sysctl -w user.max_user_namespaces=28633, "
            "or end other programs that hold them"
        )
    if code == errno.EUSERS:
        return "Namespaces are nested too deeply (32 levels): run the tests further outside"
    if read_setting(APPARMOR) == "1" and os.geteuid() != 0:
        return (
            "AppArmor restricts user namespaces of ordinary users (Ubuntu 23.10 and newer): "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run the tests as root"
        )
    return ""


def _reason(code: int, detail: str) -> str:
    filtered = (
        "The seccomp filter around this process forbids it"
        if _is_filtered()
        else "The kernel lacks it"
        if code == errno.ENOSYS
        else ""
    )
    if "too revealing" in detail:
        filtered = (
            "A part of /proc or /sys is masked here, and the kernel permits no new one that shows "
            "more"
        )
    if any(os.path.exists(path) for path in _IN_CONTAINER):
        reason = filtered or "This process is in an unprivileged container"
        return f"{reason}. Start the container with {CONTAINER_FLAGS}, or with `--privileged`"
    return filtered or (
        "Something around this process forbids it: a container without permission for "
        "namespaces, a seccomp filter, or a security module"
    )


def _is_filtered() -> bool:
    """Return whether system calls of this process pass a seccomp filter (proc(5))."""
    return _status_field("Seccomp") == "2"


def _status_field(name: str) -> str:
    for line in (read_setting("/proc/self/status") or "").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def read_setting(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
