"""The documentation: pages are not stale, read as plain Markdown, and name every public name."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.model import settings
from pytest_containers.plugin import session_lines
from pytest_containers.runtime.plan import oci_fields
from pytest_containers.services.checks import check_names

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
PAGES = generate.pages()


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11),
    reason="needs Python 3.11, with which the pages are written: others word --help differently",
)
def test_generated_parts_are_what_the_code_says() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generate.stale(PAGES)]
    assert stale == [], "run `python docs/generate.py`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_plain_markdown(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^(?:```|:::)\{.*|\{(?:doc|ref)\}`.*", text, re.MULTILINE) == []
    assert text.count("<!-- generated:") == text.count("<!-- end -->")
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", without_code)
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short_where_people_write_them(path: Path) -> None:
    if path.name.startswith("benchmarks") or path.name == "wire.md":
        return  # written by programs
    text = re.sub(r"<!-- generated:.*?<!-- end -->", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 100 and line[0] != "|"] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    names = [name for name in pc.__all__ if name != "services"]
    names += [f"services.{name}" for name in pc.services.__all__]
    headings = set(re.findall(r"^#+ `?([\w.]+)`?$", text, re.MULTILINE))
    headings |= {name.split(".")[0] for name in headings}
    assert sorted({*names} - headings) == []


def test_every_page_can_be_found() -> None:
    lists = [ROOT / "docs/index.md", ROOT / "docs/contributing/index.md"]
    listed = {
        (page.parent / link).resolve()
        for page in lists
        for link in re.findall(r"^- \[.+?\]\((.+?\.md)\)", page.read_text(), re.MULTILINE)
    }
    docs = {path for path in PAGES if "docs" in path.relative_to(ROOT).parts}
    assert sorted(docs - listed) == [ROOT / "docs/index.md"]


def test_every_property_of_an_oci_config_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/oci-config.md").read_text()
    assert [path for path in oci_fields.FIELDS if f"| `{path}` |" not in page] == []


FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code of a page."""
    return [block for kind, block in FENCE.findall(path.read_text()) if kind == language]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_on_a_page_is_valid_and_names_what_there_is(path: Path) -> None:
    if path.parent.name != "reference":  # there, it is mostly signatures
        for block in blocks(path, "python"):
            compile(block.replace("…", "..."), str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for name in set(re.findall(r"\bpc((?:\.\w+)+)", path.read_text())):
        value: object = pc
        for word in name[1:].split("."):
            if word == "NAME":  # any of them
                break
            assert hasattr(value, word), f"pc{name}"
            value = getattr(value, word)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_ini_file_on_a_page_has_options_that_there_are(path: Path) -> None:
    ours = {setting.ini for setting in settings.ALL}
    for block in blocks(path, "ini"):
        parsed = configparser.ConfigParser()
        parsed.read_string(block)
        options = {option for section in parsed for option in parsed[section]}
        assert {option for option in options if option.startswith("containers")} <= ours
        lines = parsed.get("pytest", "containers_services", fallback="").strip().splitlines()
        for line in lines:
            session_line = session_lines.parse(line)
            classes = {name.lower(): getattr(pc.services, name) for name in pc.services.__all__}
            service_class = classes[session_line.kind]
            options_of_line = session_lines.options_of(session_line, service_class)
            check_names(service_class, options_of_line, tuple(session_lines.OWN_OPTIONS))
