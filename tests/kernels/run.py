"""Run the core of the suite under another kernel, in a virtual machine.

``python tests/kernels/run.py`` (``tox -e kernels``) boots the kernel of a Debian package in qemu,
with cgroup v2 only, and runs pytest in it as root and as an ordinary user with subordinate ids, who
has a cgroup of its own as systemd delegates it. The machine is this one's Debian packages (`PACKAGES`
and what they depend on), the Python environment that runs this file, and this checkout, in an image
of ext4. Nothing of it needs root, and nothing is left but the cache directory (``--cache``). What
fails in the guest is printed; the output and the JUnit files are kept in the cache directory.

The guest has no network but its loopback, so tests of egress skip or fail there for that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "base-files base-passwd bash coreutils dash diffutils findutils grep gzip hostname login "
    "mount ncurses-base passwd perl-base procps python3 sed tar util-linux xz-utils zstd "
    "acl attr btrfs-progs e2fsprogs gcc iproute2 libc6-dev libc-bin musl-tools netbase tzdata uidmap "
    "xfsprogs"
)
"""What tests of the core run, beside Python."""
MODULES = (
    "overlay", "fuse", "loop", "xfs", "btrfs", "veth", "bridge", "dummy", "tun", "vsock", "nf_tables",
    "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "algif_hash", "algif_skcipher",
)  # fmt: skip
"""What a running Debian loads when it is first asked for: the guest has no ``modprobe``."""
CORE = (
    "tests/engines", "tests/integration/test_container.py", "tests/integration/test_states.py",
    "tests/integration/test_network.py", "tests/integration/test_seccomp.py",
    "tests/integration/test_limits.py", "tests/integration/test_cgroups.py",
    "tests/integration/test_mounts.py", "tests/integration/test_snapshots.py",
    "tests/integration/test_exec.py", "tests/integration/test_layers.py",
    "tests/integration/test_file_systems.py",
)  # fmt: skip
_ETC = (
    "passwd", "group", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives",
    "ssl/certs", "localtime", "mime.types", "login.defs",
)  # fmt: skip
_SET_USER_ID = ("usr/bin/newuidmap", "usr/bin/newgidmap", "usr/bin/su", "usr/bin/mount")
_UNWANTED = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
"""Directories of Python's library that nothing imports here."""
_TESTER = 1000
_FIRST_WORD_S = 30


def kernel(package: Path | None, cache: Path) -> tuple[Path, Path]:
    """Unpack a kernel's package, fetched with apt if none is given; return image and modules."""
    if package is None:
        package = _fetched(cache)
    folder = cache / package.stem
    if not folder.exists():
        partial = cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["dpkg-deb", "--extract", package, partial], check=True)
        partial.rename(folder)
    (image,) = (folder / "boot").glob("vmlinuz-*")
    (modules,) = (folder / "lib" / "modules").iterdir()
    return image, modules


def _fetched(cache: Path) -> Path:
    """Debian's kernel of the release of this machine, for virtual machines."""
    known = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
    )  # fmt: skip
    match = re.search(r"Depends: (linux-image-\S+)", known.stdout)
    if match is None:
        raise SystemExit("apt knows no linux-image-cloud-amd64: `apt-get update`, or give --kernel")
    name = match[1]
    if not list(cache.glob(f"{name}_*.deb")):
        subprocess.run(["apt-get", "download", name], cwd=cache, check=True)
    return max(cache.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)


class Stage:
    """The directory that becomes the guest's root; all in it will belong to root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[str] = set()

    def add(self, path: str | os.PathLike[str]) -> None:
        """Copy a file, link or directory (itself alone) of this machine, to where it is."""
        name = os.path.normpath(path)
        if name in self._seen or name == "/":
            return
        self._seen.add(name)
        self.add(os.path.dirname(name))
        target = self.folder / name.lstrip("/")
        try:
            status = os.lstat(name)
        except OSError:  # such as documentation that was not installed
            return
        if stat.S_ISLNK(status.st_mode):
            if not os.path.lexists(target):
                target.symlink_to(os.readlink(name))
            self.add(os.path.join(os.path.dirname(name), os.readlink(name)))
        elif stat.S_ISDIR(status.st_mode):
            target.mkdir(exist_ok=True)
            if not os.path.islink(target):
                target.chmod(0o755)  # the tester looks into root's home for Python
        elif stat.S_ISREG(status.st_mode) and not os.path.lexists(target):
            with contextlib.suppress(PermissionError):  # no secret is needed
                shutil.copyfile(name, target)
                target.chmod(stat.S_IMODE(status.st_mode) & 0o777)
                os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def add_tree(self, path: str, unwanted: Iterable[str] = ()) -> None:
        for folder, names, files in os.walk(path):
            names[:] = sorted(set(names) - set(unwanted))
            for name in (*names, *files):
                self.add(os.path.join(folder, name))

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


def packages(names: Iterable[str]) -> list[str]:
    """Return installed packages and all that they depend on."""
    fields = "${Package}\t${db:Status-Status}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", fields], capture_output=True, text=True, check=True
    )  # fmt: skip
    needs: dict[str, list[str]] = {}
    providers: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, status, provides, depends = line.split("\t")
        if status == "installed":
            needs[name] = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", depends)
            providers.update(dict.fromkeys(re.findall(r"(?:^|,)\s*([a-z0-9+.-]+)", provides), name))
    chosen: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop()
        name = name if name in needs else providers.get(name, name)
        if name in needs and name not in chosen:
            chosen[name] = None
            left += needs[name]
    return list(chosen)


def stage_system(stage: Stage) -> None:
    """The Debian packages, and the database of them (images of this machine look at it)."""
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        stage.add(f"/{name}")
    chosen = packages(PACKAGES.split())
    listed = subprocess.run(
        ["dpkg-query", "--listfiles", *chosen], capture_output=True, text=True, check=True
    )  # fmt: skip
    for path in listed.stdout.splitlines():
        if path.startswith("/") and not path.startswith(("/usr/share/doc/", "/usr/share/man/")):
            stage.add(path)
    for name in _ETC:
        stage.add(f"/etc/{name}")
        stage.add_tree(f"/etc/{name}")
    with os.scandir("/usr/bin") as entries:
        for entry in entries:
            if not entry.is_symlink() or "/alternatives/" not in os.readlink(entry.path):
                continue
            if os.path.lexists(stage.folder / os.path.realpath(entry.path).lstrip("/")):
                stage.add(entry.path)
    stage.add("/var/lib/dpkg/status")
    for name in ("dev", "proc", "sys", "tmp", "run", "root", "home", "mnt", "var/tmp", "var/cache"):
        (stage.folder / name).mkdir(parents=True, exist_ok=True)
    for name in _SET_USER_ID:
        if (path := stage.folder / name).exists():
            path.chmod(0o4755)


def stage_python(stage: Stage) -> None:
    """The environment that runs this file, and the libraries that it takes from the system."""
    own = dict.fromkeys([sys.prefix, *map(os.path.realpath, [sys.prefix, *sys.path[1:]])])
    base = os.path.realpath(sys.base_prefix)
    stage.add(sys.executable)
    if base != "/usr":
        stage.add_tree(os.path.join(base, "bin"))
        own = {path: None for path in own if not path.startswith(f"{base}/")}
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        stage.add_tree(os.path.join(base, "lib", version), _UNWANTED | {"site-packages"})
        for path in Path(base, "lib").glob("libpython*"):
            stage.add(path)
    for path in map(Path, own):
        of_checkout = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".tox")
        if path.is_dir() and not path.is_relative_to("/usr") and not of_checkout:
            stage.add_tree(str(path))
    binaries = [
        str(Path("/", path.relative_to(stage.folder)))
        for path in stage.folder.rglob("*.so*")
        if not path.is_relative_to(stage.folder / "usr")
    ]
    linked = subprocess.run(
        ["ldd", os.path.realpath(sys.executable), *binaries], capture_output=True, text=True, check=False
    )  # fmt: skip
    for path in re.findall(r"=> (/\S+)", linked.stdout):
        stage.add(path)


def stage_checkout(stage: Stage) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name:
            stage.add(ROOT / name)


def stage_modules(stage: Stage, modules: Path) -> None:
    """Copy `MODULES` and what they need, in the order to load them."""
    files = {
        path.name.partition(".ko")[0].replace("-", "_"): path for path in modules.rglob("*.ko*")
    }
    order: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in order or name not in files:  # then it is a part of the kernel
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        match = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in (match[1].decode() if match else "").replace("-", "_").split(","):
            load(other)
        order[name] = data

    for name in MODULES:
        load(name)
    (stage.folder / "modules").mkdir()
    for number, (name, data) in enumerate(order.items()):
        (stage.folder / "modules" / f"{number:03}-{name}.ko").write_bytes(data)


def stage_rest(stage: Stage, options: argparse.Namespace) -> None:
    """The tester, and what the guest shall do."""
    for name in ("passwd", "group"):
        path = stage.folder / "etc" / name
        lines = [line for line in path.read_text().splitlines() if f":{_TESTER}:" not in line]
        tester = {
            "passwd": f"tester:x:{_TESTER}:{_TESTER}::/home/tester:/bin/sh",
            "group": f"tester:x:{_TESTER}:",
        }
        stage.write(f"etc/{name}", "\n".join([*lines, tester[name], ""]))
    for name in ("subuid", "subgid"):
        stage.write(f"etc/{name}", "tester:100000:65536\n")
    stage.write("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n")
    stage.write("etc/hostname", "guest\n")
    guest = Path(__file__).with_name("guest.py").read_text()
    stage.write("init", guest, 0o755)
    users = {"root": 0, "user": _TESTER}
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}  # fmt: skip
    job = {
        "command": [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-o", "console_output_style=count",
            "-m", "not slow", f"--timeout={options.timeout}",
        ],
        "directory": str(ROOT), "environment": environment,
        "passes": [
            {"name": name, "uid": users[name], "user": "tester" if users[name] else "root",
             "arguments": options.tests or list(CORE)}
            for name in options.users
        ],
    }  # fmt: skip
    stage.write("job.json", json.dumps(job))


def write_image(stage: Path, image: Path) -> None:
    """Make an ext4 of a directory, in which all belongs to root (in a user namespace, it does)."""
    image.unlink(missing_ok=True)
    prefix = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin") or "mke2fs"
    command = [
        *prefix,
        mke2fs,
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-m",
        "0",
        "-d",
        str(stage),
    ]
    subprocess.run([*command, str(image), "12G"], check=True)  # sparse


def boot(image: Path, kernel_image: Path, results: Path, options: argparse.Namespace) -> bool:
    """Run the guest until it switches itself off; False if it took too long or never lived."""
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    accelerators = [options.accelerator] if options.accelerator else ["kvm", "tcg"][not usable :]
    for accelerator in accelerators:
        if accelerator == "tcg":
            print("Without KVM, the guest is emulated, some ten times as slow.", flush=True)
        with results.open("wb") as file:
            file.truncate(64 << 20)
        command = qemu(accelerator, image, kernel_image, results, options)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        limits = [threading.Timer(options.minutes * 60, process.kill)]
        if accelerator == "kvm":  # some processors of virtual machines cannot run any kernel
            limits.append(threading.Timer(_FIRST_WORD_S, process.kill))
        for timer in limits:
            timer.start()
        alive = False
        try:
            for line in process.stdout or ():
                alive = alive or line.startswith(b"Linux ")
                if alive:
                    limits[-1].cancel() if accelerator == "kvm" else None
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
            code = process.wait()
        finally:
            for timer in limits:
                timer.cancel()
            process.kill()
            process.wait()
        if alive:
            return code == 0
        print(f"The guest did not live ({accelerator}).", flush=True)
    return False


def qemu(
    accelerator: str, image: Path, kernel_image: Path, results: Path, options: argparse.Namespace
) -> list[str]:
    """Return the command of a machine without a network, whose console is its standard output."""
    processor = "host,arch-capabilities=off" if accelerator == "kvm" else "max"
    return [
        "qemu-system-x86_64", "-accel", accelerator, "-cpu", processor,
        "-machine", "q35", "-smp", str(options.processors), "-m", options.memory, "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel_image),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off root=/dev/nvme0n1 rw rootwait init=/init",
        # The image stays as it is; NVMe is a part of the kernel, other disks are modules.
        "-drive", f"file={image},if=none,id=root,format=raw,cache=unsafe,snapshot=on",
        "-drive", f"file={results},if=none,id=results,format=raw,cache=unsafe",
        "-device", "nvme,id=disks,serial=1", "-device", "nvme-ns,drive=root,bus=disks,nsid=1",
        "-device", "nvme-ns,drive=results,bus=disks,nsid=2",
    ]  # fmt: skip


def evaluate(folder: Path, users: Iterable[str]) -> bool:
    """Print what each pass came to, and what failed; True if nothing did."""
    good = True
    for user in users:
        try:
            result: dict[str, Any] = json.loads((folder / user / "result.json").read_text())
            suites = list(ElementTree.parse(folder / user / "junit.xml").iter("testsuite"))
        except OSError:
            print(f"{user}: did not come to its end")
            good = False
            continue
        total = {
            kind: sum(int(suite.get(kind, "0")) for suite in suites)
            for kind in ("tests", "failures", "errors", "skipped")
        }
        bad = total["failures"] + total["errors"]
        passed = total["tests"] - bad - total["skipped"]
        print(
            f"{user}: {result['kernel']}: {passed} passed, {bad} failed, {total['skipped']} skipped "
            f"in {result['seconds']:.0f} s"
        )
        for case in (case for suite in suites for case in suite.iter("testcase")):
            for element in case:
                if element.tag in ("failure", "error"):
                    first = (element.get("message") or "").partition("\n")[0]
                    print(f"  {case.get('classname')}::{case.get('name')}: {first[:200]}")
        good = good and result["exit"] == 0
    return good


@contextlib.contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """A directory on the disk of the cache, which has room for an image."""
    with tempfile.TemporaryDirectory(prefix="guest-", dir=cache) as name:
        yield Path(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tests", nargs="*", help="arguments of pytest instead of the core")
    parser.add_argument("--kernel", type=Path, help="a .deb; else apt's linux-image-cloud-amd64")
    parser.add_argument("--cache", type=Path, default=ROOT / ".tox" / "kernels-cache")
    parser.add_argument("--user", action="append", choices=["root", "user"], help="else both")
    parser.add_argument("--accelerator", choices=["kvm", "tcg"], help="of qemu; else what works")
    parser.add_argument("--minutes", type=float, default=90, help="then the guest is killed")
    parser.add_argument("--timeout", type=int, default=120, help="of a test, in seconds")
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--memory", default="4G")
    options = parser.parse_args()
    options.users = options.user or ["root", "user"]
    if shutil.which("qemu-system-x86_64") is None:
        raise SystemExit("needs qemu-system-x86_64 (Debian: qemu-system-x86, see .ci/setup)")
    options.cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    kernel_image, modules = kernel(options.kernel, options.cache)
    with scratch(options.cache) as folder:
        stage = Stage(folder / "root")
        stage.folder.mkdir()
        stage_system(stage)
        stage_python(stage)
        stage_checkout(stage)
        stage_modules(stage, modules)
        stage_rest(stage, options)
        write_image(stage.folder, folder / "root.img")
        shutil.rmtree(stage.folder)
        print(f"The guest's disk was made in {time.monotonic() - started:.0f} s.", flush=True)
        ended = boot(folder / "root.img", kernel_image, folder / "results", options)
        results = options.cache / "results"
        shutil.rmtree(results, ignore_errors=True)
        try:
            with tarfile.open(folder / "results") as tar:
                tar.extractall(results, filter="data")
        except tarfile.TarError:
            print("The guest wrote no results." if ended else "The guest was killed.", flush=True)
    good = evaluate(results, options.users)
    print(f"{time.monotonic() - started:.0f} s in all; {results} has the output.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
