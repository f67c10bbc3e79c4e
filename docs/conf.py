"""Sphinx: the pages are plain Markdown, and the index's lists of links become the navigation."""

from __future__ import annotations

import re
from typing import Any

project = "pytest-containers"
author = "The pytest-containers developers"
extensions = ["myst_parser"]
html_theme = "furo"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
suppress_warnings = ["myst.xref_missing"]  # links to sources; a test looks whether they exist

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"^- \[.+?\]\(([\w/-]+)\.md\)", re.MULTILINE)


def _add_navigation(app: Any, name: str, source: list[str]) -> None:
    """Append a table of contents to the pages that list others, which a code host cannot show."""
    folder = "" if name == "index" else f"{name.rpartition('/')[0]}/"
    if name not in ("index", "contributing/index"):
        return
    for title, text in _SECTION.findall(source[0]):
        links = "\n".join(f"/{folder}{link}" for link in _LINK.findall(text))
        if links:
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n{links}\n```\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_navigation)
