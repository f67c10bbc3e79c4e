"""Stages, and what is done again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from helpers.builds import PATH, Build, Lines, command, shell
from helpers.layouts import Layout

import pytest_containers as pc


def test_only_what_is_needed_is_built(build: Build) -> None:
    shown = Lines()
    build(
        """\
        FROM base:1 AS unused
        RUN false
        FROM base:1 AS wanted
        RUN touch /wanted
        FROM wanted
        RUN false
        """,
        target="wanted", display=shown,
    )  # fmt: skip
    assert shown.done() == ["RUN touch /wanted"]


def test_stages_run_at_the_same_time(build: Build) -> None:
    """Each waits for what the other does."""
    text = (
        "FROM base:1 AS {me}\nRUN --mount=type=cache,target=/c,id=meet-{id} touch /c/{me}; "
        "while ! test -e /c/{other}; do sleep 0.01; done\n"
    )
    number = os.urandom(4).hex()
    build(
        text.format(me="a", other="b", id=number) + text.format(me="b", other="a", id=number)
        + "FROM base:1\nRUN --mount=from=a,target=/a --mount=from=b,target=/b true\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM base:1 AS a\nCOPY --from=b / /\nFROM a AS b\nCOPY x /\n", "stages need each other"),
        ("FROM $nothing\n", "is empty: give it a value"),
        ("FROM --platform=linux/s390x base:1\n", "this machine builds linux/"),
        ("FROM no-such-image:1\n", "no-such-image:1"),
        ("FROM base:1 AS a\n", "there is no stage 'b'; there are a"),
        (
            # Such a registry is asked on this machine only.
            "FROM base:1 AS localhost-1-go\nFROM base:1\nCOPY --from=localhost:1/go /x /\n",
            "cannot be reached: .*did you mean the stage 'localhost-1-go'",
        ),
    ],
)
def test_stages_that_cannot_be(build: Build, text: str, message: str) -> None:
    options = {"target": "b"} if message.startswith("there is no stage") else {}
    with pytest.raises(pc.DockerfileError, match=message.replace("$", "\\$")):
        build(text, **options)


def test_a_change_does_again_what_depends_on_it(build: Build, files: Path) -> None:
    text = """\
        FROM base:1
        COPY a.txt /a
        RUN cat /a > /ran-a
        COPY dir /dir
        RUN cat /dir/sub/c > /ran-c
        """
    build(text)
    again, touched, changed, renamed = Lines(), Lines(), Lines(), Lines()
    build(text, display=again)
    os.utime(files / "dir" / "sub" / "c", (1, 1))
    build(text, display=touched)
    (files / "dir" / "sub" / "c").write_text("changed\n")
    build(text, display=changed)
    (files / "dir" / "sub" / "c").rename(files / "dir" / "sub" / "d")
    (files / "dir" / "sub" / "c").symlink_to("d")
    build(text, display=renamed)
    moded = Lines()
    (files / "dir" / "sub" / "d").chmod(0o711)
    build(text, display=moded)
    assert (again.done(), touched.done()) == ([], [])
    assert moded.done() == ["COPY dir /dir", "RUN cat /dir/sub/c > /ran-c"]
    assert changed.done() == renamed.done() == ["COPY dir /dir", "RUN cat /dir/sub/c > /ran-c"]


def test_an_equal_result_of_another_stage_changes_nothing(build: Build) -> None:
    text = """\
        FROM base:1 AS made
        RUN {} > /made
        FROM base:1
        COPY --from=made /made /x
        RUN cat /x > /y
        """
    build(text.format("echo 1"))
    shown = Lines()
    build(text.format("echo  1"), display=shown)
    assert shown.done() == ["RUN echo 1 > /made", "COPY --from=made /made /x"]


def test_no_cache_does_it_again(build: Build) -> None:
    build("FROM base:1\nRUN touch /x\n")
    shown = Lines()
    build("FROM base:1\nRUN touch /x\n", no_cache=True, display=shown)
    assert shown.done() == ["RUN touch /x"]


def test_two_builds_at_once_do_the_work_once(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    number = os.urandom(4).hex()
    text = f"FROM base:1\nRUN echo {number} && sleep 0.3 && touch /x\n"
    (context / "Dockerfile").write_text(text)
    shown = [Lines() for _ in range(3)]
    images: list[str] = []

    def one(display: Lines) -> None:
        images.append(builder.build(context, display=display).id)

    threads = [threading.Thread(target=one, args=(display,)) for display in shown]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(display.done()) for display in shown) == [0, 0, 1]
    assert len(set(images)) == 1


def test_equal_digests_on_two_machines(base_layer: bytes, tmp_path: Path) -> None:
    """Two stores, two checkouts at different times, one SOURCE_DATE_EPOCH."""
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "context" / "dir").mkdir(parents=True)
        (folder / "context" / "dir" / "file").write_text("x\n")
        os.utime(folder / "context" / "dir" / "file", (len(found) * 1000, 7))
        (folder / "context" / "Dockerfile").write_text(
            "FROM base:1\nCOPY dir /made/dir\nRUN echo y > /made/y && mkdir /made/z\nWORKDIR /w\n"
        )
        layout = Layout(folder / "layout")
        layout.image([base_layer], {"Env": [f"PATH={PATH}"]})
        with pc.Engine(home=folder / "store") as engine:
            engine.images.load(folder / "layout", name="base:1")
            options = pc.BuildOptions(epoch=1_600_000_000)
            engine.build(folder / "context", tags=("made:1",), options=options)
            engine.images.save(["made:1"], folder / "saved.tar")
            found.append(engine.images.inspect("made:1")["digest"])
    assert found[0] == found[1] != ""


def test_an_epoch_of_nothing_is_an_epoch(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nENV a=1\nRUN touch /x\nCMD true\n", tags=("epoch:1",), epoch=0)
    times = {one["created"] for one in builder.images.history("epoch:1")[:3]}
    assert times == {"1970-01-01T00:00:00Z"}


def test_only_what_is_asked_for_is_read(build: Build, context: Path) -> None:
    (context / "huge").mkdir()
    (context / "huge" / "file").write_text("x")
    (context / "huge" / "file").chmod(0)
    (context / "huge").chmod(0)
    (context / "small").write_text("x")
    (context / ".dockerignore").write_text("huge\n")
    try:
        build("FROM base:1\nCOPY . /x\n")
    finally:
        (context / "huge").chmod(0o700)


@pytest.mark.long
def test_two_processes_do_the_work_once(builder: pc.Engine, home: Path, context: Path) -> None:
    text = f"FROM base:1\nRUN echo {os.urandom(4).hex()} > /x && sleep 0.5\n"
    (context / "Dockerfile").write_text(text)
    both = [command(context, home / "store", "--network=none") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    assert sorted(err.count(" CACHED") for _, err in said) == [0, 1]


@pytest.mark.parametrize("step", ["RUN", "COPY"])
def test_a_build_that_is_killed_leaves_nothing_half_done(
    builder: pc.Engine, home: Path, context: Path, step: str
) -> None:
    """With SIGKILL, in the middle of the step."""
    number = os.urandom(4).hex()
    with (context / "big").open("wb") as file:
        file.write(os.urandom(1 << 20) * 100)
    run = (
        f"RUN --mount=type=cache,target=/c,id={number} echo {number} >> /first; "
        f"test -e /c/go || {{ touch /c/up-{number}; sleep 100; }}; echo whole > /last\n"
    )
    copy = f"COPY big /big\nRUN echo {number} > /first; echo whole > /last\n"
    (context / "Dockerfile").write_text("FROM base:1\n" + (run if step == "RUN" else copy))
    with command(context, home / "store", "--network=none") as process:
        assert process.stderr is not None
        while step not in process.stderr.readline():
            pass
        if step == "RUN":
            caches = home / "store" / "caches"
            while not (begun := list(caches.glob(f"*/*/tree/up-{number}"))):
                assert process.poll() is None
                time.sleep(0.01)
            begun[0].with_name("go").touch()
        else:
            time.sleep(0.05)
        process.kill()
    again = Lines()
    image = builder.build(context, display=again)
    assert len(again.done()) == (1 if step == "RUN" else 2)
    assert shell(builder, image, "cat /first /last") == f"{number}\nwhole\n"
    if step == "COPY":
        assert shell(builder, image, "stat -c %s /big") == f"{100 << 20}\n"
