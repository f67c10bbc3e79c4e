"""Stores and bound directories on each kind of file system, with the owners that files have there.

A process of its own works in each place, since what a run can do is decided when it starts.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, busybox, layer, member, output

import pytest_containers as pc
from pytest_containers.images.store.store import boot_id
from pytest_containers.linux.filesystems import without_idmapped_mounts
from pytest_containers.linux.mount import MS_RDONLY, MS_REMOUNT, mount, umount

KERNEL = tuple(map(int, os.uname().release.split(".")[:2]))
STAT = "stat -c '%n %u:%g' "
WORK = """
import contextlib, io, json, os, sys
from pathlib import Path
import pytest_containers as pc
from pytest_containers.cli import main

place, image, identity = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
root = os.geteuid() == 0
os.environ["PYTEST_CONTAINERS_HOME"] = str(place / "store")
told = {}

def owners(engine, image, script, **options):
    with engine.run(image, ["/bin/sh", "-c", script], wait_ready=False, **options) as container:
        code = container.wait(60)
        output = container.logs()
        if code or output.stderr:
            raise SystemExit(f"{script}: {code} {output}")
        return dict(line.split() for line in output.stdout.splitlines())

def stat(*names):
    return {name: f"{(bound / name).stat().st_uid}:{(bound / name).stat().st_gid}" for name in names}

bound = place / "bound"
bound.mkdir(mode=0o777)
bound.chmod(0o777)
(bound / "ours").write_text("x")
(bound / "ours").chmod(0o600)
if root:
    (bound / "theirs").write_text("x")
    os.chown(bound / "theirs", 1234, 4321)
with pc.Engine(home=place / "store", identity=identity) as engine:
    told["identity"], told["reason"] = engine.facts["identity"], engine.facts["identity_reason"]
    told["image"] = owners(engine, image, "stat -c '%n %u:%g' /zero /user")
    told["host"] = owners(engine, "host:", "stat -c '%n %u:%g' / /usr /usr/bin/env /root; touch /root/x /tmp/x")
    mounts = [pc.Bind(bound, "/data")]
    read = "/data/theirs" if root else ""
    told["seen"] = owners(engine, "host:", f"cd /data; cat ours >/dev/null; stat -c '%n %u:%g' ours {read}; echo > made", mounts=mounts)
    told["made"] = stat("ours", "made")
    if root:
        owners(engine, "host:", "echo >> /data/theirs; echo > /data/other", mounts=mounts, user="1234:4321")
        told["made"] |= stat("theirs", "other")
    with engine.run(image, ["/bin/sh", "-c", "echo > /new; chown 7:8 /new; rm /zero"], wait_ready=False) as container:
        container.wait(60)
        try:
            snapshot = container.snapshot()
        except pc.ContainersError as error:
            told["refusal"] = str(error)
        else:
            told["snapshot"] = owners(engine, snapshot, "stat -c '%n %u:%g' /new /user; test ! -e /zero")
with contextlib.redirect_stdout(io.StringIO()) as output:
    main(["doctor", "--json"])
told["doctor"] = {one["name"]: one for one in json.loads(output.getvalue())["features"]}
print(json.dumps(told))
"""
ON_OVERLAY = """
# Executes a program with an overlay as root directory, as in a container of others.
import json, os, sys
PLACE = "/srv/place"
from pytest_containers.linux.filesystems import without_idmapped_mounts
from pytest_containers.linux.mount import MNT_DETACH, MS_PRIVATE, MS_REC, mount, pivot_root, umount
from pytest_containers.linux.process import CLONE_NEWNS, unshare
folder = sys.argv[1]
unshare(CLONE_NEWNS)
mount(None, "/", None, MS_REC | MS_PRIVATE)
mount("tmpfs", folder, "tmpfs")
for name in ("upper", "work", "root"):
    os.mkdir(f"{folder}/{name}")
new = f"{folder}/root"
mount("overlay", new, "overlay", 0, f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work")
for name in ("proc", "sys", "dev"):
    mount(f"/{name}", f"{new}/{name}", None, 4096 | MS_REC)
for path in json.loads(sys.argv[2]):  # may be mounts of their own
    os.makedirs(new + path, exist_ok=True)
    mount(path, new + path, None, 4096)
os.makedirs(new + PLACE)
os.chdir(new)
pivot_root(".", ".")
umount(".", MNT_DETACH)
os.chdir("/")
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
LOOP = {"ext4": "mkfs.ext4", "xfs": "mkfs.xfs", "btrfs": "mkfs.btrfs"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose files have two owners."""
    members = [
        member("zero", b"x"),
        member("user", b"x", uid=1000, gid=50),
        member("tmp/.keep", b"x"),
    ]
    programs = layer(busybox("stat", "chown", "rm"))
    return Layout(tmp_path_factory.mktemp("image") / "layout").image([programs, layer(members)])


def result_of(command: list[str], place: Path, image: str, identity: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "-c", WORK, str(place), image, identity],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def check(told: dict[str, Any], identity: str, *, overlay: bool = False) -> None:
    """All files have the owners that they should have, on both sides."""
    root = os.geteuid() == 0
    own = f"{os.geteuid()}:{os.getegid()}"
    assert told["identity"] == identity
    assert told["image"] == {"/zero": "0:0", "/user": "1000:50"}
    if overlay and KERNEL < (6, 8):
        assert "set PYTEST_CONTAINERS_HOME to a directory on another file" in told["refusal"]
    else:
        assert told["snapshot"] == {"/new": "7:8", "/user": "1000:50"}
    ours = {"/": "0:0", "/root": "0:0"}
    assert {name: told["host"][name] for name in ours} == ours
    assert told["made"].items() >= {"ours": own, "made": own}.items()
    assert told["seen"]["ours"] == "0:0"
    if root:
        assert told["host"] == {**ours, "/usr": "0:0", "/usr/bin/env": "0:0"}
        assert told["seen"]["/data/theirs"] == "1234:4321"
        assert told["made"]["theirs"] == told["made"]["other"] == "1234:4321"
    doctor = told["doctor"]
    assert doctor["a container"]["present"]
    assert doctor["snapshots"]["present"] is ("refusal" not in told)
    assert told["reason"] in doctor["user ids"]["detail"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system for this process and its children."""
    places: list[Path] = []

    def make(source: str, fstype: str, options: str | None = None) -> Path:
        place = tmp_path / "place"
        place.mkdir()
        if Path(source).is_file():
            subprocess.run(["mount", "-o", "loop", "-t", fstype, source, place], check=True)
        else:
            mount(source, str(place), fstype, 0, options)
        places.append(place)
        place.chmod(0o777)
        return place

    yield make
    for place in places:
        umount(str(place))  # what is left of a run that ends may be in it still


def identity_on(kind: str) -> str:
    """What root has: another identity where tmpfs (before Linux 6.3), or all, cannot be mapped."""
    machine = [without_idmapped_mounts(path) for path in ("/usr", "/tmp")]
    return "range" if any(machine) or (kind == "tmpfs" and KERNEL < (6, 3)) else "root"


@pytest.mark.needs("root")
@pytest.mark.long
def test_on_tmpfs(mounted: Callable[..., Path], image: str) -> None:
    place = mounted("tmpfs", "tmpfs")
    told = result_of([sys.executable], place, image, "auto")
    check(told, identity_on("tmpfs"))


@pytest.mark.needs("root", "loop devices")
@pytest.mark.parametrize("kind", LOOP)
def test_on_a_disk(mounted: Callable[..., Path], tmp_path: Path, image: str, kind: str) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run([LOOP[kind], disk], check=True, capture_output=True)
    check(result_of([sys.executable], mounted(str(disk), kind), image, "auto"), identity_on(kind))


@pytest.mark.needs("root")
def test_store_on_overlay(mounted: Callable[..., Path], tmp_path: Path, image: str) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    told = result_of([sys.executable], mounted("overlay", "overlay", options), image, "auto")
    check(told, "range", overlay=True)
    assert "overlay, the file system of" in told["reason"]


@pytest.mark.needs("root")
@pytest.mark.long
def test_all_on_overlay(tmp_path: Path, image: str) -> None:
    package = str(Path(pc.__file__).parents[1])
    shown = [sys.prefix, sys.base_prefix, package, image.removeprefix("oci:")]
    shown = [
        path
        for path in dict.fromkeys(shown)
        if not any(path.startswith(f"{other}/") for other in ["/usr", *shown])
    ]
    command = [sys.executable, "-c", ON_OVERLAY, str(tmp_path), json.dumps(shown)]
    told = result_of(command, Path("/srv/place"), image, "auto")
    check(told, "range", overlay=True)
    assert told["reason"] == "overlay, the file system of /usr, has no idmapped mounts here"
    assert told["doctor"]["direct addresses"]["present"]


@pytest.mark.needs("ordinary user")
def test_as_a_user_on_tmpfs(image: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", ignore_cleanup_errors=True) as name:
        check(result_of([sys.executable], Path(name), image, "auto"), "range")
        own = "from pytest_containers.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", own, "unshare", "rm", "-rf", f"{name}/store"]
        subprocess.run(command, check=True)


# ------------------------------------------------------------ read-only and full stores


@pytest.fixture
def small_store(mounted: Callable[..., Path]) -> Path:
    """A file system for a store, of 20 MB."""
    return mounted("tmpfs", "tmpfs", "size=20m")


@pytest.mark.needs("root")
def test_a_store_that_was_filled_is_used_read_only(
    small_store: Path, tmp_path: Path, image: str
) -> None:
    home = small_store / "store"
    with pc.Engine(home=home) as engine:
        engine.image(image)
        with engine.run("host:", ["true"]) as container:
            container.wait(60)
            container.snapshot(name="state")
    # As after a boot: what says that all of it is on the disk is not asked for.
    for record in (home / "layers").glob("*/*/record.json"):
        record.write_text(record.read_text().replace(boot_id(), "another"))
    files = sorted(home.rglob("*"))
    make_read_only(small_store)
    with pc.Engine(home=home) as engine:
        assert output(engine, image, STAT + "/user") == "/user 1000:50\n"
        assert output(engine, "host:", "echo x > /tmp/x; cat /tmp/x") == "x\n"
        with engine.run("state", ["true"]) as container:
            assert container.wait(60) == 0
        assert any("state" in one["name"] for one in engine.images.list())
        other = Layout(tmp_path / "other").image([layer([member("a", b"x")])])
        refusals = []
        for attempt in (lambda: engine.image(other), lambda: snapshot_of(engine)):
            with pytest.raises(pc.ContainersError) as caught:
                attempt()
            refusals.append(str(caught.value))
    for words in refusals:
        assert f" in {home}: Read-only file system; " in words
        assert "PYTEST_CONTAINERS_HOME" in words
    assert sorted(home.rglob("*")) == files


def make_read_only(place: Path) -> None:
    """Once nothing is open for writing there: the processes of a run may still be ending."""
    end = time.monotonic() + 20
    while True:
        try:
            return mount("tmpfs", str(place), "tmpfs", MS_REMOUNT | MS_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def snapshot_of(engine: pc.Engine) -> None:
    with engine.run("host:", ["true"]) as container:
        container.wait(60)
        container.snapshot()


@pytest.mark.needs("root")
def test_a_full_store_is_named(small_store: Path) -> None:
    home = small_store / "store"
    with pc.Engine(home=home) as engine:
        with engine.run("host:", ["true"]) as container:
            container.wait(60)
        free = os.statvfs(small_store)
        (small_store / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize))
        with pytest.raises(pc.ContainersError) as caught:
            snapshot_of(engine)
    assert str(home) in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "PYTEST_CONTAINERS_HOME" in str(caught.value)
