"""The parser of Dockerfiles: each line of the language's checklist."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.builder.dockerfile import DockerfileError, parse, parse_trigger
from pytest_containers.builder.dockerfile import instructions as i
from pytest_containers.builder.dockerfile.instructions import Command, Instruction, Mount


def body(text: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile of one stage."""
    (stage,) = parse(f"FROM x\n{text}").stages
    return stage.instructions


def one(text: str) -> Any:
    (instruction,) = body(text)
    return instruction


def refused(text: str) -> str:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert caught.value.message.startswith(f"Dockerfile:{caught.value.line}:{caught.value.column}:")
    return caught.value.message


# ------------------------------------------------------------------ lines


def test_a_byte_order_mark_is_no_letter() -> None:
    assert parse("\ufeffFROM x\n").stages[0].begin.image == "x"


def test_directives() -> None:
    parsed = parse(
        "# Syntax = docker/dockerfile:1\n#ESCAPE=`\n# check=skip=all\nFROM x\nRUN a `\n b"
    )
    assert dict(parsed.directives) == {
        "syntax": "docker/dockerfile:1", "escape": "`", "check": "skip=all",
    }  # fmt: skip
    assert parsed.stages[0].instructions[0].text == "RUN a  b"


@pytest.mark.parametrize("before", ["\n", "# a comment\n", "# unknown=1\n", "FROM y\n"])
def test_directives_stand_at_the_top_only(before: str) -> None:
    assert parse(f"{before}# escape=`\nFROM x\n").escape == "\\"


def test_a_directive_stands_once() -> None:
    assert "'escape' stands here a second time" in refused("# escape=`\n# escape=`\nFROM x")
    assert "expected \\ or `" in refused("# escape=x\nFROM x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN a \\\n  b", "RUN a   b"),
        ("RUN a \\  \t\n  b", "RUN a   b"),  # blanks after the mark
        ("RUN a \\\r\n  b\r\n", "RUN a   b"),
        ("RUN a \\\n# a comment\n   # another\n  b", "RUN a   b"),
        ("RUN a \\\n\n  b", "RUN a   b"),
        ("  RUN a", "RUN a"),
        ("\\\nRUN a", "RUN a"),
        ("\\\n  RUN a", "RUN a"),
        ("RUN a \\", "RUN a"),
    ],
)
def test_lines_are_continued(text: str, expected: str) -> None:
    assert one(text).text == expected


def test_any_blank_may_stand_before_a_trigger() -> None:
    trigger = one("ONBUILD \xa0RUN a").trigger
    assert parse_trigger(trigger, "t").text == "RUN a"


def test_a_mark_after_a_mark_continues_nothing() -> None:
    assert [each.text for each in body("RUN a \\\\\nRUN b")] == ["RUN a \\\\", "RUN b"]


def test_an_empty_line_inside_is_warned_of() -> None:
    (warning,) = parse("FROM x\nRUN a \\\n\n b\n").warnings
    assert warning.startswith("Dockerfile:3: an empty line")


def test_a_line_has_a_limit() -> None:
    assert one("RUN " + "x" * 65_531).command.words[0] == "x" * 65_531
    assert "longer than 65535 bytes" in refused("FROM x\nRUN " + "x" * 65_532)


def test_positions_are_those_of_the_file() -> None:
    first, second = body("\n# c\nRUN a \\\n b\nCMD c")
    assert (first.line, first.end_line, second.line) == (4, 5, 6)


# --------------------------------------------------------------- heredocs


def test_a_heredoc() -> None:
    run = one("RUN <<EOF\na $x\n  EOF\nEOF\n")
    (heredoc,) = run.heredocs
    assert (heredoc.name, heredoc.content, heredoc.expand) == ("EOF", "a $x\n  EOF\n", True)


@pytest.mark.parametrize("name", ["'EOF'", '"EOF"', "E'O'F", "\\EOF"])
def test_quotes_turn_expansion_off(name: str) -> None:
    (heredoc,) = one(f"RUN <<{name}\n$x\nEOF").heredocs
    assert (heredoc.name, heredoc.expand) == ("EOF", False)


def test_a_heredoc_may_lose_its_tabs() -> None:
    (heredoc,) = one("RUN <<-EOF\n\t\ta\n  b\n\tEOF\n").heredocs
    assert heredoc.content == "a\n  b\n"


@pytest.mark.parametrize("letter", ["\f", "\v", "\x85", "\u2028", "\r"])
def test_only_a_newline_ends_a_line_of_a_heredoc(letter: str) -> None:
    (heredoc,) = one(f"RUN <<-EOF\n\ta{letter}\tb\r\n\tc\n\tEOF\n").heredocs
    assert heredoc.content == f"a{letter}\tb\r\nc\n"


def test_several_heredocs_on_a_line() -> None:
    copy = one("COPY <<a <<b dir/\n1\na\n2\nb")
    assert [each.content for each in copy.sources] == ["1\n", "2\n"]
    assert copy.destination == "dir/"


def test_a_heredoc_in_a_trigger_stays_with_it() -> None:
    trigger = one("ONBUILD COPY <<a /x\n1\na").trigger
    assert parse_trigger(trigger, "t").sources[0].content == "1\n"  # type: ignore[attr-defined]


def test_no_heredoc_elsewhere() -> None:
    assert one("CMD cat <<EOF").command.words == ("cat <<EOF",)
    assert one('RUN ["cat", "<<EOF"]').heredocs == ()
    assert one("RUN cat <<<word").heredocs == ()


@pytest.mark.parametrize("tail", ["# don't", "; echo $'it\\'s'", '|| echo "'])
def test_quotes_behind_a_heredoc_are_the_shells(tail: str) -> None:
    run, last = body(f"RUN cat <<EOF {tail}\nRUN a\nEOF\nCMD b")
    assert run.heredocs[0].content == "RUN a\n"  # type: ignore[attr-defined]
    assert last.KEYWORD == "CMD"


def test_no_heredoc_behind_a_quote_without_end() -> None:
    assert one("RUN true # don't <<EOF").heredocs == ()


def test_heredocs_are_found_as_a_shell_finds_them() -> None:
    (stage,) = parse('# escape=`\nFROM x\nRUN echo \\" <<EOF\na\nEOF\n').stages
    assert stage.instructions[0].heredocs[0].content == "a\n"  # type: ignore[attr-defined]


def test_a_heredoc_without_end() -> None:
    message = refused("FROM x\nRUN cat <<EOF\nEOF \n")
    assert "the document <<EOF has no end" in message
    assert "  2 | RUN cat <<EOF\n    |         ^" in message


# ------------------------------------------------------------ instructions


def test_stages() -> None:
    parsed = parse("ARG v=1\nFROM --platform=linux/amd64 a:$v AS Build\nRUN x\nfrom b as c\n")
    first, second = (stage.begin for stage in parsed.stages)
    assert (first.image, first.platform, first.name) == ("a:$v", "linux/amd64", "build")
    assert (second.image, second.name) == ("b", "c")
    assert parsed.args[0].pairs == (("v", "1"),)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("ENV a=1", (("a", "1"),)),
        ('ENV a="1 2" b=3\\ 4 c=', (("a", '"1 2"'), ("b", "3\\ 4"), ("c", ""))),
        ("ENV a b c", (("a", "b c"),)),
        ("LABEL a.b=c 'd e'=f", (("a.b", "c"), ("'d e'", "f"))),
    ],
)
def test_pairs(text: str, pairs: Any) -> None:
    assert one(text).pairs == pairs


def test_arguments_may_have_defaults() -> None:
    assert one("ARG a b=1 c=").pairs == (("a", None), ("b", "1"), ("c", ""))


@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT"])
@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("a && b", Command(("a && b",), shell=True)),
        ('["a", "b c"]', Command(("a", "b c"), shell=False)),
        ("['a']", Command(("['a']",), shell=True)),  # no JSON: the shell may know what it is
        ("[a", Command(("[a",), shell=True)),
    ],
)
def test_commands(keyword: str, text: str, command: Command) -> None:
    assert one(f"{keyword} {text}").command == command


def test_json_with_anything_but_text_is_an_error() -> None:
    assert "only text, found 1" in refused('FROM x\nCMD ["a", 1]')


def test_mounts() -> None:
    run = one(
        "RUN --mount=type=cache,target=/c,id=i,sharing=locked,ro,uid=$u "
        "--mount=src=a,dst=/b,rw --mount=type=secret,id=s,required,env=E --network=none x"
    )
    assert run.mounts == (
        Mount("cache", target="/c", id="i", sharing="locked", read_only=True, uid="$u"),
        Mount("bind", source="a", target="/b", read_only=False),
        Mount("secret", id="s", required=True, env="E"),
    )
    assert (run.network, run.security, run.command.words) == ("none", "sandbox", ("x",))


@pytest.mark.parametrize("command", ["echo hi # don't", "echo $'it\\'s'", 'echo "'])
@pytest.mark.parametrize("flag", ["--network=none", "--mount=type=cache,target=/c"])
def test_what_is_behind_options_is_the_shells(flag: str, command: str) -> None:
    assert one(f"RUN {flag} {command}").command.words == (command,)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=secret,id=s,ro", Mount("secret", id="s", read_only=True)),
        ("type=secret,id=s,rw", Mount("secret", id="s", read_only=False)),
        ("type=ssh,readonly", Mount("ssh", read_only=True)),
        ("type=tmpfs,target=/t,rw", Mount("tmpfs", target="/t", read_only=False)),
        ("type=tmpfs,target=/t,ro=false", Mount("tmpfs", target="/t", read_only=False)),
        ("type=CACHE,target=/c,sharing=Locked", Mount("cache", target="/c", sharing="locked")),
        ("target=/b,from=a,ro=T", Mount("bind", target="/b", from_="a", read_only=True)),
    ],
)
def test_mounts_are_read_as_buildkit_reads_them(text: str, mount: Mount) -> None:
    assert one(f"RUN --mount={text} x").mounts == (mount,)


@pytest.mark.parametrize(
    "text", ["type=$v,target=/c,from=a", "type=cache,target=/c,sharing=${v},from=a",
             "target=/c,ro=$v,from=a", "type=$v,id=a,required=$v,from=a"],
)  # fmt: skip
def test_what_a_mount_is_may_be_a_variable(text: str) -> None:
    (mount,) = one(f"RUN --mount={text} x").mounts
    assert (mount.from_, mount.option) == ("a", text)


def test_copies() -> None:
    copy = one(
        "COPY --from=a --chown=1:2 --chmod=u+x --link --parents --exclude=b --exclude=c d e f/"
    )
    assert (copy.from_, copy.chown, copy.chmod) == ("a", "1:2", "u+x")
    assert (copy.link, copy.parents, copy.exclude) == (True, True, ("b", "c"))
    assert (copy.sources, copy.destination) == (("d", "e"), "f/")
    assert one('COPY ["a b", "c d"]').sources == ("a b",)
    add = one("ADD --keep-git-dir=true --checksum=sha256:1 --unpack=false --link=false u d")
    assert (add.keep_git_dir, add.checksum, add.unpack, add.link) == (
        True,
        "sha256:1",
        False,
        False,
    )


def test_health_checks() -> None:
    check = one("HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2s "
                "--start-interval=500ms --retries=3 CMD curl x")  # fmt: skip
    assert (check.interval_ns, check.timeout_ns) == (90 * 10**9, 1_500_000_000)
    assert (check.start_period_ns, check.start_interval_ns, check.retries) == (
        2 * 10**9, 500_000_000, 3,
    )  # fmt: skip
    assert check.command == Command(("curl x",), shell=True)
    assert one("HEALTHCHECK none").command is None
    assert one('HEALTHCHECK CMD ["a"]').command == Command(("a",), shell=False)


def test_the_other_instructions() -> None:
    assert one("EXPOSE 80/tcp 90-92/udp").ports == ("80/tcp", "90-92/udp")
    assert one("VOLUME /a /b").paths == one('VOLUME ["/a", "/b"]').paths == ("/a", "/b")
    assert one("WORKDIR /a b").path == "/a b"
    assert one("USER a:b").user == "a:b"
    assert one("STOPSIGNAL SIGINT").signal == "SIGINT"
    assert one("MAINTAINER A B <c>").author == "A B <c>"
    assert one('SHELL ["a", "b"]').words == ("a", "b")
    assert one("ONBUILD RUN a").trigger == "RUN a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no FROM in it"),
        ("RUN x", "RUN stands before the first FROM"),
        ("FROM", "expected `image`"),
        ("FROM a b", "expected `image` or `image AS name`"),
        ("FROM a AS 1b", "cannot name a stage"),
        ("FRM x", "unknown instruction 'FRM'; did you mean FROM?"),
        ("FROM x\nEXEC a", "unknown instruction 'EXEC'"),
        ("FROM x\nRUN", "expected a command"),
        ("FROM x\nRUN --mnt=a b", "no option --mnt; did you mean --mount?"),
        ("FROM x\nRUN --network=n b", "expected one of default, none, host"),
        ("FROM x\nRUN --network b", "option --network has no value"),
        ("FROM x\nENV --a b", "no option --a; it takes none"),
        ("FROM x\nENV", "expected name=value"),
        ("FROM x\nENV a", "a has no value"),
        ("FROM x\nENV a=b c", "c: expected name=value"),
        ("FROM x\nENV =b", "a name is missing"),
        ('FROM x\nENV a="b', 'the quote " is not closed'),
        ('FROM x\nRUN --network="none b', '2:15: RUN: the quote " is not closed'),
        ("FROM x\nARG =1", "a name is missing"),
        ("FROM x\nCOPY a", "at least one source and a destination, found 1"),
        ("FROM x\nCOPY a <<b\n1\nb", "a document cannot be the destination"),
        ("FROM x\nCOPY --from=a --from=b c d", "option --from stands here twice"),
        ("FROM x\nCOPY --link=maybe c d", "expected true or false"),
        ("FROM x\nSHELL a", "expected a JSON array"),
        ("FROM x\nHEALTHCHECK a", "expected CMD or NONE"),
        ("FROM x\nHEALTHCHECK NONE a", "takes neither arguments nor options"),
        ("FROM x\nHEALTHCHECK --interval=1 CMD a", "expected a duration"),
        ("FROM x\nHEALTHCHECK --interval=1us CMD a", "at least 1ms"),
        ("FROM x\nHEALTHCHECK --retries=a CMD a", "expected a number"),
        ("FROM x\nHEALTHCHECK --retries=² CMD a", "expected a number"),
        (f"FROM x\nHEALTHCHECK --retries={'9' * 5000} CMD a", "expected a number"),
        ("FROM x\nHEALTHCHECK --timeout=٣s CMD a", "expected a duration"),
        ("FROM x\nUSER a b", "expected one user, found 2"),
        ("FROM x\nVOLUME []", "expected a directory"),
        ("FROM x\nONBUILD ONBUILD RUN a", "ONBUILD cannot stand in an ONBUILD"),
        ("FROM x\nONBUILD FROM a", "FROM cannot stand in an ONBUILD"),
        ("FROM x\nONBUILD MAINTAINER a", "MAINTAINER cannot stand in an ONBUILD"),
        ("FROM x\nRUN --mount=type=bnd,target=/a b", "there is no type 'bnd'"),
        ("FROM x\nRUN --mount=targt=/a b", "did you mean 'target'?"),
        ("FROM x\nRUN --mount=type=tmpfs,target=/a,id=b c", "of type tmpfs has no key 'id'"),
        ("FROM x\nRUN --mount=target=/a,from=$b c", "'from' takes no variables"),
        ("FROM x\nRUN --mount=target=/a,target=/b c", "stands in it twice"),
        ("FROM x\nRUN --mount=target=/a,ro,rw c", "both readonly and readwrite"),
        ("FROM x\nRUN --mount=type=cache,target=/a,sharing=b c", "expected one of shared"),
        ("FROM x\nRUN --mount=type=secret b", "names no secret"),
        ("FROM x\nRUN --mount=type=tmpfs,target=/a,ro b", "leave out readonly"),
        ("FROM x\nRUN --mount=target=/a,ro= b", "ro=: expected true or false"),
    ],
)
def test_errors_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert message in caught.value.message


def test_an_error_shows_its_place() -> None:
    message = refused("FROM x\nRUN a && \\\n    b\nCOPY --fro=y a \\\n  b\n")
    assert message == (
        "Dockerfile:4:6: COPY: there is no option --fro; did you mean --from?\n"
        "  4 | COPY --fro=y a \\\n"
        "    |      ^"
    )  # fmt: skip


def test_an_error_on_a_continued_line_shows_that_line() -> None:
    assert "Dockerfile:3:3: ENV: b: expected name=value\n  3 |   b" in refused(
        "FROM x\nENV a=1 \\\n  b"
    )


@given(st.text())
def test_whatever_it_is_given_it_answers_or_explains(text: str) -> None:
    for candidate in (text, f"FROM x\n{text}", f"FROM x\nRUN {text}", f"FROM x\nCOPY {text}"):
        try:
            parsed = parse(candidate)
        except DockerfileError as error:
            assert error.line >= 1
            assert error.column >= 1
        else:
            assert all(isinstance(each, i.Instruction) for each in parsed)


@given(st.lists(st.sampled_from(["RUN a", "ENV b=c", "# d", "", "COPY e f", "WORKDIR /g"])))
def test_instructions_come_in_order_and_keep_their_lines(lines: list[str]) -> None:
    found = body("\n".join(lines))
    wanted = [(at, line) for at, line in enumerate(lines, 2) if line and not line.startswith("#")]
    assert [(each.line, each.text) for each in found] == wanted
