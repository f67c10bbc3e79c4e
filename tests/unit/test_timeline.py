"""The report's parts that need no container: bounded output, embedded data, repeated tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.plugin.timeline import document as documents
from pytest_containers.plugin.timeline import output, page
from pytest_containers.plugin.timeline.document import TimelineDocument


def texts(result: dict[str, Any]) -> list[str]:
    return [text for _, _, text in result["lines"]]


def test_lines_are_put_together_by_stream() -> None:
    records = [
        (1.0, 1, b"one, "),
        (2.0, 2, b"error\nsecond "),
        (3.0, 1, b"end\n"),
        (4.0, 2, b"error"),
    ]
    result = output.output_of(records)
    assert result == {
        "lines": [[1.0, 1, "one, end"], [2.0, 2, "error"], [2.0, 2, "second error"]], "cut": False,
    }  # fmt: skip


def test_the_newest_output_is_kept() -> None:
    records = [(float(n), 1, b"%06d\n" % n) for n in range(20_000)]
    result = output.output_of(records)
    assert result["cut"] is True
    assert texts(result)[-1] == "019999"
    assert len(result["lines"]) == output.OUTPUT_LINES
    long_line = output.output_of([(0.0, 1, b"x" * (output.OUTPUT_BYTES + 5))])
    assert (len(texts(long_line)[0]), long_line["cut"]) == (output.OUTPUT_BYTES, True)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))))
def test_no_output_is_lost_below_the_limit(parts: list[tuple[int, bytes]]) -> None:
    result = output.output_of([(0.0, stream, data) for stream, data in parts])
    assert result["cut"] is False
    for stream in (1, 2):
        lines = b"".join(data for number, data in parts if number == stream).count(b"\n")
        assert sum(number == stream for _, number, _ in result["lines"]) in (lines, lines + 1)


class Scripts(HTMLParser):
    """Collects the contents of script elements, as a browser delimits them."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


@given(
    st.text() | st.sampled_from(["</script>", "<!--<script>", "]]>", "@script@ @data@ @policy@"])
)
def test_any_text_survives_the_page(name: str) -> None:
    empty, made = Scripts(), Scripts()
    empty.feed(page.render({}))
    made.feed(page.render({"name": name}))
    assert made.tags == empty.tags
    assert json.loads(made.scripts[0]) == {"name": name}
    assert made.scripts[1] == empty.scripts[1]


def test_a_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    page.write(str(path), {"number": 1})
    page.write(str(path), {"number": 2})
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert '{"number":2}' in path.read_text()


def report(
    nodeid: str, when: Any, outcome: Any = "passed", longrepr: Any = None
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid, ("f.py", 1, "f"), {}, outcome, longrepr, when, start=1.0, stop=2.0
    )


def test_a_repeated_test_has_two_rows() -> None:
    made = TimelineDocument()
    made.add_report(report("test_a", "setup"), "")
    made.add_report(report("test_a", "call", "failed", "it failed"), "")
    for when in ("setup", "call", "teardown"):
        made.add_report(report("test_a", when), "")
    tests = made.finish("/root", 0)["tests"]
    assert [(test["outcome"], len(test["phases"])) for test in tests] == [
        ("failed", 2),
        ("passed", 3),
    ]


def test_output_is_left_out_of_passed_tests_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PAGE_OUTPUT_CHARACTERS", 10_000)
    made = TimelineDocument()
    for number in range(12):
        test = f"test_{number}"
        made.add_report(report(test, "call", "failed" if number == 0 else "passed", "x"), "")
        row = {"test": test, "output": {"lines": [[0.0, 1, "x" * 1000]], "cut": False}}
        made.add_rows("gw0", {"containers": [[number, row]]})
    kept = [bool(row["output"]["lines"]) for row in made.finish("/root", 1)["containers"]]
    assert kept[0] and kept[-1]
    assert not kept[1]
    assert sum(kept) <= 10
