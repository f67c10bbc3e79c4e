"""The store: what is made, saved, found damaged, held and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, busybox, digest, layer, member, output
from helpers.registry import skopeo

import pytest_containers as pc
from pytest_containers.runtime import identity

pytestmark = pytest.mark.slow
MakeEngine = Callable[..., pc.Engine]


def loaded(engine: pc.Engine, layout: Layout, base: bytes, name: str = "app:1") -> str:
    source = layout.image([base, layer([member("data", b"hello\n", mode=0o644)])])
    assert engine.images.load(source.removeprefix("oci:"), name=name) == [name]
    return name


# ---------------------------------------------------------------------- commit


@pytest.mark.long
def test_commit(own_engine: MakeEngine, layout: Layout, base: bytes) -> None:
    """New, changed and removed files, and a directory that was made anew, as `docker commit`."""
    lower = layer([
        member("old", type=tarfile.DIRTYPE), member("old/file", b"x"), member("gone", b"x"),
        member("kept", b"kept\n"), member("changed", b"before\n"),
    ])  # fmt: skip
    image = layout.image([base, lower], {"Env": ["A=1", "PATH=/bin"], "Cmd": ["/bin/sh"]})
    engine = own_engine()
    with engine.run(
        image, ["/bin/sh", "-c", "echo after > changed; echo new > new; read x"], tty=True
    ) as c:
        pc.wait.file("/new").until(c, pc.wait.Deadline(60))
        pc.wait.callable(lambda found: found.read_text("/new") == "new\n").until(
            c, pc.wait.Deadline(60)
        )
        made = c.commit("made:1", changes={"Cmd": ["/bin/sh", "-c", "read a < changed; echo $a; echo *"]},
                        message="what for", author="who")  # fmt: skip
        assert c.status == "running"
    with engine.run("made:1", wait_ready=False) as again:
        assert again.wait(60) == 0
        first, names = again.logs().stdout.splitlines()
    assert first == "after"
    assert {"new", "kept", "changed", "gone"} <= set(names.split())
    found = engine.images.inspect("made:1")
    assert found["config"]["Env"] == ["A=1", "PATH=/bin"]
    assert made.id == found["id"]
    step = engine.images.history("made:1")[0]
    assert (step["comment"], step["created_by"]) == ("what for", "pytest-containers commit")


@pytest.mark.needs("id range")
@pytest.mark.long
def test_commit_of_removals(own_engine: MakeEngine, layout: Layout) -> None:
    programs = ("rm", "mkdir", "ln", "mkfifo", "chown", "chmod", "ls", "stat")
    lower = [
        member("etc/gone", b"x"), member("share/doc/old", b"x"), member("env", b"x"),
    ]  # fmt: skip
    engine = own_engine()
    image = layout.image([layer(busybox(*programs)), layer(lower)], {"Env": ["PATH=/bin"]})
    script = (
        "rm /etc/gone; rm -r /share/doc; mkdir /share/doc; echo x > /share/doc/only;"
        "ln /env /linked; ln /linked /again; mkfifo /fifo; chown 7:8 /linked; chmod 4711 /linked"
    )
    with engine.run(image, ["/bin/sh", "-ec", script], wait_ready=False) as container:
        assert container.wait(60) == 0, container.logs()
        container.commit("removed:1")  # it has ended: that makes no difference
    look = "ls /etc; ls /share/doc; stat -c '%u %g %a %h' /linked; test -p /fifo"
    with engine.run("removed:1", ["/bin/sh", "-c", look], wait_ready=False) as container:
        assert container.wait(60) == 0
        shown = container.logs().stdout.split("\n")
    assert "gone" not in shown
    assert shown[-3:] == ["only", "7 8 4711 3", ""]


# --------------------------------------------------------------- save and load


def blobs(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = {}
        for one in tar:
            file = tar.extractfile(one)
            found[one.name] = file.read() if file else b""
        return found


@pytest.mark.needs("skopeo")
def test_save_and_load_are_byte_for_byte(
    own_engine: MakeEngine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    before = engine.images.inspect(name)
    engine.images.tag(name, "other/name:2")
    engine.images.save([name, "other/name:2"], tmp_path / "saved.tar")
    engine.images.save([name, "other/name:2"], tmp_path / "again.tar")
    assert (tmp_path / "saved.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    for file in layout.path.glob("blobs/sha256/*"):
        assert blobs(tmp_path / "saved.tar")[f"blobs/sha256/{file.name}"] == file.read_bytes()
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        assert sorted(other.images.load(tmp_path / "saved.tar")) == ["app:1", "other/name:2"]
        after = other.images.inspect(name)
        assert (after["digest"], after["id"]) == (before["digest"], before["id"])
        assert output(other, "other/name:2", "read x < /data; echo $x") == "hello\n"
    raw = skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/saved.tar:docker.io/library/app:1")
    assert digest(raw.encode()) == before["digest"]


@pytest.mark.needs("skopeo", "podman")
def test_others_take_what_we_save(
    own_engine: MakeEngine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    engine.images.save([name], tmp_path / "saved.tar")
    skopeo("copy", "--quiet", f"docker-archive:{tmp_path}/saved.tar:app:1", f"dir:{tmp_path}/out")
    engine.images.save([name], tmp_path / "out-layout", form="layout")
    skopeo(
        "copy",
        "--quiet",
        f"oci:{tmp_path}/out-layout:docker.io/library/app:1",
        f"dir:{tmp_path}/out2",
    )
    assert output(engine, f"oci:{tmp_path}/out-layout", "echo again") == "again\n"
    with pytest.raises(pc.ImageError, match="is there already; name another"):
        engine.images.save([name], tmp_path / "out-layout", form="layout")


def test_save_of_what_is_not_there(own_engine: MakeEngine, tmp_path: Path) -> None:
    with pytest.raises(pc.ImageNotFoundError, match="'nothing:latest' is not in the store"):
        own_engine().images.save(["nothing"], tmp_path / "x.tar")
    assert list(tmp_path.glob("*.tar*")) == []


def test_an_import_can_be_shared(own_engine: MakeEngine, base: bytes, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(base)
    engine = own_engine()
    engine.images.import_rootfs(
        tmp_path / "root.tar", "imported:1", {"Cmd": ["/bin/sh", "-c", "echo in"]}
    )
    engine.images.save(["imported:1"], tmp_path / "saved.tar")
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        other.images.load(tmp_path / "saved.tar")
        with other.run("imported:1", wait_ready=False) as container:
            container.wait(60)
            assert container.logs().stdout == "in\n"


# ----------------------------------------------------------------------- prune


def layers_of(engine: pc.Engine) -> int:
    return len(list((engine.images.library.store.home / "layers").rglob("record.json")))


def test_prune_removes_what_no_name_leads_to(
    own_engine: MakeEngine, layout: Layout, base: bytes
) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    engine.images.tag(name, "other:1")
    engine.images.remove(name)
    assert engine.images.prune().layers == 0
    engine.images.remove("other:1")
    told = engine.images.prune(dry_run=True)
    assert layers_of(engine) == 2
    done = engine.images.prune()
    assert (done.layers, done.blobs, done.held) == (told.layers, told.blobs, 0) == (2, 4, 0)
    assert done.freed_bytes == told.freed_bytes > len(base) / 2
    assert layers_of(engine) == 0
    assert list((engine.images.library.store.home / "blobs" / "sha256").iterdir()) == []


def test_prune_keeps_what_a_live_run_uses(
    own_engine: MakeEngine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    """In another process, also when that one is killed: the lock dies with the run."""
    engine = own_engine()
    name = loaded(engine, layout, base)
    code = (
        "import sys, pytest_containers as pc\n"
        "engine = pc.Engine(home=sys.argv[1])\n"
        "container = engine.run(sys.argv[2], ['/bin/sh', '-c', 'read x'], tty=True)\n"
        "print('runs', flush=True); sys.stdin.readline()\n"
        "print(container.exec(['/bin/sh', '-c', 'read x < /data; echo $x'], text=True).stdout, end='', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "store"), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "runs\n"
    assert engine.images.prune(all_unused=True).names == []
    engine.images.remove(name)
    assert engine.images.prune().held == 2
    assert layers_of(engine) == 2
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "hello\n"
    with pytest.raises(pc.ImageError, match="a live run uses 2 layers"):
        engine.images.cache_clear()
    child.kill()
    child.communicate()
    end = time.monotonic() + 60
    while engine.images.prune().held and time.monotonic() < end:
        time.sleep(0.02)
    assert layers_of(engine) == 0


@pytest.mark.long
def test_prune_by_age_and_size(own_engine: MakeEngine, tmp_path: Path, base: bytes) -> None:
    engine = own_engine()
    for number in range(3):
        noise = layer([member("noise", os.urandom(1_000_000))])
        source = Layout(tmp_path / str(number)).image([base, noise])
        engine.images.load(source.removeprefix("oci:"), name=f"app:{number}")
        path = next(
            path for path in (engine.images.library.store.home / "images").glob("*.json")
            if f"app:{number}" in path.read_text()
        )  # fmt: skip
        when = time.time() - (10 - number) * 3600
        os.utime(path, (when, when))
    assert engine.images.prune(unused_for_s=9.5 * 3600).names == ["app:0"]
    # Each of the others has a megabyte, as an archive and unpacked; what they share counts once.
    total = sum(one["size_bytes"] + one["compressed_bytes"] for one in engine.images.list()[:1])
    assert engine.images.prune(keep_bytes=total + 1000).names == ["app:1"]
    assert [one["name"] for one in engine.images.list()] == ["app:2"]
    assert output(engine, "app:2", "echo fine") == "fine\n"


@pytest.mark.long
def test_use_counts_as_use(own_engine: MakeEngine, layout: Layout, base: bytes) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    path = next((engine.images.library.store.home / "images").glob("*.json"))
    os.utime(path, (0, 0))
    assert engine.images.list()[0]["used_at"] == 0
    output(own_engine(), name, "echo")
    assert engine.images.list()[0]["used_at"] > time.time() - 60


# ----------------------------------------------------------------- durability


def damage(path: Path) -> None:
    status = path.stat()
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_finds_and_mends(own_engine: MakeEngine, layout: Layout, base: bytes) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    assert engine.images.verify() == []
    damage(engine.image(name).layers[1].path / "data")
    (finding,) = engine.images.verify()
    assert finding.problem == "/data has other contents"
    assert finding.repaired
    assert engine.images.verify() == []
    assert output(own_engine(), name, "read x < /data; echo $x") == "hello\n"


def test_verify_does_not_take_a_layer_from_a_live_run(
    own_engine: MakeEngine, layout: Layout, base: bytes
) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    damage(engine.image(name).layers[1].path / "data")
    with engine.run(name, ["/bin/sh", "-c", "read x"], tty=True):
        (finding,) = engine.images.verify()
    assert not finding.repaired


@pytest.mark.needs("docker-registry", "skopeo")
@pytest.mark.long
def test_a_damaged_archive_is_fetched_again(
    own_engine: MakeEngine, plain_registry: str, published: Callable[[str], str]
) -> None:
    name = f"{plain_registry}/{published('damaged')}"
    engine = own_engine()
    engine.image(name)
    found = engine.images.inspect(name)
    damage(
        engine.images.library.store.home / "blobs" / found["layers"][0]["digest"].replace(":", "/")
    )
    damage(engine.images.library.store.home / "blobs" / found["id"].replace(":", "/"))
    findings = engine.images.verify()
    assert [(one.problem, one.repaired) for one in findings] == [("is damaged", True)] * 2
    assert engine.images.verify() == []


@pytest.mark.needs("docker-registry", "skopeo")
def test_a_damaged_config_is_never_served(
    own_engine: MakeEngine, plain_registry: str, published: Callable[[str], str]
) -> None:
    name = f"{plain_registry}/{published('config')}"
    engine = own_engine()
    engine.image(name)
    damage(
        engine.images.library.store.home
        / "blobs"
        / engine.images.inspect(name)["id"].replace(":", "/")
    )
    with pytest.raises(pc.ImageError, match="does not match its digest"):
        own_engine(pull="never").image(name)
    assert output(own_engine(), name, "echo mended") == "mended\n"


def wait_until_settled(tree: Path) -> None:
    end = time.monotonic() + 30
    while not (tree.parent / "settled").exists() and time.monotonic() < end:
        time.sleep(0.01)


def test_after_an_unclean_boot_layers_are_unpacked_again(
    own_engine: MakeEngine, layout: Layout, base: bytes
) -> None:
    """Whatever was not known to be on the disk when the machine went down may be anything."""
    engine = own_engine()
    name = loaded(engine, layout, base)
    tree = engine.image(name).layers[1].path
    wait_until_settled(tree)
    damage(tree / "data")
    record = json.loads((tree.parent / "record.json").read_text())
    (tree.parent / "record.json").write_text(json.dumps({**record, "boot_id": "another"}))
    (tree.parent / "settled").unlink()
    assert output(own_engine(), name, "read x < /data; echo $x") == "hello\n"


def test_what_is_on_the_disk_is_not_looked_at_again(
    own_engine: MakeEngine, layout: Layout, base: bytes
) -> None:
    engine = own_engine()
    name = loaded(engine, layout, base)
    tree = engine.image(name).layers[1].path
    wait_until_settled(tree)
    inode = tree.stat().st_ino
    record = json.loads((tree.parent / "record.json").read_text())
    (tree.parent / "record.json").write_text(json.dumps({**record, "boot_id": "another"}))
    output(own_engine(), name, "echo")
    assert tree.stat().st_ino == inode


# ----------------------------------------------------------------------- cache


@pytest.mark.needs("docker-registry", "skopeo")
def test_a_cache_goes_to_another_machine(
    own_engine: MakeEngine, proxy: object, plain_registry: str, published: Callable[[str], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    name = f"{plain_registry}/{published('cached')}"
    engine = own_engine()
    engine.image(name)
    assert engine.images.cache_export(tmp_path / "cache.tar") == [name]
    assert (tmp_path / "cache.tar").stat().st_uid == os.geteuid()
    with pc.Engine(home=tmp_path / "elsewhere", pull="never") as other:
        assert other.images.cache_import(tmp_path / "cache.tar") == [name]
        assert output(other, name, "read x < /data; echo $x") == "cached\n"
        assert other.images.inspect(name)["origin"] == f"{plain_registry}/cached"
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        other.images.cache_clear()
        assert other.images.list() == []
        assert list((tmp_path / "elsewhere" / "layers").iterdir()) == []


def test_a_cache_that_is_none(
    own_engine: MakeEngine, layout: Layout, base: bytes, tmp_path: Path
) -> None:
    layout.image([base])
    with pytest.raises(pc.ImageError, match="was not made by `cache export`; use `load`"):
        own_engine().images.cache_import(layout.path)
    with pytest.raises(pc.ImageError, match="there is no image in"):
        own_engine().images.cache_export(tmp_path / "x.tar")


def test_equal_trees_make_equal_layers(own_engine: MakeEngine, base: bytes, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(base)
    ids = []
    for number in range(2):
        with pc.Engine(home=tmp_path / f"s{number}") as engine:
            ids.append(engine.images.import_rootfs(tmp_path / "root.tar", "x:1").id)
    assert ids[0] == ids[1]


# ------------------------------------------------------------- stores that are no good


def test_a_store_of_a_newer_version(own_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "version").write_text("999\n")
    with pytest.raises(pc.ImageError, match="has format '999' .* upgrade pytest-containers"):
        own_engine().image("host:")


def test_a_directory_that_is_no_store(own_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "precious").write_text("x")
    with pytest.raises(pc.ImageError, match="is not an image store and not empty"):
        own_engine().image("host:")
    assert os.listdir(tmp_path / "store") == ["precious"]


def test_a_store_that_cannot_be_made(own_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(pc.ImageError, match="cannot store images in .*: Not a directory"):
        own_engine(home=tmp_path / "file" / "store").image("host:")


@pytest.mark.needs("root")
def test_a_store_of_somebody_else(own_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.chown(tmp_path / "store", 12345, 12345)
    with pytest.raises(pc.ImageError, match="belongs to user 12345 and not to you"):
        own_engine().image("host:")


def test_layers_are_made_only_with_the_ids_that_they_are_named_for(
    own_engine: MakeEngine, layout: Layout, base: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account is added between two looks at /etc/subuid, in two processes."""
    engine = own_engine()
    monkeypatch.setattr(identity, "FIXED_START", 1 << 30)
    source = layout.image([base])
    if os.geteuid() == 0 and not identity.subordinate(identity.SUBUID, 0):
        with pytest.raises(pc.ImageError, match="has changed while it started"):
            engine.run(source, ["sh", "-c", "exit 0"])
    monkeypatch.undo()
    with own_engine().run(source, ["sh", "-c", "exit 0"], wait_ready=False) as container:
        assert container.wait(60) == 0


def test_a_run_that_is_up_says_which_ids_it_has(
    own_engine: MakeEngine, layout: Layout, base: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not worked out again, as accounts may have been added since."""
    engine = own_engine()
    engine.run("host:", ["true"], wait_ready=False).wait(60)
    monkeypatch.setattr(identity, "FIXED_START", 1 << 30)
    with engine.run(layout.image([base]), ["sh", "-c", "exit 0"], wait_ready=False) as container:
        assert container.wait(60) == 0


def test_holds_of_ended_runs_do_not_pile_up(tmp_path: Path) -> None:
    from pytest_containers.images.store.holds import LayerHold
    from pytest_containers.images.store.store import Store

    store = Store(tmp_path)
    with LayerHold(store, []) as lasting:
        for _ in range(100):
            LayerHold(store, []).close()
        names = os.listdir(tmp_path / "holds")
        assert len(names) <= 17
        inode = os.fstat(lasting.fd).st_ino
        assert inode in {(tmp_path / "holds" / name).stat().st_ino for name in names}
