"""Frozen writable layers: what survives, what does not, and who may go on meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, layer, member

import pytest_containers as pc
from pytest_containers.model.wait import Deadline

MAKE = """
mkdir -p /srv/d/deep /srv/opaque; echo one > /srv/d/a; ln /srv/d/a /srv/d/b; ln -s a /srv/d/link
mkfifo /srv/fifo; truncate -s 50M /srv/sparse; echo end >> /srv/sparse
rm -rf /var/lib /etc/mime.types; rm -rf /var/log; mkdir /var/log
chmod 4755 /srv/d/deep; touch -d @1000000000 /srv/d/deep
python3 -c "
import os, socket
os.setxattr('/srv/d/a', 'user.note', b'kept')
socket.socket(socket.AF_UNIX).bind('/srv/socket')
os.setxattr('/srv/d/b', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))
"
"""
LOOK = """
import json, os, stat
facts = {
    "a": open("/srv/d/a").read(), "links": os.stat("/srv/d/b").st_nlink,
    "same": os.stat("/srv/d/a").st_ino == os.stat("/srv/d/b").st_ino,
    "link": os.readlink("/srv/d/link"), "fifo": stat.S_ISFIFO(os.stat("/srv/fifo").st_mode),
    "sparse": [os.stat("/srv/sparse").st_size, os.stat("/srv/sparse").st_blocks < 100],
    "deep": [oct(os.stat("/srv/d/deep").st_mode), os.stat("/srv/d/deep").st_mtime],
    "xattr": os.getxattr("/srv/d/a", "user.note").decode(),
    "capability": os.getxattr("/srv/d/b", "security.capability").hex(),
    "var": sorted(os.listdir("/var")), "log": os.listdir("/var/log"),
    "mime": os.path.exists("/etc/mime.types"), "socket": os.path.exists("/srv/socket"),
}
print(json.dumps(facts))
"""


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def facts_of(container: pc.Container) -> dict:
    return json.loads(container.exec(["python3", "-c", LOOK], check=True, text=True).stdout)


def test_everything_that_a_file_system_knows_survives(any_engine: pc.Engine) -> None:
    engine = any_engine
    container = engine.run("host:", ["sleep", "1000"])
    container.exec(["sh", "-ec", MAKE], check=True)
    before = facts_of(container)
    image = container.snapshot()
    after = facts_of(engine.run(image, ["sleep", "1000"]))
    assert before.pop("socket")
    assert not after.pop("socket")  # nobody listens on it
    assert after == before
    assert after["same"] and after["links"] == 2
    assert after["sparse"] == [50 * 2**20 + 4, True]
    assert "lib" not in after["var"] and after["log"] == [] and not after["mime"]


@pytest.mark.needs("id range")
def test_owners_survive(engine: pc.Engine) -> None:
    with engine.run("host:", ["sleep", "1000"]) as container:
        container.exec(["sh", "-c", "echo x > /srv/x; chown 33:12 /srv/x"], check=True)
        image = container.snapshot()
    with engine.run(image, ["stat", "-c", "%u:%g", "/srv/x"]) as second:
        second.wait()
        assert second.logs().stdout == "33:12\n"


def test_it_is_of_one_instant_and_the_container_goes_on(engine: pc.Engine) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i >> /srv/a; echo $i >> /srv/b; done"
    with engine.run("host:", ["sh", "-c", count], ready=pc.wait.file("/srv/b")) as container:
        images = [container.snapshot() for _ in range(5)]
        assert container.status == "running"
        for image in images:
            with engine.run(image, ["tail", "-qn1", "/srv/a", "/srv/b"]) as second:
                second.wait()
                a, b = map(int, second.logs().stdout.split())
                assert b in (a, a - 1)


def test_after_its_end(engine: pc.Engine) -> None:
    with engine.run("host:", ["sh", "-c", "echo x > /srv/x"]) as container:
        assert container.wait() == 0
        image = container.snapshot()
        assert container.snapshot().layers[-1].path != image.layers[-1].path
    with engine.run(image, ["cat", "/srv/x"]) as second:
        second.wait()
        assert second.logs().stdout == "x\n"


def test_both_go_on_independently_after_a_clone(engine: pc.Engine) -> None:
    script = "echo $HOSTNAME >> /srv/who; sleep 1000"
    options = {"ports": ["18432:8000"], "env": {"A": "1"}, "ready": pc.wait.file("/srv/who")}
    with engine.run("host:", ["sh", "-c", script], name="one", **options) as one:
        one.write_text("/srv/shared", "before")
        with one.clone("two", env={"A": "2"}) as two:
            assert two.read_text("/srv/shared") == "before"
            assert two.exec(["printenv", "A"], text=True).stdout == "2\n"
            one.write_text("/srv/shared", "one")
            two.write_text("/srv/shared", "two")
            assert (one.read_text("/srv/shared"), two.read_text("/srv/shared")) == ("one", "two")
            assert one.read_text("/srv/who") == "one\n"
            # It has begun anew on the files of the first.
            assert (
                pc.wait.callable(lambda c: c.read_text("/srv/who") == "one\ntwo\n").until(
                    two, Deadline(60)
                )
                is None
            )
            assert one.exec(["getent", "hosts", "two"]).returncode == 0


def test_nothing_is_copied_that_a_lower_layer_has(own_engine, layout: Layout, base: bytes) -> None:
    engine = own_engine()
    source = layout.image([base, layer([member("large", b"x" * 5_000_000, mode=0o644)])], {})
    engine.images.load(layout.path, name="large:1")
    assert source
    with engine.run("large:1", ["/bin/sh", "-c", "echo y > /small"]) as container:
        container.wait()
        image = container.snapshot()
    assert sum(f.stat().st_size for f in image.layers[-1].path.rglob("*") if f.is_file()) == 2
    assert [one.path for one in image.layers[:-1]] == [one.path for one in container.image.layers]


def test_of_a_snapshot_of_a_snapshot(engine: pc.Engine) -> None:
    image: object = "host:"
    for number in range(4):
        with engine.run(
            image,
            ["sh", "-c", f"echo {number} >> /srv/x; rm -f /srv/{number - 1}; touch /srv/{number}"],
        ) as container:
            container.wait()
            image = container.snapshot()
    with engine.run(image, ["sh", "-c", "cat /srv/x; ls /srv"]) as last:
        last.wait()
        assert last.logs().stdout.split() == ["0", "1", "2", "3", "3", "x"]


@pytest.mark.needs("docker-registry")
@pytest.mark.long
def test_a_named_one_is_an_image_as_any_other(
    own_engine, layout: Layout, base: bytes, plain_registry: str, tmp_path: Path
) -> None:
    engine = own_engine()
    layout.image([base], {"Cmd": ["/bin/sh", "-c", "read x < /data; echo $x"]})
    engine.images.load(layout.path, name="app:1")
    with engine.run("app:1", ["/bin/sh", "-c", "echo state > /data"]) as container:
        container.wait()
        container.snapshot(f"{plain_registry}/state:1")
    engine.images.push(f"{plain_registry}/state:1")
    engine.images.save([f"{plain_registry}/state:1"], tmp_path / "state.tar")
    other = own_engine(home=tmp_path / "other")
    for name in (f"{plain_registry}/state:1", f"oci-archive:{tmp_path / 'state.tar'}"):
        with other.run(name) as container:
            assert container.wait() == 0
            assert container.logs().stdout == "state\n"


def test_a_state_of_an_image_can_be_named_too(own_engine, layout: Layout, base: bytes) -> None:
    """A frozen layer in between is packed for the image that gets a name."""
    engine = own_engine()
    layout.image([base], {})
    engine.images.load(layout.path, name="app:1")
    with engine.run("app:1", ["/bin/sh", "-c", "echo one > /one"]) as container:
        container.wait()
        unnamed = container.snapshot()
    with engine.run(unnamed, ["/bin/sh", "-c", "echo two > /two"]) as container:
        container.wait()
        container.snapshot("both:1")
    with engine.run(
        "both:1", ["/bin/sh", "-c", "read a < /one; read b < /two; echo $a $b"]
    ) as last:
        assert last.wait() == 0
        assert last.logs().stdout == "one two\n"


def test_a_named_one_of_this_machines_programs(own_engine, tmp_path: Path) -> None:
    engine = own_engine()
    with engine.run("host:", ["sh", "-c", "echo x > /srv/x"]) as container:
        container.wait()
        container.snapshot("mine:1")
        container.snapshot("mine:1")
    engine.close()
    again = own_engine()
    with again.run("mine:1", ["cat", "/srv/x"]) as container:
        assert container.wait() == 0
        assert container.image.name == "mine:1"
    for operation in (
        again.images.push,
        lambda name: again.images.save([name], tmp_path / "x.tar"),
    ):
        with pytest.raises(pc.ImageError, match="based on this machine's own programs"):
            operation("mine:1")
    assert len(list((again.images.library.store.home / "states").glob("*/*.json"))) == 1
    again.images.remove("mine:1")
    again._core.images.forget_answers()
    with pytest.raises(pc.ImageNotFoundError):
        own_engine(pull="never").run("mine:1")


def test_a_named_one_of_a_state_of_this_machines_programs(own_engine) -> None:
    """What is below it stays, also when the state that it was is dropped."""
    engine = own_engine()
    with engine.run("host:?etc=mime.types", ["sh", "-c", "echo one > /srv/one"]) as container:
        container.wait()
        unnamed = container.snapshot()
    with engine.run(unnamed, ["sh", "-c", "echo two > /srv/two"]) as container:
        container.wait()
        assert container.snapshot("both:1").name == "both:1"
    with engine.run("both:1", ["sh", "-c", "echo three > /srv/three"]) as container:
        container.wait()
        container.snapshot("both:1")
        container.snapshot("all:1")
    with engine.run("both:1", ["sh", "-c", "rm /srv/one"]) as container:
        container.wait()
        container.snapshot("both:1")
    engine.close()
    again = own_engine()
    again.images.prune()
    for name, there in (("all:1", "one\nthree\ntwo\n"), ("both:1", "three\ntwo\n")):
        with again.run(name, ["ls", "/srv"]) as container:
            assert container.wait() == 0
            assert container.logs().stdout == there


def test_dropping_a_state_leaves_what_a_named_one_needs(own_engine) -> None:
    engine = own_engine()
    with engine.run("host:", ["sh", "-c", "echo one > /srv/one"]) as container:
        container.wait()
        container.snapshot("first:1")
    with engine.run("first:1", ["sh", "-c", "echo two > /srv/two"]) as container:
        container.wait()
        container.snapshot("second:1")
    engine.close()
    again = own_engine()
    again.images.prune()
    first = [one for one in again.images.library.states.all() if "first:1" in one.facts["name"]]
    again.states.drop(first)
    with again.run("second:1", ["ls", "/srv"]) as container:
        assert container.wait() == 0
        assert container.logs().stdout == "one\ntwo\n"
    with again.run("second:1", ["true"]) as container:
        again.images.remove("second:1")
        with pytest.raises(pc.ImageError, match="no name in the store"):
            container.snapshot("third:1")


def test_a_name_that_is_none(engine: pc.Engine) -> None:
    with engine.run("host:", ["true"]) as container:
        with pytest.raises(pc.ImageError, match="UPPER"):
            container.snapshot("UPPER:1")


def test_of_what_was_removed(engine: pc.Engine) -> None:
    container = engine.run("host:", ["true"])
    container.remove()
    with pytest.raises(pc.NotRunningError, match="was removed"):
        container.snapshot()


def test_an_unnamed_one_is_held_by_the_run_and_pruned_after_it(own_engine) -> None:
    engine = own_engine()
    with engine.run("host:", ["sh", "-c", "echo x > /srv/x"]) as container:
        container.wait()
        image = container.snapshot()
        engine.images.prune(all_unused=True)
        with engine.run(image, ["cat", "/srv/x"]) as second:
            assert second.wait() == 0
    engine.close()
    later = own_engine()
    assert eventually(lambda: later.images.prune().layers >= 1)  # the run has ended by then
    assert not image.layers[-1].path.exists()


@pytest.mark.alone
@pytest.mark.needs("root", "xattrs of tmpfs")
def test_a_disk_that_is_full_leaves_nothing(
    own_engine: Callable[..., pc.Engine], tmp_path: Path
) -> None:
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", str(home)], check=True)
    try:
        engine = own_engine(home=home / "store")
        with engine.run(
            "host:", ["sh", "-c", "head -c 20M /dev/urandom > /srv/big; sleep 1000"]
        ) as container:
            pc.wait.callable(
                lambda c: (
                    c.exec(["sh", "-c", "test $(stat -c %s /srv/big) = 20971520"]).returncode == 0
                )
            ).until(container, Deadline(60))
            before = sorted(p.name for p in (home / "store/layers").rglob("tree"))
            with pytest.raises(pc.ImageError, match=r"freeze of /srv/big: No space left on device"):
                container.snapshot()
            assert container.status == "running"
            assert sorted(p.name for p in (home / "store/layers").rglob("tree")) == before
            assert os.listdir(home / "store/tmp") == []
        engine.close()
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)
