"""Images from archives: what is real, what is broken, what is hostile."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, Member, gzipped, layer, member, output

import pytest_containers as pc


@pytest.fixture(scope="module")
def engine(module_engine: pc.Engine) -> pc.Engine:
    return module_engine


def test_config_and_layers(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    config = {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $WHO in $PWD; read x < /data; echo $x"],
        "Env": ["WHO=image", "PATH=/bin"], "WorkingDir": "/work", "StopSignal": "SIGUSR1",
    }  # fmt: skip
    upper = layer([member("data", b"upper\n"), member("work", type=tarfile.DIRTYPE)])
    image = layout.image([base, layer([member("data", b"lower\n")]), upper], config)
    with engine.run(image, wait_ready=False) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "image in /work\nupper\n"
    assert output(engine, image, "echo other", entrypoint=()) == "other\n"


def test_whiteouts_and_opaque_directories(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    directory = {"type": tarfile.DIRTYPE}
    lower = [member(name, **directory) for name in ("d", "o", "d/sub")]
    lower += [
        member("gone", b"x"),
        member("d/gone", b"x"),
        member("d/stays", b"x"),
        member("o/old", b"x"),
    ]
    upper = [member(".wh.gone"), member("d/.wh.gone"), member("d/.wh.sub"),
             member("o", **directory), member("o/.wh..wh..opq"), member("o/new", b"x")]  # fmt: skip
    image = layout.image([base, layer(lower), layer(upper)])
    assert output(engine, image, "echo /gone* /d/* /o/*") == "/gone* /d/stays /o/new\n"


@pytest.mark.needs("id range")
def test_owners_modes_links_and_attributes(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    members = [
        member("own", b"data", uid=33, gid=44, mode=0o4711, mtime=1234567890),
        member("hard", type=tarfile.LNKTYPE, linkname="own"),
        member("soft", type=tarfile.SYMTYPE, linkname="own", uid=5, gid=6),
        member("fifo", type=tarfile.FIFOTYPE, mode=0o622),
        member("attr", b"x", pax_headers={"SCHILY.xattr.user.note": "kept"}),
        member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    ]
    image = layout.image([base, layer(members)])
    with engine.run(image, ["/bin/sh", "-c", "read x"], tty=True) as container:
        root = container.exec(["/bin/sh", "-c", "echo /*"], text=True).stdout.split()
        container.copy_out("/own", layout.path / "copy")
    assert "/device" in root  # a placeholder
    tree = engine.image(image).layers[1].path
    owned = os.lstat(tree / "own")
    if os.geteuid() == 0:
        shift = os.lstat(tree).st_uid
        assert (owned.st_uid - shift, owned.st_gid - shift) == (33, 44)
    assert oct(owned.st_mode & 0o7777) == "0o4711"
    assert owned.st_mtime == 1234567890
    assert os.lstat(tree / "hard").st_ino == owned.st_ino
    assert os.readlink(tree / "soft") == "own"
    assert os.getxattr(tree / "attr", "user.note") == b"kept"
    assert stat.S_ISSOCK(os.lstat(tree / "device").st_mode)


@pytest.mark.long
@pytest.mark.parametrize("older", [False, True])
def test_many_layers(store_home: Path, layout: Layout, base: bytes, older: bool) -> None:
    """The kernels before 6.15 take layers by path only, and 256 bytes of paths in all."""
    count = 60
    tops = [layer([member("number", str(one).encode(), mode=0o644)]) for one in range(count)]
    each = [layer([member(f"file{one}", b"", mode=0o644)]) for one in range(count)]
    image = layout.image([base, *tops, *each])
    with pc.Engine(home=store_home, force_fallback=older) as engine:
        assert engine.facts["features"]["detached_layers"] is (not older)
        for _ in range(2):
            script = "read -r x < number; set -- file*; echo $x; echo $#; echo x > number; > file"
            assert output(engine, image, script) == f"{count - 1}\n{count}\n"


@pytest.mark.long
def test_a_health_check_is_what_ready_means(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    check = {"Healthcheck": {"Test": ["CMD-SHELL", "read -r x < /healthy"], "Interval": 30 * 10**9}}
    image = layout.image([base], check)
    script = (
        "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo yes > /healthy; while :; do :; done"
    )
    with engine.run(image, ["/bin/sh", "-c", script]) as container:
        assert container.read_text("/healthy") == "yes\n"
    with pytest.raises(pc.NotReadyError, match="exit code 2"):
        engine.run(image, ["/bin/sh", "-c", "while :; do :; done"], ready_timeout_s=3)


def test_equal_layers_are_stored_once(engine: pc.Engine, tmp_path: Path, base: bytes) -> None:
    one = Layout(tmp_path / "one").image([base, layer([member("a", b"1")])])
    two = Layout(tmp_path / "two").image([base, layer([member("a", b"2")])])
    assert engine.image(one).layers[0] == engine.image(two).layers[0]
    assert engine.image(one).layers[1] != engine.image(two).layers[1]


def test_one_image_many_containers(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    image = layout.image([base])
    containers = [
        engine.run(image, ["/bin/sh", "-c", f"echo {n} > /own; read x < /dev/full"])
        for n in range(5)
    ]
    for number, container in enumerate(containers):
        pc.wait.file("/own").until(container, pc.wait.Deadline(60))
        assert container.read_text("/own") == f"{number}\n"
        container.remove()
    assert not (engine.image(image).layers[0].path / "own").exists()


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.needs("skopeo")
def test_archives_of_skopeo(
    engine: pc.Engine, layout: Layout, base: bytes, tmp_path: Path, form: str
) -> None:
    source = layout.image([base, layer([member("data", b"hello\n")])], {"Cmd": ["/bin/sh"]})
    target = {"oci": "oci:{}/out:tag", "oci-archive": "oci-archive:{}/out.tar:tag",
              "docker-archive": "docker-archive:{}/out.tar:local/app:1"}[form].format(tmp_path)  # fmt: skip
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", f"{source}:1", target]
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    path = tmp_path / ("out" if form == "oci" else "out.tar")
    assert output(engine, f"{form}:{path}", "read x < /data; echo $x") == "hello\n"
    names = engine.images.load(path, name="loaded/app:2")
    assert names == ["loaded/app:2"]
    assert output(engine, "loaded/app:2", "read x < /data; echo $x") == "hello\n"
    assert "loaded/app:2" in [one["name"] for one in engine.images.list()]
    engine.images.remove("loaded/app:2")
    with pytest.raises(pc.ImageNotFoundError, match="'loaded/app:2' is not in the store"):
        engine.images.pull("loaded/app:2", policy="never")


@pytest.mark.needs("umoci")
def test_a_layout_that_umoci_changed(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    layout.image([base])
    command = ["umoci", "config", "--image", f"{layout.path}:1", "--config.env", "BY=umoci",
               "--config.user", "0:0"]  # fmt: skip
    subprocess.run(command, check=True)
    assert output(engine, f"oci:{layout.path}:1", "echo $BY") == "umoci\n"


@pytest.mark.parametrize("compression", ["plain", "gzip", "bz2", "xz"])
def test_compressions(engine: pc.Engine, layout: Layout, base: bytes, compression: str) -> None:
    import bz2
    import lzma

    how = {"plain": bytes, "gzip": gzipped, "bz2": bz2.compress, "xz": lzma.compress}
    top = layer([member("data", compression.encode() + b"\n")])
    image = layout.image([base, top], compress=how[compression])
    assert output(engine, image, "read x < /data; echo $x") == f"{compression}\n"


@pytest.mark.parametrize("form", ["tar", "directory"])
def test_a_root_file_system(engine: pc.Engine, tmp_path: Path, base: bytes, form: str) -> None:
    tar = tmp_path / "root.tar"
    tar.write_bytes(base)
    path = tar
    if form == "directory":
        path = tmp_path / "root"
        path.mkdir()
        subprocess.run(["tar", "-xf", tar, "-C", path], check=True)
    assert output(engine, f"rootfs:{path}", "echo fine") == "fine\n"
    config = {"Cmd": ["/bin/sh", "-c", "echo imported"]}
    engine.images.import_rootfs(path, f"imported-{form}:1", config)
    with engine.run(f"imported-{form}:1", wait_ready=False) as container:
        container.wait(60)
        assert container.logs().stdout == "imported\n"


def test_wrong_architecture(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    with pytest.raises(pc.ImageError, match=r"is for linux/s390x; this machine is linux/"):
        engine.run(layout.image([base], arch="s390x"))


BROKEN: dict[str, tuple[str, Callable[[Path], None]]] = {}


def broken(words: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def register(change: Callable[[Path], None]) -> Callable[[Path], None]:
        BROKEN[change.__name__] = words, change
        return change

    return register


def largest(path: Path) -> Path:
    return max((path / "blobs" / "sha256").iterdir(), key=lambda blob: blob.stat().st_size)


@broken("truncated or damaged")
def truncated_layer(path: Path) -> None:
    data = largest(path).read_bytes()
    largest(path).write_bytes(data[: len(data) // 2])


@broken("broken or truncated|instead of sha256")
def flipped_byte(path: Path) -> None:
    blob = largest(path)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


@broken("No such file")
def missing_layer(path: Path) -> None:
    largest(path).unlink()


@broken("is not JSON")
def broken_index(path: Path) -> None:
    (path / "index.json").write_text("{")


@broken("is not a digest")
def hostile_digest(path: Path) -> None:
    index = json.loads((path / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
    (path / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives(engine: pc.Engine, layout: Layout, base: bytes, name: str) -> None:
    image = layout.image([base, layer([member("f", os.urandom(5_000_000))])])
    words, change = BROKEN[name]
    change(layout.path)
    before = sorted((engine.images.library.store.home / "layers").rglob("tree"))
    with pytest.raises(pc.ImageError, match=words):
        engine.run(image)
    engine.images.library.store.sweep()
    assert os.listdir(engine.images.library.store.home / "tmp") == []
    after = sorted((engine.images.library.store.home / "layers").rglob("tree"))
    assert len(after) <= len(before) + 1  # the good layer below may be new


def test_a_config_that_lies_about_a_layer(engine: pc.Engine, layout: Layout, base: bytes) -> None:
    image = layout.image([base], diff_ids=["sha256:" + "0" * 64])
    with pytest.raises(pc.ImageError, match="its diff_id is sha256:.* instead of sha256:000"):
        engine.run(image)


HOSTILE: dict[str, tuple[list[Member], str]] = {
    "dotdot": ([member("../../escaped", b"x")], "leads out of the archive"),
    "dotdot in the middle": ([member("a/../../escaped", b"x")], "leads out of the archive"),
    "hard link outside": (
        [member("x", type=tarfile.LNKTYPE, linkname="../../../etc/passwd")],
        "leads out",
    ),
    "hard link to nothing": (
        [member("x", type=tarfile.LNKTYPE, linkname="etc/passwd")],
        "not in the archive",
    ),
    "whiteout of dotdot": ([member(".wh...", b"")], "whiteout of '..'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused(engine: pc.Engine, layout: Layout, name: str) -> None:
    members, words = HOSTILE[name]
    with pytest.raises(pc.ImageError, match=words):
        engine.run(layout.image([layer(members)]))


def test_links_of_a_layer_lead_nowhere_outside(
    engine: pc.Engine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    members = [
        member("way", type=tarfile.SYMTYPE, linkname=str(outside)),
        member("way/in", b"x"),
        member("up", type=tarfile.SYMTYPE, linkname="../../../../../../../.." + str(outside)),
        member("up/in", b"x"),
        member("/absolute", b"x"),
        member("overlay", b"x", pax_headers={"SCHILY.xattr.user.overlay.redirect": "/etc"}),
    ]
    image = layout.image([base, layer(members)])
    try:
        engine.run(image, ["/bin/sh"]).remove()
    except pc.ImageError as error:
        assert "way" in str(error) or "No such file" in str(error)
    assert list(outside.iterdir()) == []
    assert not Path("/absolute").exists()


def test_what_speaks_to_overlayfs_is_dropped(
    engine: pc.Engine, layout: Layout, base: bytes
) -> None:
    headers = {"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.overlay.metacopy": ""}
    image = layout.image([base, layer([member("bin", type=tarfile.DIRTYPE, pax_headers=headers)])])
    assert output(engine, image, "echo still here") == "still here\n"


@pytest.mark.long
def test_processes_that_ask_at_once_unpack_once(
    layout: Layout, base: bytes, tmp_path: Path
) -> None:
    image = layout.image([base, layer([member("f", os.urandom(3_000_000))])])
    home = tmp_path / "home"
    code = (
        "import sys, pytest_containers as pc\n"
        "with pc.Engine(home=sys.argv[1]) as e, e.run(sys.argv[2], ['/bin/sh', '-c', 'echo ok']) as c:\n"
        "    c.wait(60); print(c.logs().stdout, end='')\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, home, image], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [child.communicate(timeout=60)[0] for child in children] == ["ok\n"] * 4
    assert len(list((home / "layers").rglob("record.json"))) == 2
    assert os.listdir(home / "tmp") == []


@pytest.mark.long
def test_a_kill_in_the_middle_of_unpacking_leaves_a_whole_store(
    layout: Layout, base: bytes, tmp_path: Path
) -> None:
    image = layout.image([base, layer([member(f"f{n}", os.urandom(100_000)) for n in range(200)])])
    home = tmp_path / "home"
    code = (
        "import sys, pytest_containers as pc\n"
        "e = pc.Engine(home=sys.argv[1]); print('go', flush=True); e.image(sys.argv[2])\n"
    )
    for delay_s in (0.05, 0.15, 0.25, 0.35):
        child = subprocess.Popen(
            [sys.executable, "-c", code, home, image], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        timer = threading.Timer(delay_s, child.kill)
        timer.start()
        child.communicate()
        timer.join()
    with pc.Engine(home=home) as engine:
        assert output(engine, image, "echo /f*").count("/f") == 200
        engine.images.library.store.sweep()
    left = list(os.listdir(home / "tmp"))
    assert left == []
    shutil.rmtree(home, ignore_errors=True)
