"""Write `reference/wire.md` from the types of the wire: ``python docs/wire_page.py``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_containers.runtime.wire.message import Message, Operation, hints, name_of
from pytest_containers.runtime.wire.operations.job import Job

PAGE = Path(__file__).parent / "reference" / "wire.md"
_WIRE = "pytest_containers.runtime.wire"
_LINKS = (
    ("run", "Test process to launcher, once"),
    ("starts", "Test process to supervisor: starts"),
    ("containers", "Test process to supervisor: containers"),
    ("session", "Test process to supervisor: its session"),
    ("kept", "To the supervisor: containers that are kept"),
    ("host", "Supervisor to launcher"),
    ("inside", "Launcher to supervisor"),
    ("networks", "Network helper"),
)
_JOBS = ("runtime", "images", "builder")
_INTRO = """\
# Messages between the processes of a run

<!-- Made by `python docs/wire_page.py` from `pytest_containers/runtime/wire/operations/`. -->

A run consists of a launcher, a supervisor and a network helper; each test process is connected to
the supervisor. The connections are Unix stream sockets. A frame is a header of two little-endian
32-bit lengths, a JSON document of the first length, and raw bytes of the second. File descriptors
are sent with the first bytes of a frame, at most 250 at once.

A request is `{"op": name, "id": number, …}` with the fields of the operation. The answer is
`{"id": number, "ok": fields}`, or `{"id": number, "error": [kind, message, data, notes]}` with the
name of an error class. A field of type `Blob` is in the raw bytes, a field of type `Descriptor` is
a file descriptor, and all other fields are JSON. Fields with a default are optional. A field that
is unknown, missing or of another type is an error that names the operation and the field.

The types are classes in `pytest_containers/runtime/wire/operations/`. How to add one is in
`docs/contributing/`.
"""


def render() -> str:
    """The page."""
    lines = [_INTRO]
    for name, title in _LINKS:
        module = importlib.import_module(f"{_WIRE}.operations.{name}")
        lines.append(f"## {title}\n\n{_sentence(module.__doc__)}\n")
        kinds = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Message)
            and value.__module__ == module.__name__
        ]
        for kind in kinds:
            lines += _section(kind)
    lines += _jobs()
    return "\n".join(lines).rstrip() + "\n"


def _section(kind: type[Message]) -> Iterator[str]:
    yield f"### `{kind.__name__}`\n"
    text, notes = _described(kind)
    yield f"{text}\n"
    if issubclass(kind, Operation):
        yield f"{_answer(kind)}\n"
    fields = hints(kind)
    if fields:
        yield "| field | type | |\n|---|---|---|"
        for name, hint in fields.items():
            shown = name_of(hint).replace("|", "\\|")
            if hasattr(kind, name):
                shown += f" = {getattr(kind, name)!r}"
            yield f"| `{name}` | `{shown}` | {notes.get(name, '')} |"
        yield ""


def _answer(kind: type[Operation[Any]]) -> str:
    answer = "nothing" if kind.answer is type(None) else f"`{kind.answer.__name__}`"
    if kind.last is not None:
        answer += f", then `{kind.last.__name__}`"
    errors = ", ".join(f"`{name}`" for name in kind.raises)
    return f"Answer: {answer}." + (f" Errors: {errors}." if errors else "")


def _described(kind: type) -> tuple[str, dict[str, str]]:
    """The docstring of a class: its text, and its attributes by name."""
    text, _, attributes = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    notes: dict[str, str] = {}
    for names, note in re.findall(r"^    ([\w, ]+): ((?:.|\n      )+)$", attributes, re.MULTILINE):
        for name in names.split(", "):
            notes[name] = _markdown(" ".join(note.split()))
    return _markdown(text.strip()), notes


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _sentence(text: str | None) -> str:
    return (text or "").strip().partition("\n\n")[0]


def _jobs() -> Iterator[str]:
    yield (
        "## Jobs\n\nFunctions that run as root of the run's user namespace, in the host's mount "
        "namespace. Each is a\nfork of the launcher.\n"
    )
    yield "| job | function | argument |\n|---|---|---|"
    for room in _JOBS:
        module = importlib.import_module(f"pytest_containers.{room}.jobs")
        for name, job in vars(module).items():
            if isinstance(job, Job):
                fields = hints(job.args) if issubclass(job.args, Message) else {}
                shown = ", ".join(f"{field}: {name_of(hint)}" for field, hint in fields.items())
                function = job.function.removeprefix("pytest_containers.")
                yield f"| `{name}` | `{function}` | {shown} |"


if __name__ == "__main__":
    PAGE.write_text(render())
