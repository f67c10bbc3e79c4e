"""What BuildKit does where one could think of something else."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers.builds import Build, Lines, command, shell

import pytest_containers as pc

FACTS = "find {} -exec stat -c '%n %F %a %u:%g' '{{}}' ';'"


def facts(engine: pc.Engine, image: pc.Image, place: str) -> list[str]:
    return sorted(shell(engine, image, FACTS.format(place)).splitlines())


def write_tar(path: Path, members: Iterable[tuple[str, bytes | str | None]]) -> None:
    """Write an archive: bytes are a file, text is where a link leads, None is a directory."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o750 if content is None else 0o644
            data = None
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                info.linkname = content.removeprefix("=")
            else:
                info.size, data = len(content), io.BytesIO(content)
            tar.addfile(info, data)


# ------------------------------------------------------------------------ mounts


@pytest.mark.parametrize("kind", ["type=bind,source=dir", "type=cache,id=here", "type=tmpfs"])
def test_a_mount_without_a_target_is_at_the_workdir(build: Build, files: Path, kind: str) -> None:
    shown = Lines()
    build(
        f"FROM base:1\nWORKDIR /work/here\nRUN --mount={kind} cat /proc/self/mounts\n",
        display=shown,
    )
    assert " /work/here " in shown.text
    with pytest.raises(pc.BuildError, match="nothing can be mounted over the root"):
        build(f"FROM base:1\nRUN --mount={kind} true\n")


@pytest.mark.parametrize(
    "mount",
    [
        'type=bind,source="a,b",target=/x',
        'type=bind,"source=a,b",target=/x',
        "'type=bind,\"source=a,b\",target=/x'",
        "\"type=bind,'source=a,b',target=/x\"",
        "type='bind',source='a,b',target=/x",
    ],
)
def test_commas_in_quotes_of_a_mount(
    build: Build, builder: pc.Engine, context: Path, mount: str
) -> None:
    (context / "a,b").write_text("commas\n")
    image = build(f"FROM base:1\nRUN --mount={mount} cat /x > /y\n")
    assert shell(builder, image, "cat /y") == "commas\n"


@pytest.mark.parametrize("key", ["z", "Z", "U", "U=true", "relabel=shared"])
def test_keys_of_podman_do_nothing_and_are_told(build: Build, files: Path, key: str) -> None:
    shown = Lines()
    build(f"FROM base:1\n\nRUN --mount=source=a.txt,target=/x,{key} cat /x\n", display=shown)
    assert f"Dockerfile:3: --mount: {key.partition('=')[0]!r} is for labels" in shown.text


# ---------------------------------------------------------------------- archives


@pytest.mark.parametrize(
    ("before", "members", "expected"),
    [
        ("echo old > /d/x", [("x", b"new")], ["/d directory 755", "/d/x regular file 644"]),
        ("ln -s /etc/passwd /d/x", [("x", b"new")], ["/d directory 755", "/d/x regular file 644"]),
        ("mkdir -p /d/x/y", [("x", b"new")], ["/d directory 755", "/d/x regular file 644"]),
        ("mkdir -p /d/x/y", [("x", "target")], ["/d directory 755", "/d/x symbolic link 777"]),
        ("echo old > /d/x", [("x", None), ("x/y", b"")],
         ["/d directory 755", "/d/x directory 750", "/d/x/y regular empty file 644"]),
        ("mkdir /d/y; ln -s y /d/x", [("x", None), ("x/z", b"")],
         ["/d directory 755", "/d/x directory 750", "/d/x/z regular empty file 644",
          "/d/y directory 755"]),
        ("mkdir -m 700 /d/x; touch /d/x/y", [("x", None)],
         ["/d directory 755", "/d/x directory 750", "/d/x/y regular empty file 644"]),
        # What was replaced stays away when a directory comes back.
        ("mkdir -p /d/x/y", [("x", b"file"), ("x", None), ("x/z", b"")],
         ["/d directory 755", "/d/x directory 750", "/d/x/z regular empty file 644"]),
        ("true", [("x/y", b"1"), ("x", b"2"), ("x/../z", b"3")],
         ["/d directory 755", "/d/x regular file 644", "/d/z regular file 644"]),
        # Directories that it only implies.
        ("true", [("x/y/z", b"1")],
         ["/d directory 755", "/d/x directory 755", "/d/x/y directory 755",
          "/d/x/y/z regular file 644"]),
    ],
)  # fmt: skip
def test_an_archive_replaces(
    build: Build, builder: pc.Engine, context: Path, before: str,
    members: list[tuple[str, bytes | str | None]], expected: list[str],
) -> None:  # fmt: skip
    write_tar(context / "a.tar", members)
    image = build(f"FROM base:1\nRUN mkdir /d && {before}\nADD a.tar /d\n", tags=("replaced:1",))
    assert [line.rpartition(" ")[0] for line in facts(builder, image, "/d")] == expected
    builder.images.save(["replaced:1"], context / "saved.tar")
    builder.images.load(context / "saved.tar", name="replaced:2")
    again = builder.image("replaced:2")
    assert [line.rpartition(" ")[0] for line in facts(builder, again, "/d")] == expected


def test_an_archive_writes_through_links_below_its_destination(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    write_tar(context / "a.tar", [("var/run/f", b"x"), ("var/run/h", "=var/run/f"), ("r/g", b"y")])
    image = build("""\
        FROM base:1
        RUN mkdir -p /d/run /d/var /run && ln -s /run /d/var/run && ln -s var/run /d/r
        ADD a.tar /d/
        """)
    script = "cat /d/run/f /d/run/h /d/run/g; ls /run; stat -c %F /d/var/run; stat -c %h /d/run/f"
    assert shell(builder, image, script) == "xxysymbolic link\n2\n"


def test_an_archive_may_link_to_what_is_below(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    """A hard link to a file of the image copies it up, as it does on BuildKit's overlay."""
    members = [("h", "=old"), ("s", "=link"), ("x/../i", "=x/../old"), ("a/j", "=../old")]
    write_tar(context / "a.tar", members)
    image = build("""\
        FROM base:1
        RUN mkdir /d && echo old > /d/old && ln -s nowhere /d/link
        ADD a.tar /d/
        """)
    script = "cd /d; cat h; stat -c '%n %h %a' old h i a/j; stat -c '%n %h %F' link s"
    assert shell(builder, image, script).splitlines() == [
        "old", "old 4 644", "h 4 644", "i 4 644", "a/j 4 644", "link 2 symbolic link",
        "s 2 symbolic link",
    ]  # fmt: skip
    write_tar(context / "a.tar", [("h", "=gone")])
    with pytest.raises(pc.BuildError, match="/d/h is a hard link to /d/gone, which is not there"):
        build("FROM base:1\nRUN mkdir /d && touch /d/gone\nRUN rm /d/gone\nADD a.tar /d/\n")


def test_hostile_names_in_an_archive(build: Build, context: Path) -> None:
    with tarfile.open(context / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"path": "a\0b"}
        tar.addfile(info)
    with pytest.raises(
        pc.BuildError, match="the archive a.tar: the name of member .* contains NUL"
    ):
        build("FROM base:1\nADD a.tar /d/\n")
    write_tar(context / "a.tar", [("x", "=../../etc/passwd")])
    with pytest.raises(pc.BuildError, match="hard link to '../../etc/passwd', which leads out"):
        build("FROM base:1\nADD a.tar /d/\n")


def test_devices_in_an_archive_are_told_of(build: Build, builder: pc.Engine, context: Path) -> None:
    with tarfile.open(context / "a.tar", "w") as tar:
        for number in range(5):
            info = tarfile.TarInfo(f"dev{number}")
            info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, number
            tar.addfile(info)
    shown = Lines()
    image = build("FROM base:1\nADD a.tar /d/\n", display=shown)
    assert (
        "device nodes of the archive a.tar are left out: dev0, dev1, dev2 and 2 more" in shown.text
    )
    assert shell(builder, image, "ls /d") == ""


@pytest.mark.needs("id range")
def test_an_archive_keeps_capabilities(build: Build, builder: pc.Engine, context: Path) -> None:
    """Of a program that it brings: setcap(8)'s, as BuildKit keeps them."""
    capability = bytes.fromhex("0100000200200000" + "00" * 12)  # cap_net_raw+ep
    with tarfile.open(context / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {
            "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")
        }
        tar.addfile(info)
    image = build("FROM base:1\nADD a.tar /d/\n")
    xattrs = os.listxattr(image.layers[-1].path / "d" / "x")
    assert "security.capability" in xattrs


@pytest.mark.parametrize("target", ["../../etc", "../outside", "inner/../../outside"])
def test_an_archive_does_not_leave_its_destination(
    build: Build, context: Path, target: str
) -> None:
    write_tar(context / "a.tar", [("l", target), ("l/f", b"x")])
    with pytest.raises(pc.BuildError, match="a link on the way leads out of /d"):
        build("FROM base:1\nRUN mkdir -p /outside /d/inner\nADD a.tar /d/\n")


@pytest.mark.needs("id range")
def test_directories_that_an_archive_implies_belong_to_nobody(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    write_tar(context / "a.tar", [("x/f", b"x")])
    image = build("FROM base:1\nADD --chown=7:8 a.tar /d/\n")
    assert facts(builder, image, "/d") == [
        "/d directory 755 7:8", "/d/x directory 755 0:0", "/d/x/f regular file 644 7:8",
    ]  # fmt: skip


# ------------------------------------------------------------------- destinations


@pytest.mark.parametrize(
    ("chmod", "mode"), [("700", "700"), ("0750", "750"), ("1777", "1777"), ("u=rwx,go=", "755")]
)
@pytest.mark.parametrize("origin", ["", "--from=m "])
def test_an_octal_mode_is_also_that_of_directories(
    build: Build, builder: pc.Engine, files: Path, origin: str, chmod: str, mode: str
) -> None:
    image = build(f"""\
        FROM scratch AS m
        COPY . /
        FROM base:1
        COPY {origin}--chmod={chmod} a.txt /new/below/x
        COPY {origin}--chmod={chmod} dir /copied/tree
        """)
    script = "stat -c %a /new /new/below /copied /copied/tree"
    assert shell(builder, image, script).split() == [mode] * 4
    if "=" not in chmod:
        assert shell(builder, image, "stat -c %a /copied/tree/sub").strip() == mode


@pytest.mark.parametrize("origin", ["", "--from=m "])
@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        (".env* ./", []),
        (".env* /w/new/", []),
        ("a.txt .env* ./", ["a.txt"]),
        ("a.tx[t] no* /w/x", ["x"]),
        ("no* nothing? a.txt x", ["x"]),
        ("*.txt ./", ["a.txt", "b.txt"]),
        ("a.txt b.txt there", ["there/a.txt", "there/b.txt"]),
        ("*.txt no* there", ["there/a.txt", "there/b.txt"]),
        ("dir a.txt x", ["x/a.txt", "x/link", "x/sub/c"]),
        ("$empty ./there", None),
        ("a.txt $empty", ["a.txt"]),
        ("--link a.txt $empty", ["a.txt"]),
    ],
)
def test_patterns_count_by_what_they_match(
    build: Build, builder: pc.Engine, files: Path, origin: str, copy: str,
    expected: list[str] | None,
) -> None:  # fmt: skip
    image = build(f"""\
        FROM scratch AS m
        COPY . /
        FROM base:1
        ARG empty
        WORKDIR /w/there
        WORKDIR /w
        COPY {origin}{copy}
        """)
    listing = shell(builder, image, "cd /w; find . ! -type d").split()
    if expected is None:
        assert "./there/Dockerfile" in listing
    else:
        assert sorted(listing) == [f"./{name}" for name in expected]


@pytest.mark.parametrize("origin", ["", "--from=m "])
@pytest.mark.parametrize("sources", ["a.txt b.txt", "a.tx[t] b* no*", "a.txt dir"])
def test_several_files_are_not_written_over_one_another(
    build: Build, files: Path, origin: str, sources: str
) -> None:
    with pytest.raises(pc.BuildError, match="several sources need a directory .* write /x/"):
        build(f"FROM scratch AS m\nCOPY . /\nFROM base:1\nCOPY {origin}{sources} /x\n")


# ------------------------------------------------------------------------- users


@pytest.mark.needs("id range")
@pytest.mark.parametrize(
    ("owner", "ids", "told"),
    [
        ("1234", "1234:1234", ""), ("1234:app", "1234:8", ""), ("app:9", "7:9", ""),
        ("nobody-here", "0:0", "user 'nobody-here' of 'nobody-here' not in the image"),
        ("app:nothing", "7:8", "group 'nothing' of 'app:nothing' not in the image"),
        ("5:nothing", "5:5", "group 'nothing'"), ("no:neither", "0:0", "user 'no' and group"),
    ],
)  # fmt: skip
def test_owners_that_the_image_does_not_know(
    build: Build, builder: pc.Engine, files: Path, owner: str, ids: str, told: str
) -> None:
    shown = Lines()
    image = build(
        f"FROM base:1\nCOPY --chown={owner} a.txt /x\nUSER {owner}\nWORKDIR /home/of/{owner}\n",
        display=shown,
    )
    script = f"stat -c %u:%g /x /home/of/{owner} /home/of"
    with builder.run(image, ["sleep", "100"], user="0", workdir="/") as container:
        output = container.exec(["/bin/sh", "-c", script], user="0", text=True).stdout
    assert output.split() == [ids] * 3
    assert told in shown.text


# --------------------------------------------------------------------- documents


def test_documents_on_other_descriptors(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        RUN cat <<A 3<<B /dev/fd/3 > /x
        one
        A
        two
        B
        COPY 3<<E /y
        three
        E
        """)
    assert shell(builder, image, "cat /x 2>&-; cat /y").endswith("three\n")
    image = build("""\
        FROM base:1
        RUN cat 3<<B <&3 > /x
        two
        B
        """)
    assert shell(builder, image, "cat /x") == "two\n"


def test_documents_after_a_blank(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        RUN cat << EOF > /a
        a
        EOF
        RUN cat <<- 'E' > /b; echo $(( 1 << 2 )) $((1<<3)) >> /b
        \t$b
        \tE
        RUN << EOF
        echo script > /c
        EOF
        RUN x=3 y=1 && echo $(( x << y )) > /d
        RUN echo $(( 1 << 2 )) > /e
        """)
    assert shell(builder, image, "cat /a /b /c /d /e") == "a\n$b\n4 8\nscript\n6\n4\n"


# --------------------------------------------------------------- words and numbers


def test_of_an_argument_and_a_variable_the_later_one_counts(
    build: Build, builder: pc.Engine
) -> None:
    image = build(
        """\
        ARG outside=global
        FROM base:1 AS first
        ENV a=env b=env c=env outside=env given=env
        ARG a=arg
        ARG b
        ARG outside
        ARG given=default
        RUN echo "$a $b $c $outside $given" > /run
        ENV expanded="$a $b $c $outside $given"
        ARG c=arg
        ENV c=later
        RUN echo "$c" >> /run
        FROM first
        RUN echo "$a $c" >> /run
        """,
        args={"given": "option"},
    )
    expected = "arg env env global option"
    assert shell(builder, image, "cat /run; echo $expanded") == (
        f"{expected}\nlater\narg later\n{expected}\n"
    )
    assert shell(builder, image, "echo $a $b $c $outside $given") == "env env later env env\n"


@pytest.mark.parametrize(
    ("stage", "target", "expected"),
    [(" AS last", "", "last"), ("", "", "default"), (" AS last", "last", "last")],
)
def test_the_target_stage_has_a_name(
    build: Build, builder: pc.Engine, stage: str, target: str, expected: str
) -> None:
    text = (
        f"FROM base:1 AS first\nFROM base:1{stage}\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /x\n"
    )
    assert shell(builder, build(text, target=target), "cat /x") == f"{expected}\n"


@pytest.mark.parametrize(
    ("line", "escape"),
    [
        ("# syntax=docker/dockerfile:1", "`"), ("#syntax=docker/dockerfile:1-labs", "`"),
        ("# SYNTAX = docker/dockerfile@sha256:0000", "`"),
        ("#   syntax   =   anything at all  ", "`"),
        ("# syntax=docker.io/other/frontend:latest\r", "`"),
        ("\ufeff# syntax=docker/dockerfile:1.7", "`"), ("# check=skip=all;error=true", "`"),
        # These are comments, behind which nothing is a directive.
        ("# syntax=", "\\"), ("# syntax", "\\"), ("#!/usr/bin/env x", "\\"), ("#", "\\"),
    ],
)  # fmt: skip
def test_every_line_about_the_syntax_is_taken(
    build: Build, builder: pc.Engine, line: str, escape: str
) -> None:
    image = build(f"{line}\n# escape=`\nFROM base:1\nRUN echo a{escape}\nb > /x\n")
    assert shell(builder, image, "cat /x") == "ab\n"


@pytest.mark.parametrize("name", ["dockerfile", "Containerfile"])
def test_other_names_of_a_dockerfile(builder: pc.Engine, context: Path, name: str) -> None:
    (context / name).write_text(f"FROM base:1\nCOPY . /x\nLABEL name={name}\n")
    (context / f"{name}.dockerignore").write_text("**out\n")
    (context / "left-out").write_text("")
    image = builder.build(context, options=pc.BuildOptions())
    assert shell(builder, image, "ls -A /x").split() == sorted([name, f"{name}.dockerignore"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--interval=0", {}), ("--interval=0s --timeout=-0", {}), ("--interval=+0", {}),
        ("--timeout=+5s", {"Timeout": 5 * 10**9}), ("--interval=1.5m", {"Interval": 90 * 10**9}),
        ("--interval=.5s", {"Interval": 5 * 10**8}), ("--interval=1h2m3s4ms",
         {"Interval": 3723004 * 10**6}), ("--interval=2000\u03bcs", {"Interval": 2 * 10**6}),
        ("--retries=+3", {"Retries": 3}), ("--retries=0", {}),
    ],
)  # fmt: skip
def test_numbers_of_a_health_check(
    build: Build, builder: pc.Engine, options: str, expected: dict[str, Any]
) -> None:
    build(f"FROM base:1\nHEALTHCHECK {options} CMD true\n", tags=("numbers:1",))
    check = builder.images.inspect("numbers:1")["config"]["Healthcheck"]
    assert check == {"Test": ["CMD-SHELL", "true"], **expected}


@pytest.mark.parametrize("interval", ["1us", "-5s", "5", "+", "++5s", "s", "0.0001ms", "1 s"])
def test_durations_that_are_none(build: Build, interval: str) -> None:
    with pytest.raises(pc.DockerfileError):
        build(f"FROM base:1\nHEALTHCHECK --interval={interval} CMD true\n")


def test_switches_are_read_in_any_case(build: Build, builder: pc.Engine, files: Path) -> None:
    image = build("FROM base:1\nCOPY --link=TRUE a.txt /x\nCOPY --link=False a.txt /y\n")
    assert shell(builder, image, "cat /x /y") == "a\na\n"
    for value in ("", "yes", "1"):
        with pytest.raises(pc.DockerfileError, match="expected true or false"):
            build(f"FROM base:1\nCOPY --link={value} a.txt /x\n")


def test_a_stage_may_be_called_scratch(build: Build, builder: pc.Engine, files: Path) -> None:
    image = build("""\
        FROM base:1 AS scratch
        RUN echo mine > /x
        FROM scratch
        COPY --from=scratch /x /y
        """)
    assert shell(builder, image, "cat /x /y") == "mine\nmine\n"


def test_a_replacement_keeps_its_backslashes(build: Build, builder: pc.Engine) -> None:
    image = build("FROM base:1\nENV x=a/b/c\nENV y=${x//\\//\\/} z=${x/\\//-}\n")
    assert shell(builder, image, 'echo "$y $z"') == "a\\/b\\/c a-b/c\n"


# ------------------------------------------------------------------- command line


@pytest.mark.long
def test_a_dockerfile_from_standard_input(builder: pc.Engine, home: Path, context: Path) -> None:
    (context / "a").write_text("a\n")
    (context / "b").write_text("b\n")
    (context / ".dockerignore").write_text("b\n")
    (context / "Dockerfile").write_text("this is not read\n")
    process = command(
        context, home / "store", "--network=none", "-f", "-", "-t=input:1", stdin=subprocess.PIPE
    )
    with process:
        _, err = process.communicate("FROM base:1\nCOPY . /x\n", timeout=60)
    assert process.returncode == 0, err
    assert shell(builder, builder.image("input:1"), "ls -A /x").split() == [
        ".dockerignore", "Dockerfile", "a",
    ]  # fmt: skip
    process = command(context, home / "store", "-f", "-", stdin=subprocess.PIPE)
    with process:
        _, err = process.communicate("FROM base:1\nCOPI . /x\n", timeout=60)
    assert "Dockerfile:2:1: unknown instruction 'COPI'" in err


def test_a_base_from_an_insecure_registry(
    builder: pc.Engine, home: Path, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (context / "Dockerfile").write_text("FROM registry.example.invalid:1/x:1\n")
    arguments = (
        "--insecure-registry=registry.example.invalid:1",
        "--registry-mirror=docker.io=x.invalid",
    )
    with command(context, home / "store", *arguments) as process:
        _, err = process.communicate(timeout=60)
    assert "registry.example.invalid" in err
    assert "unrecognized" not in err
