#!/usr/bin/python3 -IB
"""The first process of the guest of `run`: what a system's start does, then the tests.

It has the Python of the image's system and nothing else. What it shall do is in ``/job.json``; what
came of it, it writes as a tar to the second disk. It does not return: the machine is switched off.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path
from typing import Any

RESULTS = Path("/results")
_MOUNTS = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=755"),
    ("devpts", "/dev/pts", "devpts", "gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("mqueue", "/dev/mqueue", "mqueue", ""),
    ("tmpfs", "/run", "tmpfs", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)
_FINIT_MODULE = 313  # x86_64
_RB_POWER_OFF = 0x4321FEDC
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_CGROUP = Path("/sys/fs/cgroup")
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    boot()
    child = os.fork()
    if child == 0:
        try:
            work(json.loads(Path("/job.json").read_text()))
        except BaseException:  # noqa: BLE001 - nobody else would tell
            traceback.print_exc()
        os._exit(0)
    while os.wait()[0] != child:  # orphans come here, and a test would count them
        pass
    os.sync()
    _libc.reboot(_RB_POWER_OFF)


def boot() -> None:
    """Mount what every system mounts, and load the modules: there is no ``modprobe``."""
    for source, target, fstype, options in _MOUNTS:
        os.makedirs(target, exist_ok=True)
        _check(_libc.mount(source.encode(), target.encode(), fstype.encode(), 0, options.encode()))
        if target == "/dev":
            console = os.open("/dev/console", os.O_RDWR)
            for number in range(3):
                os.dup2(console, number)
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
            os.symlink("/proc/self/fd", "/dev/fd")
    for module in sorted(Path("/modules").iterdir()):
        with module.open("rb") as file:
            _check(_libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    socket.sethostname("guest")
    os.chmod("/tmp", 0o1777)
    os.chmod("/dev/fuse", 0o666)  # as udev has them
    os.chmod("/dev/net/tun", 0o666)
    for name in (_CGROUP / "cgroup.controllers").read_text().split():
        (_CGROUP / "cgroup.subtree_control").write_text(f"+{name}")
    RESULTS.mkdir()


def work(job: dict[str, Any]) -> None:
    """Run all passes of a job; each is a user and the tests that it runs."""
    print(f"Linux {os.uname().release}, {os.cpu_count()} processors", flush=True)
    for step in job["passes"]:
        uid = step["uid"]
        group = session(step["name"], uid)
        home = "/root" if uid == 0 else "/home/tester"
        temporary = Path(f"/tmp/{step['name']}")
        temporary.mkdir(mode=0o700)
        os.chown(temporary, uid, uid)
        output = RESULTS / step["name"]
        output.mkdir()
        os.chown(output, uid, uid)
        started = time.monotonic()
        process = subprocess.Popen(
            [*job["command"], f"--junit-xml={output}/junit.xml", *step["arguments"]],
            cwd=job["directory"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**job["environment"], "HOME": home, "TMPDIR": str(temporary), "USER": step["user"],
                 "LOGNAME": step["user"]},
            preexec_fn=lambda group=group, uid=uid: become(group, uid),
        )  # fmt: skip
        with (output / "output").open("wb") as log:
            for line in process.stdout or ():
                log.write(line)
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
        seconds = round(time.monotonic() - started, 1)
        result = {"exit": process.wait(), "seconds": seconds, "kernel": os.uname().release}
        (output / "result.json").write_text(json.dumps(result))
        with tarfile.open("/dev/nvme0n2", "w") as tar:  # what came before a pass that hangs counts
            tar.add(RESULTS, ".")


def session(name: str, uid: int) -> Path:
    """Make the cgroup of a session, its user's own as systemd delegates it (user@.service)."""
    folder = _CGROUP / name
    folder.mkdir()
    for controller in ("cpu", "memory", "pids"):
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    leaf = folder / "session"
    leaf.mkdir()
    for path in (folder, leaf):
        os.chown(path, uid, uid)
        for file in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / file, uid, uid)
    return leaf


def become(group: Path, uid: int) -> None:
    """Turn into the leader of a user's session, in its cgroup."""
    os.setsid()
    (group / "cgroup.procs").write_text("0")
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the console is all there is
        traceback.print_exc()
        time.sleep(1)
        _libc.reboot(_RB_POWER_OFF)
