"""Images that fixtures build."""

from __future__ import annotations

from pathlib import Path

import pytest

TEST = """
image = pc.build_fixture("app", args={"WORD": "one"}, network="none")

@pc.container_fixture
def app(image):
    return pc.ContainerSpec(image, ["cat", "/srv/word"])

@pytest.mark.parametrize("n", range(3))
def test_it(app, n):
    assert app.wait(60) == 0
    with open("said", "a") as file:
        file.write(app.logs().stdout)
"""
DOCKERFILE = "FROM host:\nARG WORD\nRUN echo $WORD > /srv/word\n"


@pytest.fixture
def app(pytester: pytest.Pytester) -> Path:
    folder = pytester.mkdir("app")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.long)])
def test_tests_have_containers_of_what_was_built(run, pytester, app: Path, workers: str) -> None:
    for _ in range(2):
        run(TEST, "-n", workers).assert_outcomes(passed=3)
    assert (pytester.path / "said").read_text() == "one\n" * 6


@pytest.mark.long
def test_a_change_is_seen_by_the_next_run(run, pytester, app: Path) -> None:
    run(TEST).assert_outcomes(passed=3)
    (app / "Dockerfile").write_text(DOCKERFILE.replace("$WORD", "two"))
    run(TEST).assert_outcomes(passed=3)
    assert (pytester.path / "said").read_text() == "one\n" * 3 + "two\n" * 3


@pytest.mark.long
def test_another_image_may_be_named(run, pytester, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM host:\nRUN false\n")
    result = run(
        TEST.replace('"/srv/word"', '"/etc/hostname"'), "--containers-image", "image=host:"
    )
    result.assert_outcomes(passed=3)


@pytest.mark.long
def test_a_failure_shows_the_line_and_the_output(run, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM host:\n\nRUN echo almost there; exit 3\n")
    result = run(TEST)
    result.assert_outcomes(errors=3)
    output = result.stdout.str()
    assert "Dockerfile:3:1: RUN: it failed with exit code 3" in output
    assert "almost there" in output


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('pc.build_fixture("app", arg={})', "'arg' is not an option of a build; there are args,"),
        ('pc.build_fixture("nowhere")', "nowhere: the context does not exist"),
        ('pc.build_fixture("app", dockerfile="Other")', "Other: No such file or directory"),
        ('pc.build_fixture("app", target="prod")', "there is no stage 'prod'"),
    ],
)
def test_what_cannot_be_built_is_told_by_the_test(run, app: Path, call: str, message: str) -> None:
    result = run(f"image = {call}\ndef test_it(image): pass\n")
    result.assert_outcomes(errors=1)
    assert message in result.stdout.str()
