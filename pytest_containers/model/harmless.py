"""Output of containers as it may stand in a report, on a terminal and in the log of a CI job."""

from __future__ import annotations

import re

# Control characters move the cursor or rewrite lines; those for writing directions reorder them.
# Halves of characters, as of names that are not UTF-8, cannot be written to most streams.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_COMMANDS = (
    (r"(?m)^(\s*):(?=:)", r"\1: "),  # GitHub: ::error …::
    (r"#(?=#(?:vso|teamcity)?\[)", "# "),  # Azure, GitHub, TeamCity: ##vso[…]
    (r"section_(?=(?:start|end):)", "section_ "),  # GitLab: section_start:…
)


MOST_LINE_CHARACTERS = 1 << 16
"""The length at which a line of output is shown in parts."""


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
    output = re.sub(_CONTROL, _escaped, output)
    for command, replacement in _COMMANDS:
        output = re.sub(command, replacement, output)
    return output


def whole_lines(text: str, most: int = MOST_LINE_CHARACTERS) -> tuple[list[str], str]:
    """Take the whole lines off a text; return them without line ends, and the rest.

    A line without an end is cut, so that whoever waits for its end has a bound.
    """
    *lines, rest = text.split("\n")
    while len(rest) > most:
        lines.append(rest[:most])
        rest = rest[most:]
    return lines, rest


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
