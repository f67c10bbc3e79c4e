"""Write the report as one HTML file that loads nothing."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def render(document: Mapping[str, Any]) -> str:
    """Return the page.

    Names and output are hostile: they are in a block of JSON only, in which no character can end
    the block, and the script puts them into the page as text. The policy in the head permits this
    script and this style sheet and nothing else, neither inline handlers nor requests.
    """
    style, script = _file("page.css"), _file("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _file("page.html")
    for mark, content in (
        ("@policy@", policy),
        ("@style@", style),
        ("@script@", script),
        ("@data@", embedded(document)),
    ):
        before, _, after = page.partition(mark)
        page = f"{before}{content}{after}"
    return page


def embedded(document: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a script element: in ASCII, without signs of HTML."""
    text = json.dumps(document, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def write(path: str, document: Mapping[str, Any]) -> None:
    """Write the page to `path`, whole or not at all; directories are made.

    Raises:
        OSError: It cannot be written there.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    draft = os.path.join(folder, f".{os.path.basename(path)}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="ascii") as file:
            file.write(render(document))
        os.replace(draft, path)
    except OSError:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="ascii")


def _hash(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
