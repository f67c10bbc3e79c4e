"""Bind mounts, tmpfs, volumes, read-only roots, and the limits of writable layers."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.linux.filesystems import without_idmapped_mounts


def shell(engine: pc.Engine, script: str, **options: object) -> pc.Container:
    return engine.run("host:", ["sh", "-c", script], wait_ready=False, **options)


def test_a_directory_of_the_host(engine: pc.Engine, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given")
    script = "cat /data/given; echo made > /data/made; stat -c %u:%g /data/given /data/made"
    with shell(engine, script, mounts=[pc.Bind(tmp_path, "/data")]) as container:
        assert container.wait(60) == 0, container.logs()
        assert container.logs().stdout == "given0:0\n0:0\n"
    made = tmp_path / "made"
    assert made.read_text() == "made\n"
    assert (made.stat().st_uid, made.stat().st_gid) == (os.geteuid(), os.getegid())


def test_a_directory_below_a_private_one(engine: pc.Engine, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "data").mkdir(parents=True)
    (private / "data" / "file").write_text("inside")
    private.chmod(0o700)
    with shell(engine, "cat /data/file", mounts=[pc.Bind(private / "data", "/data")]) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "inside"


@pytest.mark.parametrize("what", ["directory", "file"])
def test_read_only(any_engine: pc.Engine, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("ours")
    source = tmp_path if what == "directory" else tmp_path / "file"
    path = "/data/file" if what == "directory" else "/data"
    script = f"cat {path}; echo theirs > {path} || echo refused"
    with shell(any_engine, script, mounts=[pc.Bind(source, "/data", read_only=True)]) as container:
        container.wait(60)
        assert container.logs().stdout == "oursrefused\n"
    assert (tmp_path / "file").read_text() == "ours"


def test_a_file_that_is_written(any_engine: pc.Engine, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with shell(
        any_engine, "echo new > /etc/app.conf", mounts=[pc.Bind(file, "/etc/app.conf")]
    ) as container:
        assert container.wait(60) == 0
    assert file.read_text() == "new\n"


def test_targets_are_made_and_links_stay_inside(engine: pc.Engine, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "escape").symlink_to(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    before = sorted(tmp_path.iterdir())
    # Nothing can run in an empty root; what matters is where its mount went.
    with pytest.raises(pc.StartError):
        engine.run(f"rootfs:{root}", ["/x"], mounts=[pc.Bind(data, "/escape/new/target")])
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs and a proc below it; the latter has no idmapped mounts."""
    for name in ("memory", "kernel", "memory/deep", "later"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "memory", tmp_path / "memory"], check=True)
    (tmp_path / "memory" / "deep").mkdir()
    (tmp_path / "memory" / "file").write_text("data")
    subprocess.run(["mount", "-t", "tmpfs", "deep", tmp_path / "memory" / "deep"], check=True)
    (tmp_path / "memory" / "deep" / "file").write_text("deeper")
    subprocess.run(["mount", "-t", "proc", "proc", tmp_path / "kernel"], check=True)
    yield tmp_path
    for name in ("kernel", "memory/deep", "memory"):
        subprocess.run(["umount", tmp_path / name], check=True)


@pytest.mark.alone
@pytest.mark.needs("root")
@pytest.mark.parametrize("options", [{}, {"cap_add": ["SYS_ADMIN"]}], ids=str)
def test_mounts_below_a_writable_bind(
    any_engine: pc.Engine,
    mounted: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, object],
) -> None:
    script = (
        "cd /data; stat -c %u memory/file memory/deep/file kernel/uptime; "
        "echo new > memory/deep/new; cat kernel/sys/kernel/ostype"
    )
    with shell(any_engine, script, mounts=[pc.Bind(mounted, "/data")], **options) as container:
        assert container.wait(60) == 0, container.logs()
        # Before Linux 6.3, tmpfs has no idmapped mounts.
        nobody = bool(without_idmapped_mounts(str(mounted / "memory")))
        owner = 65534 if nobody else 0
        assert container.logs().stdout == f"{owner}\n{owner}\n65534\nLinux\n"
    new = mounted / "memory" / "deep" / "new"
    assert (new.stat().st_uid == 0) is not nobody  # everybody may write to the root of a tmpfs
    (note,) = [line for line in caplog.text.splitlines() if "those of user nobody" in line]
    assert f"{mounted}/kernel (proc)" in note
    assert (f"{mounted}/memory (tmpfs)" in note) is nobody


@pytest.mark.alone
@pytest.mark.needs("root")
def test_mounts_of_a_container_are_not_mounts_of_the_host(engine: pc.Engine, mounted: Path) -> None:
    script = "umount -l /data/memory && mount -t tmpfs later /data/later && ls /data/memory"
    options = {"mounts": [pc.Bind(mounted, "/data")], "cap_add": ["SYS_ADMIN"]}
    with shell(engine, script, **options) as container:
        container.wait(60)
        assert os.path.ismount(mounted / "memory")
        assert not os.path.ismount(mounted / "later")


def test_a_missing_source_is_told(engine: pc.Engine, tmp_path: Path) -> None:
    with pytest.raises(pc.StartError, match="no such file or directory on the host; make it first"):
        shell(engine, "true", mounts=[pc.Bind(tmp_path / "nosuch", "/data")])


def test_a_source_that_may_not_be_looked_at_is_told(
    engine: pc.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As links of the kernel (``/proc/1/ns/mnt``) and files in another user's directory."""

    realpath = os.path.realpath

    def refused(path: str) -> str:
        if path == "/proc/1/ns/mnt":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return realpath(path)

    monkeypatch.setattr("os.path.realpath", refused)
    with pytest.raises(
        pc.StartError, match=r"mount of /proc/1/ns/mnt on /data: permission denied on the host$"
    ):
        shell(engine, "true", mounts=[pc.Bind("/proc/1/ns/mnt", "/data")])


def test_a_target_that_is_not_absolute(engine: pc.Engine, tmp_path: Path) -> None:
    with pytest.raises(pc.SpecError, match="'data' is not an absolute path"):
        shell(engine, "true", mounts=[pc.Bind(tmp_path, "data")])


def test_tmpfs_and_its_limit(any_engine: pc.Engine) -> None:
    script = "stat -c %a /fast; head -c 2000000 /dev/zero > /fast/file"
    with shell(any_engine, script, mounts=[pc.Tmpfs("/fast", size_bytes=1 << 20)]) as container:
        assert container.wait(60) != 0
        assert container.logs().stdout == "1777\n"
        assert "No space left on device" in container.logs().stderr


def test_a_limit_of_the_writable_layer(engine: pc.Engine) -> None:
    with shell(
        engine, "head -c 9000000 /dev/zero > /srv/x && sleep 60", scratch_size_bytes=4 << 20
    ) as container:
        assert container.wait(50) != 0
        words = container.logs().stderr
    on_disk = not engine.facts["features"]["tmpfs_xattrs"]  # before Linux 6.6
    assert ("the writable layer outgrew" if on_disk else "No space left on device") in words


def test_a_volume_outlives_containers(any_engine: pc.Engine) -> None:
    volume = any_engine.create_volume()
    mount = pc.VolumeMount(volume, "/data")
    with shell(any_engine, "echo kept > /data/file", mounts=[mount]) as container:
        assert container.wait(60) == 0
    read_only = pc.VolumeMount(volume, "/data", read_only=True)
    with shell(
        any_engine, "cat /data/file; touch /data/x || echo refused", mounts=[read_only]
    ) as container:
        container.wait(60)
        assert container.logs().stdout == "kept\nrefused\n"
    volume.remove()
    with pytest.raises(pc.StartError, match="was removed"):
        shell(any_engine, "true", mounts=[mount])


def test_two_containers_share_a_volume(engine: pc.Engine) -> None:
    volume = engine.create_volume()
    mount = pc.VolumeMount(volume, "/data")
    with (
        shell(engine, "sleep 100", mounts=[mount]) as one,
        shell(engine, "sleep 100", mounts=[mount]) as two,
    ):
        one.write_text("/data/file", "shared")
        assert two.read_text("/data/file") == "shared"
    volume.remove()


def test_a_read_only_root(any_engine: pc.Engine) -> None:
    script = "touch /srv/x || echo refused; touch /tmp/fine && echo fine"
    options = {"read_only": True, "mounts": [pc.Tmpfs("/tmp")]}
    with shell(any_engine, script, **options) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "refused\nfine\n"


def test_shm_size(engine: pc.Engine) -> None:
    with shell(engine, "df -k --output=size /dev/shm | tail -1", shm_size=8 << 20) as container:
        container.wait(60)
        assert container.logs().stdout.strip() == "8192"


def test_copies_in_and_out(engine: pc.Engine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"x" * 100_000)
    (source / "link").symlink_to("sub/file")
    with shell(engine, "sleep 100") as container:
        container.copy_in(source, "/srv/copy")
        container.copy_in(source / "sub" / "file", "/srv")
        assert container.read_bytes("/srv/file") == b"x" * 100_000
        container.copy_out("/srv/copy", tmp_path / "back")
        with pytest.raises(pc.ContainersError, match="No such file"):
            container.copy_out("/nosuch", tmp_path / "x")
        with pytest.raises(pc.ContainersError, match="does not exist"):
            container.copy_in(tmp_path / "nosuch", "/srv")
        container.kill()
        container.wait(60)
        container.copy_out("/srv/file", tmp_path / "after")
    assert (tmp_path / "back" / "sub" / "file").read_bytes() == b"x" * 100_000
    assert os.readlink(tmp_path / "back" / "link") == "sub/file"
    assert (tmp_path / "after").read_bytes() == b"x" * 100_000


def test_copies_do_not_follow_links_out_of_the_container(engine: pc.Engine, tmp_path: Path) -> None:
    # CVE-2018-15664, CVE-2019-10152
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "file").write_text("data")
    with shell(engine, "sleep 100") as container:
        container.exec(["ln", "-s", str(outside), "/srv/escape"], check=True)
        with pytest.raises(pc.ContainersError):
            container.copy_in(tmp_path / "file", "/srv/escape/file")
    assert list(outside.iterdir()) == []


def test_a_writable_layer_on_disk(own_engine: Callable[..., pc.Engine]) -> None:
    engine = own_engine()
    folder = engine.images.library.store.home / "scratch"
    script = (
        "test -s /srv/x || { rm -rf /etc/alternatives; mkdir /etc/alternatives; echo data > /srv/x; }; "
        "sleep 100"
    )
    with shell(engine, script, scratch="disk") as container:
        pc.wait.exec(["test", "-s", "/srv/x"]).until(container, pc.wait.Deadline(60))
        assert container.read_text("/srv/x") == "data\n"
        assert len(list(folder.iterdir())) == 1
        container.restart(0.01)
        assert container.read_text("/srv/x") == "data\n"
    end = pc.wait.Deadline(60)
    while list(folder.iterdir()) and not end.passed:
        pass
    assert list(folder.iterdir()) == []


def test_a_limit_of_a_writable_layer_on_disk(engine: pc.Engine) -> None:
    script = "while :; do head -c 1000000 /dev/zero >> /srv/x; sleep 0.01; done"
    options = {"scratch": "disk", "scratch_size_bytes": 4 << 20}
    with shell(engine, script, **options) as container:
        assert container.wait(60) == 137
        assert "the writable layer outgrew 4194304 bytes" in container.logs().stderr


def test_what_a_killed_run_left_on_disk_is_swept(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    home = tmp_path / "store"
    code = (
        "import sys, time, pytest_containers as pc\n"
        "c = pc.Engine(home=sys.argv[1]).run('host:', ['sleep', '100'], scratch='disk')\n"
        "c.write_text('/srv/x', 'data'); print('up', flush=True); time.sleep(100)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert len(list((home / "scratch").iterdir())) == 1
    with pc.Engine(home=home) as fresh:
        with fresh.run("host:", ["true"], scratch="disk") as container:
            container.wait(60)
        end = pc.wait.Deadline(60)
        while list((home / "scratch").iterdir()) and not end.passed:
            pass
        assert list((home / "scratch").iterdir()) == []


def test_small_copies_again_and_again(engine: pc.Engine, tmp_path: Path) -> None:
    # A reader that stopped at the end of the archive broke the pipe of the writer's padding.
    with shell(engine, "sleep 100") as container:
        for number in range(25):
            container.write_text("/srv/file", f"{number}")
            container.copy_out("/srv/file", tmp_path / "file")
            assert (tmp_path / "file").read_text() == f"{number}"


@pytest.mark.parametrize("count", [251, 300])
def test_more_mounts_than_a_message_has_room_for(
    engine: pc.Engine, tmp_path: Path, count: int
) -> None:
    """A container with 251 mounts once ended the run: see docs/contributing/debugging.md."""
    mounts = [pc.Bind(tmp_path, f"/data/{number}") for number in range(count)]
    with shell(engine, "grep -c ' /data/' /proc/self/mountinfo", mounts=mounts) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == f"{count}\n"


def test_what_is_mounted_below_a_bind_is_not_seen_on_the_host(
    engine: pc.Engine, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    mounts = [pc.Bind(tmp_path, "/data"), pc.Tmpfs("/data/below")]
    with shell(engine, "touch /data/below/file; sleep 1000", mounts=mounts) as container:
        container.exec(["touch", "/data/below/other"], check=True)
        assert list((tmp_path / "below").iterdir()) == []
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
