"""What a Dockerfile says, as the build takes it: numbers, documents, escapes, places."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.builds import Build, shell

import pytest_containers as pc


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY --chown=4294967295 Dockerfile /", "4294967295 is not an id"),
        ("COPY --from=² /a /", "'²' is"),
        ("RUN --mount=type=cache,target=/c,uid=² true", "uid=²: expected a number"),
    ],
)
def test_only_a_number_is_one(build: Build, instruction: str, message: str) -> None:
    with pytest.raises(pc.BuildError) as caught:
        build(f"FROM base:1\n{instruction}\n")
    assert message in caught.value.message


def test_another_escape_character_is_for_the_dockerfile_only(
    build: Build, builder: pc.Engine, context: Path
) -> None:
    """BuildKit reads documents, and a shell its commands, with a backslash all the same."""
    (context / "a$x").write_text("file\n")
    image = build("""\
        # escape=`
        FROM base:1
        ENV x=value `
            y=a`$x\\w
        COPY a`$x /
        COPY <<E /document
        `$x` \\$x
        E
        RUN <<E
        echo "`echo $x` \\$x" > /script
        E
        RUN cat <<E > /stdin
        `echo $x` \\$x
        E
        """)
    script = "cat '/a$x' /document /script /stdin; echo $y"
    assert shell(builder, image, script) == ("file\n`value` $x\nvalue $x\nvalue $x\na$x\\w\n")


def test_a_script_may_be_indented_with_tabs(build: Build, builder: pc.Engine) -> None:
    image = build("FROM base:1\nRUN <<-E\n\t#!/bin/cat\n\ttext\n\tE\nRUN <<-E\n"
                  "\t#!/bin/sh -e\n\techo $0 > /name\n\tE\n")  # fmt: skip
    assert shell(builder, image, "cat /name") == "/dev/pipes/E\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "shown"),
    [
        ("ENV a=1 \\\n  b=x${v!}", 3, 9, "  b=x${v!}"),
        ("ENV a='${v!}' \\\n\n# c\n  b=${v!}", 5, 8, "  b=${v!}"),
        ('COPY --chown="${v!}" \\\n a b', 2, 18, 'COPY --chown="${v!}" \\'),
        ('COPY \\\n ["${v:?none}", "/"]', 3, 4, ' ["${v:?none}", "/"]'),
        ("RUN --network=none \\\n --mount=target=/x,source=${v true", 3, 27,
         " --mount=target=/x,source=${v true"),
        ("COPY <<A <<-B /d/\na\nA\n\tb\n\t\tx ${v:?none}\n\tB", 6, 5, "  x ${v:?none}"),
        ("  WORKDIR \\\n /$x/${v:?none}", 3, 6, " /$x/${v:?none}"),
        ('LABEL a="b" \\\n c="\\"${v:?none}"', 3, 7, ' c="\\"${v:?none}"'),
        ('USER \\\n it\'s', 3, 4, " it's"),
        ("\\\n  ARG x=${v:?none}", 3, 9, "  ARG x=${v:?none}"),
    ],
)  # fmt: skip
def test_a_word_that_is_not_understood_is_shown(
    build: Build, text: str, line: int, column: int, shown: str
) -> None:
    with pytest.raises(pc.DockerfileError) as caught:
        build(f"FROM base:1\n{text}\n")
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert f"  {line} | {shown}\n    | {' ' * (column - 1)}^" in error.message


def test_a_word_of_a_from_is_shown(build: Build) -> None:
    with pytest.raises(pc.DockerfileError) as caught:
        build("ARG a=1 \\\n  b=${v!}\nFROM base:1\n")
    assert (caught.value.line, caught.value.column) == (2, 8)
    with pytest.raises(pc.DockerfileError) as caught:
        build("FROM \\\n  --platform=${v!} base:1\n")
    assert (caught.value.line, caught.value.column) == (2, 17)


def test_a_word_of_a_trigger_is_shown_at_the_from(build: Build) -> None:
    build("FROM base:1\nONBUILD ENV a=${v!}\n", tags=("misread:1",))
    with pytest.raises(pc.DockerfileError) as caught:
        build("FROM base:1\n\nFROM misread:1\n")
    assert (caught.value.line, caught.value.column) == (3, 1)


def test_add_takes_documents(build: Build, builder: pc.Engine) -> None:
    image = build("""\
        FROM base:1
        ENV who=world
        ADD --chmod=600 <<one <<-"two" /files/
        hello $who
        one
        \t\thello $who
        \ttwo
        """)
    script = "cat /files/one /files/two; stat -c %a /files/one"
    assert shell(builder, image, script) == "hello world\nhello $who\n600\n"


def test_documents_of_triggers_are_for_the_next_build(build: Build, builder: pc.Engine) -> None:
    build(
        """\
        FROM base:1
        ENV who=parent
        ONBUILD RUN <<E
        echo "run $who" > /run-by-shell
        E
        ONBUILD RUN <<-"E"
        \t#!/bin/sh
        \techo "script $0 $who" > /run-as-script
        \tE
        ONBUILD RUN cat <<A > /read; cat <<"B" >> /read
        $who
        A
        $who
        B
        ONBUILD ADD <<a <<"b" /files/
        add $who
        a
        add $who
        b
        ONBUILD COPY <<E /files/c
        copy $who
        E
        """,
        tags=("documents:1",),
    )
    assert shell(builder, builder.image("documents:1"), "ls -d /run-* /read /files 2>&-") == ""
    image = build("FROM documents:1\nENV who=child\n")
    script = "cat /run-by-shell /run-as-script /read /files/a /files/b /files/c"
    assert shell(builder, image, script) == (
        "run parent\nscript /dev/pipes/E parent\nparent\n$who\nadd parent\nadd $who\ncopy parent\n"
    )


def test_all_times_of_a_health_check_are_kept(build: Build, builder: pc.Engine) -> None:
    build(
        "FROM base:1\nHEALTHCHECK --interval=5s --timeout=1m30s --start-period=1.5s "
        '--start-interval=250ms --retries=4 CMD ["true"]\n',
        tags=("healthy:1",),
    )
    assert builder.images.inspect("healthy:1")["config"]["Healthcheck"] == {
        "Test": ["CMD", "true"], "Interval": 5 * 10**9, "Timeout": 90 * 10**9,
        "StartPeriod": 15 * 10**8, "StartInterval": 25 * 10**7, "Retries": 4,
    }  # fmt: skip
