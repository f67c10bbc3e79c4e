"""Output of containers as it may stand in a report, on a terminal and in the log of a CI job."""

from __future__ import annotations

import re

# Control characters move the cursor or rewrite lines; those for writing directions reorder them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_COMMANDS = (
    (re.compile(r"^(\s*):(?=:)", re.MULTILINE), r"\1: "),  # GitHub: ::error …::
    (re.compile(r"#(?=#(?:vso|teamcity)?\[)"), "# "),  # Azure, GitHub, TeamCity: ##vso[…]
    (re.compile(r"section_(?=(?:start|end):)"), "section_ "),  # GitLab: section_start:…
)


def quoted(value: object, most: int = 200) -> str:
    """Return a value as in Python, on one line, cut off where it is longer than a sentence."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def shown(name: str) -> str:
    """Return a name for a message: as it is, or quoted where it is long or not printable."""
    return name if name.isprintable() and len(name) < 300 else quoted(name)


def harmless(output: str) -> str:
    """Return output in which a terminal or a CI service finds no command.

    Control characters other than tabs and line ends are shown as in Python (``\\x1b``), and a space
    breaks what a CI service would take for a command: ``: :error``.
    """
    output = _CONTROL.sub(_escaped, output)
    for command, replacement in _COMMANDS:
        output = command.sub(replacement, output)
    return output


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
