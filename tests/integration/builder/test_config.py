"""Instructions that change the config, and triggers."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.builds import Build, Lines, shell

import pytest_containers as pc


def test_config(build: Build, builder: pc.Engine) -> None:
    build(
        """\
        FROM base:1
        MAINTAINER Somebody
        LABEL a=1 "b c"="d e"
        EXPOSE 80 81-82/udp
        VOLUME /v /x
        VOLUME ["/w"]
        USER 7
        STOPSIGNAL SIGINT
        HEALTHCHECK --interval=5s --retries=2 CMD true
        ONBUILD RUN echo triggered
        ENTRYPOINT ["/bin/cat"]
        CMD ["/etc/group"]
        """,
        labels={"given": "1"}, tags=("config:1",),
    )  # fmt: skip
    config = builder.images.inspect("config:1")["config"]
    assert config["Labels"] == {"a": "1", "b c": "d e", "given": "1"}
    assert list(config["ExposedPorts"]) == ["80/tcp", "81/udp", "82/udp"]
    assert list(config["Volumes"]) == ["/v", "/w", "/x"]
    assert (config["User"], config["StopSignal"]) == ("7", "SIGINT")
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2,
    }  # fmt: skip
    assert config["OnBuild"] == ["RUN echo triggered"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/bin/cat"], ["/etc/group"])


def test_an_entrypoint_drops_an_inherited_command(build: Build) -> None:
    assert build('FROM base:1\nENTRYPOINT ["a"]\n').config.cmd == ()
    assert build('FROM base:1\nCMD b\nENTRYPOINT ["a"]\n').config.cmd == ("/bin/sh", "-c", "b")


def test_history_tells_which_steps_made_layers(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nENV a=1\nARG b=2\nRUN touch /x\nCMD true\n", tags=("history:1",))
    found = [(one["created_by"], one["size_bytes"]) for one in builder.images.history("history:1")]
    assert [by for by, _ in found[:4]] == [
        'CMD ["/bin/sh", "-c", "true"]', "RUN |1 b=2 /bin/sh -c touch /x", "ARG b=2", "ENV a=1",
    ]  # fmt: skip


@pytest.mark.parametrize("base", ["base:1", "scratch"])
def test_the_same_build_gives_the_same_image(
    build: Build, builder: pc.Engine, files: Path, base: str
) -> None:
    """Also on a base that does not tell when it was made: states stand on this id."""
    text = f"FROM {base}\nENV a=1\nCOPY a.txt /same\nCMD true\n"
    first, second = build(text), build(text, tags=("same:1",))
    assert (first.id, first.base_id) == (second.id, second.base_id)
    *_, (_, made), (_, env) = [
        (one["created_by"], one["created"]) for one in builder.images.history("same:1")[:3]
    ]
    assert made
    assert not env


def test_triggers_run_in_the_next_build(build: Build, builder: pc.Engine, files: Path) -> None:
    build("FROM base:1\nONBUILD COPY a.txt /t/\nONBUILD RUN touch /t/ran\n", tags=("trigger:1",))
    image = build("FROM trigger:1\nRUN touch /t/own\n", tags=("triggered:1",))
    assert shell(builder, image, "ls /t") == "a.txt\nown\nran\n"
    assert "OnBuild" not in builder.images.inspect("triggered:1")["config"]


def test_what_is_suspicious_is_warned_of(build: Build) -> None:
    shown = Lines()
    build(
        "FROM base:1\nARG rev\nRUN true \\\n\n  && true\n",
        args={"rve": "1", "HTTP_PROXY": "x"}, display=shown,
    )  # fmt: skip
    warnings = [line for line in shown.text.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "an empty line inside an instruction" in warnings[0]
    assert warnings[1].endswith("no ARG declares the build argument 'rve'; did you mean 'rev'?")


def test_a_trigger_may_need_a_stage(build: Build, builder: pc.Engine) -> None:
    build("FROM base:1\nONBUILD COPY --from=made /made /t\n", tags=("needing:1",))
    image = build("FROM base:1 AS made\nRUN echo x > /made\nFROM needing:1\nRUN cat /t > /u\n")
    assert shell(builder, image, "cat /u") == "x\n"


def test_variables_are_expanded_where_they_may_be(
    build: Build, builder: pc.Engine, files: Path
) -> None:
    build(
        """\
        FROM base:1
        ARG file=a.txt
        ENV a=old
        ENV a=new b=$a
        LABEL $b=${b}er '$b'="\\$b"
        EXPOSE ${port:-80}
        VOLUME /v/$b
        WORKDIR /w/$b
        COPY $file /$b/
        ADD $file /$a
        USER $a:$b
        STOPSIGNAL SIG${signal:-INT}
        ONBUILD LABEL triggered=$a
        CMD ["$a"]
        ENTRYPOINT $a
        """,
        tags=("expanded:1",),
    )
    config = builder.images.inspect("expanded:1")["config"]
    assert {"a=new", "b=old"} <= set(config["Env"])  # all of a line by what was before it
    assert config["Labels"] == {"old": "older", "$b": "$b"}
    assert list(config["ExposedPorts"]) == ["80/tcp"]
    assert list(config["Volumes"]) == ["/v/old"]
    assert (config["WorkingDir"], config["User"]) == ("/w/old", "new:old")
    assert config["StopSignal"] == "SIGINT"
    assert config["OnBuild"] == ["LABEL triggered=$a"]
    # These two are for whoever runs it.
    assert (config["Cmd"], config["Entrypoint"]) == (["$a"], ["/bin/sh", "-c", "$a"])
    build("FROM expanded:1\nENV a=newest\n", tags=("expanded:2",))
    assert builder.images.inspect("expanded:2")["config"]["Labels"]["triggered"] == "new"


def test_an_argument_of_the_file_reaches_its_froms_only(build: Build) -> None:
    shown = Lines()
    build(
        """\
        ARG base=base number=1 both=$base:$number
        FROM $both AS first
        RUN echo "[$base]"
        ARG number
        ARG inner=of-first
        FROM first
        RUN echo "[$base] [$number] [$inner] [$TARGETARCH]"
        ARG inner
        RUN echo "again [$inner]"
        """,
        display=shown,
    )
    assert " []\n" in shown.text
    assert " [] [1] [of-first] []\n" in shown.text
    assert " again [of-first]\n" in shown.text


def test_a_proxy_is_not_remembered(build: Build, builder: pc.Engine) -> None:
    build(
        "FROM base:1\nARG x\nRUN echo $HTTP_PROXY$x\n",
        args={"HTTP_PROXY": "http://hunter2@proxy", "x": "known"}, tags=("proxied:1",),
    )  # fmt: skip
    (step, *_) = builder.images.history("proxied:1")
    assert step["created_by"] == "RUN |1 x=known /bin/sh -c echo $HTTP_PROXY$x"
    assert "hunter2" not in str(builder.images.inspect("proxied:1"))


def test_what_an_image_inherits_may_be_taken_back(build: Build, builder: pc.Engine) -> None:
    build('FROM base:1\nHEALTHCHECK CMD true\nENV old form here\nCMD ["x"]\n', tags=("kept:1",))
    build("FROM kept:1\nHEALTHCHECK NONE\nENTRYPOINT y\n", tags=("kept:2",))
    first, second = (builder.images.inspect(f"kept:{number}")["config"] for number in (1, 2))
    assert first["Healthcheck"] == {"Test": ["CMD-SHELL", "true"]}
    assert second["Healthcheck"] == {"Test": ["NONE"]}
    assert "old=form here" in second["Env"]
    assert (first["Cmd"], second.get("Cmd")) == (["x"], None)
