"""Where mounts go, in which order, and what a tmpfs has of the directory below it."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import Layout, Member, busybox, layer, member, output

import pytest_containers as pc

LINKS = {
    "dangling": "/nowhere/deep", "upwards": "../../../up", "good": "/work", "to-proc": "/proc/sys",
    "chain": "dangling/more", "past-a-mount": "good/../proc/sys",
}  # fmt: skip


def members() -> list[Member]:
    """A root with a directory of another owner and mode, and links of all kinds."""
    return [
        *busybox("stat", "ls", "cat", "readlink", "touch"),
        member("work", type=tarfile.DIRTYPE, mode=0o2750, uid=33, gid=34),
        member("tmp", type=tarfile.DIRTYPE, mode=0o1777),
        *(member(name, type=tarfile.SYMTYPE, linkname=target) for name, target in LINKS.items()),
        member("file", b"file"),
    ]


@pytest.fixture
def image(tmp_path: Path) -> str:
    return Layout(tmp_path / "layout").image([layer(members())], {"Cmd": ["/bin/sh"]})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (data / "inner").chmod(0o710)
    (data / "name").write_text("data")
    return data


@pytest.mark.parametrize(
    ("target", "seen"),
    [("/dangling", "/nowhere/deep"), ("/dangling/x", "/nowhere/deep/x"), ("/upwards/x", "/up/x"),
     ("/good", "/work"), ("/chain", "/nowhere/deep/more"), ("/a/../b//c/", "/b/c")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_links_on_the_way_lead_on_also_into_nothing(
    engine: pc.Engine, image: str, data: Path, target: str, seen: str, kind: str
) -> None:
    if kind == "file" and target == "/good":
        return  # a directory is there
    source = data if kind == "directory" else data / "name"
    name = f"{seen}/name" if kind == "directory" else seen
    mounts = [pc.Bind(source, target)]
    assert output(engine, image, f"cat {name}; readlink /dangling", mounts=mounts) == (
        "data/nowhere/deep\n"
    )


def test_a_link_in_a_circle(engine: pc.Engine, tmp_path: Path) -> None:
    circle = member("circle", type=tarfile.SYMTYPE, linkname="circle")
    image = Layout(tmp_path / "layout").image([layer([*busybox(), circle])], {})
    with pytest.raises(pc.StartError, match="mount target '/circle': too many links on the way"):
        engine.run(image, ["/bin/sh"], mounts=[pc.Bind(tmp_path, "/circle")])


@pytest.mark.parametrize(
    ("target", "words"),
    [("/proc", "the kernel's own files"), ("/proc/x", "the kernel's own files"),
     ("/x/../proc", "mount target '/proc'"), ("/sys", "the kernel's own files"),
     ("/", "start from the directory itself"), ("/dev", "such as on /dev/NAME"),
     ("/to-proc", "mount target '/to-proc' leads to '/proc/sys': nothing may be mounted there")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_target_that_a_container_needs_for_itself(
    engine: pc.Engine, image: str, data: Path, target: str, words: str, kind: str
) -> None:
    mount = pc.Tmpfs(target) if kind == "tmpfs" else pc.Bind(data, target)
    with pytest.raises(pc.SpecError, match=words):
        engine.run(image, ["/bin/sh"], mounts=[mount])


def test_a_link_to_a_kernel_file_by_way_of_another_mount(
    engine: pc.Engine, image: str, data: Path
) -> None:
    mounts = [pc.Bind(data, "/work"), pc.Bind(data, "/past-a-mount")]
    with pytest.raises(pc.SpecError, match="'/past-a-mount' leads to '/proc/sys'"):
        engine.run(image, ["/bin/sh"], mounts=mounts)


def test_those_above_are_mounted_first(any_engine: pc.Engine, image: str, data: Path) -> None:
    mounts = [
        pc.Bind(data, "/a/inner/deep"), pc.Tmpfs("/a/inner"), pc.Bind(data, "/a"),
    ]  # fmt: skip
    script = "ls /a; ls /a/inner; cat /a/inner/deep/name"
    assert output(any_engine, image, script, mounts=mounts) == "inner\nname\ndeep\ndata"


def test_a_volume_of_the_image_does_not_hide_mounts_below_it(
    engine: pc.Engine, tmp_path: Path, data: Path
) -> None:
    config = {"Cmd": ["/bin/sh"], "Volumes": {"/a/": {}}}
    image = Layout(tmp_path / "layout").image([layer(busybox("cat"))], config)
    mounts = [pc.Bind(data, "/a/b")]
    assert output(engine, image, "cat /a/b/name", mounts=mounts, read_only=True) == "data"


@pytest.mark.parametrize("second", ["/a", "/a/", "/b/../a", "//a"])
def test_one_target_twice(engine: pc.Engine, data: Path, second: str) -> None:
    with pytest.raises(pc.SpecError, match=r"mount target '/a' is there twice: for Bind.*Tmpfs"):
        engine.run("host:", ["true"], mounts=[pc.Bind(data, "/a"), pc.Tmpfs(second)])


STAT = "stat -c '%a %u:%g' /{}"


@pytest.mark.needs("id range")
@pytest.mark.parametrize(
    ("mount", "expected"),
    [(pc.Tmpfs("/work"), "2750 33:34"), (pc.Tmpfs("/work", mode=0o700), "700 33:34"),
     (pc.Tmpfs("/work", uid=5), "2750 5:34"), (pc.Tmpfs("/work", gid=6), "2750 33:6"),
     (pc.Tmpfs("/good"), "2750 33:34"),
     (pc.Tmpfs("/new"), "1777 0:0"), (pc.Tmpfs("/new", None, 0o711, 7, 8), "711 7:8")],
    ids=str,
)  # fmt: skip
def test_mode_and_owner_of_a_tmpfs(
    any_engine: pc.Engine, image: str, mount: pc.Tmpfs, expected: str
) -> None:
    script = STAT.format(f"{mount.target[1:]}/.")
    assert output(any_engine, image, script, mounts=[mount]) == f"{expected}\n"


def test_a_tmpfs_in_a_bind(any_engine: pc.Engine, image: str, data: Path) -> None:
    mounts = [pc.Bind(data, "/data"), pc.Tmpfs("/data/inner")]
    script = STAT.format("data/inner") + "; touch /data/inner/x"
    assert output(any_engine, image, script, mounts=mounts) == "710 0:0\n"
    assert not list((data / "inner").iterdir())


def test_a_tmpfs_over_a_directory_of_this_machine(engine: pc.Engine) -> None:
    with engine.run(
        "host:", ["stat", "-c", "%a", "/usr/share"], mounts=[pc.Tmpfs("/usr/share")],
        wait_ready=False,
    ) as container:  # fmt: skip
        container.wait(60)
        mode = os.stat("/usr/share").st_mode & 0o7777
        assert container.logs().stdout == f"{mode:o}\n"


def test_a_tmpfs_of_a_single_id(own_engine: Callable[..., pc.Engine], image: str) -> None:
    engine = own_engine(identity="single")
    assert output(engine, image, STAT.format("work"), mounts=[pc.Tmpfs("/work")]) == "2750 0:0\n"


@pytest.mark.parametrize(("options", "code"), [({}, 0), ({"exec": False}, 126)], ids=str)
def test_execution_on_a_tmpfs(engine: pc.Engine, options: dict[str, bool], code: int) -> None:
    script = "cp /bin/true /x/true; /x/true"
    mounts = [pc.Tmpfs("/x", **options)]
    with engine.run("host:", ["sh", "-c", script], mounts=mounts, wait_ready=False) as container:
        assert container.wait(60) == code


@pytest.mark.needs("root", "docker", "podman")
@pytest.mark.alone
def test_targets_as_docker_and_podman_have_them(
    engine: pc.Engine,
    image: str,
    data: Path,
    docker: Callable[..., str],
    podman: Callable[..., str],
    tmp_path: Path,
) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(layer(members()))
    script = (
        "cat /nowhere/deep/name /up/x/name /work/name /b/name; ls /b/inner; readlink /dangling; "
        "stat -c %a /tmp"
    )
    binds = [("/dangling", data), ("/upwards/x", data), ("/good", data), ("/b/inner/y", data)]
    binds.append(("/b", data))
    outputs = []
    for peer in (docker, podman):
        peer("import", str(archive), "targets")
        arguments = [f"-v={source}:{target}" for target, source in binds]
        outputs.append(
            peer(
                "run", "--rm", "--network=none", "--ulimit=nofile=900:900",
                "--ulimit=nproc=900:900", *arguments, "--tmpfs=/tmp", "targets",
                "/bin/sh", "-c", script,
            )
        )  # fmt: skip
        with pytest.raises(AssertionError, match="uplicate mount"):
            peer("run", "--rm", f"-v={data}:/a", "--tmpfs=/a", "targets", "/bin/sh")
    mounts = [*(pc.Bind(source, target) for target, source in binds), pc.Tmpfs("/tmp")]
    assert [output(engine, image, script, mounts=mounts)] * 2 == outputs


@pytest.mark.needs("root")
@pytest.mark.alone
def test_a_locked_mount_below_is_named(tmp_path: Path, store_home: Path) -> None:
    """A tree of an image has to be shown without what is mounted on it, which cannot be had."""
    root = tmp_path / "root"
    (root / "mounted").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "x", root / "mounted"], check=True)
    try:
        with (
            pc.Engine(home=store_home, identity="range") as engine,
            pytest.raises(pc.ContainersError, match="comes from outside of this user namespace"),
        ):
            engine.run(f"host:?path={root}", ["true"])
    finally:
        subprocess.run(["umount", root / "mounted"], check=True)


@pytest.mark.long
def test_no_file_of_etc_is_made_through_a_descriptor(engine: pc.Engine, tmp_path: Path) -> None:
    """As CVE-2024-21626: while a container is set up, descriptors are open that lead out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    for name in ("hosts", "hostname", "resolv.conf"):
        (outside / name).symlink_to("/nowhere")
    with engine.run("host:", ["sleep", "100"], mounts=[pc.Bind(outside, "/srv/data")]):
        for number in range(3, 60):
            link = member("etc", type=tarfile.SYMTYPE, linkname=f"/proc/self/fd/{number}")
            image = Layout(tmp_path / str(number)).image([layer([link])])
            with pytest.raises(pc.StartError):
                engine.run(image, ["/x"], wait_ready=False)
    assert all((outside / name).is_symlink() for name in ("hosts", "hostname", "resolv.conf"))


def test_no_mount_point_is_made_through_a_descriptor(engine: pc.Engine, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "folder"
    data.mkdir()
    folder.mkdir()
    refusals = []
    with engine.run("host:", ["sleep", "100"]) as other:
        for number in range(3, 60):
            (folder / "link").unlink(missing_ok=True)
            (folder / "link").symlink_to(f"/proc/self/fd/{number}")
            mounts = [pc.Bind(folder, "/srv/a"), pc.Bind(data, "/srv/a/link/made")]
            with pytest.raises(pc.StartError) as caught:
                engine.run("host:", ["true"], mounts=mounts, wait_ready=False)
            refusals.append(str(caught.value).rpartition(": ")[2])
        assert other.exec(["sh", "-c", "ls -d /made /*/made"]).stdout == b""
    # Which numbers are open in the program that starts the container depends on the run before.
    assert "Too many levels of symbolic links" in refusals
    assert set(refusals) <= {"Too many levels of symbolic links", "No such file or directory"}
