"""What a base hands on: its config, its triggers and the stages that these need."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.builds import Build, Lines, shell

import pytest_containers as pc


def test_a_built_image_of_the_host_hands_on_its_config(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    build(
        """\
        FROM host:
        WORKDIR /srv/w
        ENV made=1
        LABEL a=b
        SHELL ["/bin/sh", "-ec"]
        ENTRYPOINT ["/bin/echo", "entered"]
        ONBUILD RUN echo triggered > /srv/t
        """,
        tags=("of-host:2",),
    )
    image = build("FROM of-host:2\nRUN echo $made > made\n", tags=("of-host:3",))
    command = ["cat", "/srv/t", "made"]
    with builder.run(image, command, entrypoint=(), wait_ready=False) as container:
        container.wait(60)
        assert container.logs().stdout == "triggered\n1\n"
    for one in (image, builder.image("of-host:3")):
        config = one.config
        assert (config.workdir, config.labels) == ("/srv/w", {"a": "b"})
        assert (config.entrypoint, config.shell) == (("/bin/echo", "entered"), ("/bin/sh", "-ec"))


@pytest.mark.parametrize("text", ["COPY a.txt /usr/x", "WORKDIR /opt/x", "ADD a.txt /usr/bin/"])
def test_what_the_host_shows_cannot_be_covered(build: Build, files: Path, text: str) -> None:
    with pytest.raises(pc.DockerfileError, match="is this machine's own, read-only"):
        build(f"FROM host:\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "FROM circle:1 AS made\n",
        "FROM circle:1 AS a\nFROM a AS made\n",
        "FROM circle:1 AS a\nFROM base:1 AS made\nCOPY --from=a / /\nFROM made\n",
    ],
)
def test_triggers_that_need_themselves(build: Build, text: str) -> None:
    build("FROM base:1\nONBUILD COPY --from=made /x /y\n", tags=("circle:1",))
    with pytest.raises(pc.DockerfileError, match="stages need each other: .*made"):
        build(text)


def test_a_stage_that_only_triggers_need_is_built_once(build: Build) -> None:
    build(
        "FROM base:1\nONBUILD COPY --from=made /m /1\nONBUILD COPY --from=made /m /2\n",
        tags=("twice:1",),
    )
    shown = Lines()
    build("FROM base:1 AS made\nRUN echo x > /m\nFROM twice:1\n", display=shown)
    assert [title for title in shown.done() if title.startswith("RUN")] == ["RUN echo x > /m"]
    assert shown.text.count("RUN echo x > /m") == 1


def test_a_trigger_that_fails_is_shown_where_it_is_inherited(build: Build) -> None:
    build("FROM base:1\nONBUILD RUN exit 3\n", tags=("failing:1",))
    build("FROM base:1\nONBUILD COPY nothing /x\n", tags=("failing:2",))
    with pytest.raises(pc.DockerfileError) as caught:
        build("# a comment\nFROM failing:1\nRUN true\n")
    assert "Dockerfile:2:1: FROM: its trigger 'RUN exit 3': it failed with exit code 3" in str(
        caught.value
    )
    with pytest.raises(
        pc.DockerfileError, match="FROM: its trigger 'COPY nothing /x': there is no"
    ):
        build("FROM failing:2\n")


def test_an_argument_of_a_trigger_is_declared(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nONBUILD ARG TITLE\nONBUILD LABEL t=$TITLE\n", tags=("titled:1",))
    shown = Lines()
    build("FROM titled:1\nRUN true\n", args={"TITLE": "x"}, tags=("titled:2",), display=shown)
    assert builder.images.inspect("titled:2")["config"]["Labels"] == {"t": "x"}
    assert "warning" not in shown.text


def test_an_image_without_a_path_gets_one(build: Build, builder: pc.Engine, files: Path) -> None:
    build("FROM scratch\nCOPY a.txt /\n", tags=("no-path:1",))
    document = builder.images.inspect("no-path:1")["config"]
    assert document["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    builder.images.import_rootfs(files, "no-path:2", {"Env": ["A=1"]})
    build("FROM no-path:2\nENV PATH=$PATH:/x\n", tags=("no-path:3",))
    env = builder.images.inspect("no-path:3")["config"]["Env"]
    assert env == ["A=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/x"]


@pytest.mark.parametrize(("name", "message"), [("7", "there is no stage 7: there are 2")])
@pytest.mark.long
def test_a_stage_by_a_number_that_is_none(build: Build, name: str, message: str) -> None:
    with pytest.raises(pc.DockerfileError, match=message):
        build(f"FROM base:1\nFROM base:1\nCOPY --from={name} /x /\n")


def test_a_short_platform_is_a_whole_one(build: Build) -> None:
    machine = build("FROM base:1\n").config.architecture
    shown = Lines()
    build(
        "FROM base:1\nARG TARGETPLATFORM\nRUN echo $TARGETPLATFORM\n",
        platform=machine,
        display=shown,
    )
    assert f" linux/{machine}\n" in shown.text


def test_an_epoch_may_be_an_argument(build: Build, builder: pc.Engine) -> None:
    text = "FROM base:1\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /x\n"
    image = build(text, args={"SOURCE_DATE_EPOCH": "7"}, tags=("epoch:1",))
    assert shell(builder, image, "cat /x") == "7\n"
    assert builder.images.inspect("epoch:1")["created"].startswith("1970-01-01T00:00:07")
    assert build(text, epoch=7).id == image.id
    with pytest.raises(pc.BuildError, match="SOURCE_DATE_EPOCH=x is not a number of seconds"):
        build(text, args={"SOURCE_DATE_EPOCH": "x"})


def test_a_secret_wins_over_a_variable_of_its_name(build: Build) -> None:
    shown = Lines()
    text = "FROM base:1\nENV T=env\nRUN --mount=type=secret,id=t,env=T echo ${#T}\n"
    build(text, secrets={"t": b"a-secret"}, display=shown)
    assert " 8\n" in shown.text


def test_an_exit_code_that_is_no_signal(build: Build) -> None:
    with pytest.raises(pc.DockerfileError, match="it failed with exit code 255"):
        build("FROM base:1\nRUN exit 255\n")
