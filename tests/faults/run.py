"""Let each system call of a scenario go wrong, one at a time, and look at what is left.

``python tests/faults/run.py`` (``tox -e faults``) runs all of `scenarios`, once for a record of the
system calls that the processes make, and then once for each chosen call: either its process is
killed when it comes to the call (``kill``) or the call fails (``error``). Nothing in the product
takes part. After each fault

- no process, mount, network link, route, socket, cgroup or temporary file is left,
- the store is whole: its ``tmp`` is empty after a sweep, and the same scenario succeeds on it,
- a failed call had no effect, or gave one error of this project that names the errno; a defect of
  this project, another exception, or a hang is none.

The record has far more calls than there is time for. Of each process and kind of call, some are
chosen, spread over its life (``--spread``).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it for the tests

from faults.scenarios import ProgramDied, Scenario, scenarios
from faults.tracer import SUPPORTED, Fault, Pass, Point, Tracer
from helpers import leaks

import pytest_containers as pc
from pytest_containers.images.store.store import Store
from pytest_containers.linux.process import CLONE_NEWNET, CLONE_NEWNS
from pytest_containers.runtime.seccomp.numbers import table

NAMES = {number: name for name, number in table("x86_64").items()}
_ERRNOS = {
    "EMFILE": "open openat openat2 socket socketpair pipe pipe2 dup dup3 eventfd2 epoll_create1 "
    "memfd_create accept4 pidfd_open open_tree fsopen fsmount timerfd_create inotify_init1 "
    "signalfd4 recvmsg",
    "ENOMEM": "execve execveat mmap mprotect mremap epoll_ctl sendmsg madvise mount_setattr",
    "EAGAIN": "clone clone3 fork vfork",
    "ENOSPC": "write pwrite64 mkdir mkdirat rename renameat renameat2 link linkat symlink "
    "symlinkat ftruncate fallocate mknodat unshare sendfile copy_file_range splice",
    "EPERM": "mount umount2 move_mount fsconfig setns pivot_root chroot setuid "
    "setgid setresuid setresgid setgroups prctl capset seccomp chown fchown fchownat lchown chmod "
    "fchmod fchmodat sethostname setrlimit prlimit64 kill pidfd_send_signal setpgid setsid keyctl "
    "ioprio_set pidfd_getfd setxattr fsetxattr lsetxattr utimensat personality ptrace",
    "EIO": "read pread64 fsync fdatasync getdents64 readlink readlinkat fstat stat lstat "
    "newfstatat statx access faccessat faccessat2 unlink unlinkat rmdir flock fcntl listxattr "
    "getxattr lgetxattr fgetxattr",
    "ENOBUFS": "connect bind listen sendto recvfrom setsockopt getsockopt getsockname shutdown "
    "ioctl",
}
"""What calls fail with: what a machine at its limits, or under guard, says. Others cannot fail in a
way that a program could do something about."""
ERRNOS = {name: getattr(errno, code) for code, names in _ERRNOS.items() for name in names.split()}
_OURS = ("pc-", "python")
_WORDLESS = ("ended at its start without a word", "No module named ")
"""Of errors that cannot name the errno: the dynamic linker may die without a word, and Python takes
a module that it cannot look at for one that is not there."""
_THREAD = re.compile(r"0\.\d+$")
_OF_THREADS = ("mmap", "mprotect")
"""Calls that do not fail in threads of the test process: `threading.Thread.start` waits for ever
for a thread that has no memory to begin with."""


@dataclass(slots=True)
class Finding:
    """A fault and what came of it."""

    scenario: str
    kind: str
    process: str
    name: str
    call: str
    nth: int
    outcome: str = ""
    message: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Told:
    """What the main process of a pass tells, without a system call: they are counted."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)

    def clear(self) -> None:
        self._memory[:4] = struct.pack("=I", 0)

    def put(self, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()[: len(self._memory) - 4]
        self._memory[4 : 4 + len(data)] = data
        self._memory[:4] = struct.pack("=I", len(data))

    def get(self) -> dict[str, Any] | None:
        (size,) = struct.unpack("=I", self._memory[:4])
        return json.loads(self._memory[4 : 4 + size]) if size else None

    @property
    def outcome(self) -> str:
        """A class of error, or ``success``; ``killed`` if nothing was told."""
        return str((self.get() or {"outcome": "killed"})["outcome"])


class Bench:
    """A scenario with its place: store, temporary directory, and a cgroup if there may be one."""

    def __init__(self, name: str, scenario: Scenario, folder: Path) -> None:
        self.name = name
        self.scenario = scenario
        self.home = folder / "store"
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)
        self.told = Told()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def work(self) -> None:
        """Do what the scenario says; the last frame of a process."""
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.tmp)
        try:
            os.dup2(self._null, 2)
            with pc.Engine(home=self.home) as engine:
                self.scenario.steps(engine)
            told: dict[str, Any] = {"outcome": "success", "ours": True}
        except BaseException as error:  # noqa: BLE001 - is told
            told = describe(error)
        self.told.put(told)
        os._exit(0)

    def record(self) -> Pass:
        """Record a pass in which nothing goes wrong."""
        self.reset()
        self.told.clear()
        done = Tracer().run(self.work)
        if self.told.outcome != "success":
            raise SystemExit(f"{self.name} fails without a fault: {self.told.get()}, {done.hung}")
        return done

    def reset(self) -> None:
        if self.scenario.fresh:
            shutil.rmtree(self.home, ignore_errors=True)

    def strike(self, fault: Fault, name: str, again: bool) -> Finding | None:
        """Run the scenario with a fault, and look; None if its point was not reached."""
        self.reset()
        self.told.clear()
        before = self._state()
        done = Tracer(fault).run(self.work)
        told = self.told.get()
        if not done.met:
            return None
        finding = Finding(
            self.name, "error" if fault.errno else "kill", fault.point.process,
            done.victim or name, NAMES.get(fault.point.number, "?"), fault.point.nth,
            seconds=round(done.seconds, 3),
        )  # fmt: skip
        finding.outcome = (told or {"outcome": "killed"})["outcome"]
        finding.message = (told or {}).get("message", "")
        if done.hung:
            finding.wrong.append(f"processes are left, or hang: {done.hung}")
        elif told is None and not (finding.kind == "kill" and done.in_main):
            finding.wrong.append(f"the test process ended without a word: {done.status}")
        # A program of the scenario that is killed ends as it should not, and nothing is said.
        if finding.kind == "error" or finding.outcome != ProgramDied.__name__:
            finding.wrong += poor_words(told or {}, fault.errno, done.in_main)
        finding.wrong += self._left(before)
        finding.wrong += self._store(again)
        return finding

    def _state(self) -> dict[str, set[Any]]:
        return {
            "mounts": leaks.mounts(), "links": leaks.links(), "routes": leaks.routes(),
            "sockets": leaks.bound_sockets(),
            "files": set(os.listdir(self.tmp)),
        }  # fmt: skip

    def _left(self, before: dict[str, set[Any]]) -> list[str]:
        """What is there that was not there before: namespaces end after their last process."""
        end = time.monotonic() + 3
        while True:
            left = {
                name: sorted(map(str, things - before[name]))
                for name, things in self._state().items()
                if things - before[name]
            }
            if not left or time.monotonic() > end:
                return [f"left behind: {name}: {things}" for name, things in left.items()]
            time.sleep(0.01)

    def _store(self, again: bool) -> list[str]:
        wrong = []
        if again:
            if (self.home / "version").exists():
                Store(self.home).sweep()
                if left := os.listdir(self.home / "tmp"):
                    wrong.append(f"left in the store's tmp after a sweep: {left}")
            self.told.clear()
            pid = os.fork()
            if pid == 0:
                try:
                    self.work()
                finally:
                    os._exit(1)
            _wait(pid)
            if self.told.outcome != "success":
                wrong.append(f"the store is broken: {self.told.get()}")
            Store(self.home).sweep()
            if left := os.listdir(self.home / "tmp"):
                wrong.append(f"left in the store's tmp: {left}")
            if len(os.listdir(self.home / "holds")) > 20:
                wrong.append("holds/ has grown")
        return wrong


def _wait(pid: int) -> None:
    """Wait for a process, and for all that it leaves to this one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == pid:
            return
        if not ended:
            time.sleep(0.002)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as JSON."""
    notes = "\n".join(getattr(error, "__notes__", []))
    if not isinstance(error, pc.ContainersError):
        notes = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    importing = bool(frames) and frames[-1].filename.startswith("<frozen importlib")
    return {
        "outcome": type(error).__name__, "ours": isinstance(error, pc.ContainersError),
        "names": isinstance(error, OSError) and (bool(error.filename) or importing),
        "message": str(error), "notes": notes[-3000:],
    }  # fmt: skip


def poor_words(told: dict[str, Any], code: int, in_main: bool) -> list[str]:
    """What is wrong with an error, as one that people read.

    Args:
        told: As of `describe`.
        code: The errno of the call that failed.
        in_main: The call was the test process's own. There, imports fail as they do elsewhere.
    """
    if not told or told["outcome"] == "success":
        return []
    message, notes = told["message"], told["notes"]
    wrong = []
    if not told["ours"] and not (told["names"] and in_main):
        wrong.append(f"not an error of ours: {notes}")
    if "a defect of pytest-containers" in message:
        wrong.append(f"called a defect: {notes}")
    if "Traceback" in message:
        wrong.append("a traceback in the message")
    if code and os.strerror(code) not in message and not any(map(message.count, _WORDLESS)):
        wrong.append(f"does not say {os.strerror(code)!r}: {notes}")
    return wrong


def chosen(points: Sequence[tuple[Point, str]], spread: int, kind: str) -> list[tuple[Fault, str]]:
    """Choose the faults of a kind: at most `spread` of each process and call, over its life."""
    groups: dict[tuple[str, str, int], list[tuple[Point, str]]] = defaultdict(list)
    for point, name in points:
        groups[point.process, name, point.number].append((point, name))
    faults = []
    for (process, name, number), group in groups.items():
        code = 0
        if kind == "error":
            code = ERRNOS.get(NAMES.get(number, ""), 0)
            call = NAMES.get(number, "")
            if not code or not name.startswith(_OURS):
                continue
            if _THREAD.match(process) and name.startswith("python") and call in _OF_THREADS:
                continue
        step = max(len(group) / spread, 1.0)
        picked = {int(index * step) for index in range(min(spread, len(group)))}
        faults += [(Fault(group[index][0], code), name) for index in sorted(picked)]
    return faults


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory for all, in namespaces that nobody else changes."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    leaks.isolate(CLONE_NEWNS | CLONE_NEWNET)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        yield Path(name)


def named(point: str, kind: str) -> tuple[Fault, str]:
    """Return the fault at a point that is given as ``PROCESS:CALL:NTH``."""
    process, call, nth = point.split(":")
    code = ERRNOS[call] if kind == "error" else 0
    return Fault(Point(process, table("x86_64")[call], int(nth)), code), ""


def sweep(bench: Bench, options: argparse.Namespace) -> Iterator[Finding]:
    """Strike a scenario at all chosen points; yield what was met."""
    points = bench.record().points
    part, parts = map(int, options.share.split("/"))
    faults = []
    for kind in options.kinds:
        if options.points:
            faults += [named(point, kind) for point in options.points]
        else:
            faults += chosen(points, options.spread, kind)
    random.Random(options.seed).shuffle(faults)  # what is cut short has seen some of everything
    for number, (fault, name) in enumerate(faults):
        if zlib.crc32(repr(fault.point).encode()) % parts == part:
            finding = bench.strike(fault, name, bench.scenario.fresh or number % 5 == 0)
            if finding is not None:
                yield finding


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenarios", nargs="*", help="only these")
    parser.add_argument("--kinds", nargs="*", default=["kill", "error"])
    parser.add_argument("--spread", type=int, default=1, help="of each process and call")
    parser.add_argument("--points", nargs="*", help="only these: PROCESS:CALL:NTH, as in findings")
    parser.add_argument("--share", default="0/1", help="one of several: 0/2 and 1/2 are all")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    parser.add_argument("--jobs", type=int, default=1, help="that many shares side by side")
    parser.add_argument("--limit", type=float, help="seconds for each scenario")
    parser.add_argument("--output", type=Path, help="JSON lines, one for each fault")
    options = parser.parse_args()
    if not SUPPORTED:
        raise SystemExit("needs root and x86_64")
    with tempfile.TemporaryDirectory() as name:
        output = options.output or Path(name) / "output"
        failed = side_by_side(options.jobs, output) if options.jobs > 1 else take(options, output)
        summarise(output)
    return int(failed)


def side_by_side(jobs: int, output: Path) -> bool:
    """Run the shares of this command side by side; True if one has findings."""
    shares = [
        subprocess.Popen(
            [sys.executable, *sys.argv, "--jobs=1", f"--share={n}/{jobs}", f"--output={output}"]
        )
        for n in range(jobs)
    ]
    return sum(share.wait() != 0 for share in shares) > 0


def take(options: argparse.Namespace, output: Path) -> bool:
    """Run a share, and append what is found to a file; True if something is wrong."""
    wrong = False
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(place())
        file = stack.enter_context(output.open("a"))
        (folder / "parts").mkdir()
        everything = stack.enter_context(scenarios(folder / "parts", options.scenarios or ()))
        for name, scenario in everything.items():
            bench, start = Bench(name, scenario, folder / name), time.monotonic()
            for finding in sweep(bench, options):
                line = json.dumps(asdict(finding))
                file.write(f"{line}\n")
                file.flush()
                if finding.wrong:
                    wrong = True
                    print(line, flush=True)
                if options.limit and time.monotonic() - start > options.limit:
                    break
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return wrong


def summarise(output: Path) -> None:
    """Print how many faults there were, and what came of them."""
    findings = [json.loads(line) for line in output.read_text().splitlines()]
    counts = Counter((finding["scenario"], finding["kind"]) for finding in findings)
    for (name, kind), count in sorted(counts.items()):
        print(f"{name:8} {kind:6} {count:5}")
    outcomes = Counter((finding["kind"], finding["outcome"]) for finding in findings)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:6} {outcome:20} {count:5}")
    wrong = sum(bool(finding["wrong"]) for finding in findings)
    print(f"{len(findings)} faults, {wrong} of them with findings")


if __name__ == "__main__":
    sys.exit(main())
