"""Write the generated parts of the documentation: ``python docs/generate.py``.

A generated part stands between two comments, so that a page reads as plain Markdown wherever it is
looked at, and the comments do not show::

    <!-- generated: settings -->
    …
    <!-- end -->

``--check`` writes nothing and fails if a page is stale. So it is with the generated modules,
`runtime.seccomp.builtin` and `runtime.network.encoded`. The kinds:

- ``settings``, ``errors``, ``commands``, ``fixtures``, ``capabilities``: from `model.settings`,
  `model.errors`, `cli`, `plugin.hooks` and `model.capabilities`;
- ``api NAME …``: signatures and docstrings of public names (``Engine``, ``services.Redis``);
- ``methods NAME …``: the same with a class's public methods and properties;
- ``services NAME …``: classes of `services`, with the methods and properties that few have;
- ``example PATH [NAME …]``: a file of ``examples/``, or functions and assignments of it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import itertools
import re
import socket
import struct
import sys
import textwrap
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest_containers as pc
from pytest_containers.engines import choose
from pytest_containers.model import capabilities, settings
from pytest_containers.model.errors import ContainersError
from pytest_containers.runtime.network.addresses import RunAddresses
from pytest_containers.runtime.network.codecs import Codecs, load
from pytest_containers.runtime.network.hostlink import RUN_END
from pytest_containers.runtime.network.messages import (
    AF_INET,
    AF_INET6,
    Encoder,
    encode,
    map_values,
    shape_of,
)
from pytest_containers.runtime.network.templates import ALLOW_LINKED, Templates
from pytest_containers.runtime.plan import oci_fields
from pytest_containers.runtime.plan.oci import DEFAULT_CAPABILITIES
from pytest_containers.runtime.seccomp.compiler import compile_filter
from pytest_containers.runtime.seccomp.default import default_policy

ROOT = Path(__file__).resolve().parent.parent
_PART = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples):$")
_ENTRY = re.compile(r"([*\w][\w*, ./\[\]|\"=-]*?): (.*)")


def pages() -> list[Path]:
    """The Markdown files of the project."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def render(page: str) -> str:
    """Return a page with its generated parts written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{_generate(part[2]).strip()}\n\n{part[4]}", page)


def _generate(words: str) -> str:
    kind, *arguments = words.split()
    kinds: dict[str, Callable[..., str]] = {
        "settings": _settings, "errors": _errors, "commands": _commands, "api": _api,
        "methods": _methods, "example": _example, "fixtures": _fixtures, "oci": _oci,
        "services": _services, "capabilities": _capabilities,
    }  # fmt: skip
    return kinds[kind](*arguments)


# Tables


def _settings() -> str:
    lines = []
    for setting in settings.ALL:
        lines += [f"## {setting.name.replace('_', ' ').capitalize()}", ""]
        lines += [f"{_sentence(setting.help)} {setting.details}".strip(), ""]
        lines += ["| | |", "|---|---|"]
        if not setting.ini_only:
            value = f" {setting.metavar}" if setting.metavar else ""
            commas = ", separated by commas" if setting.several else ""
            lines.append(f"| Command line | `{_cell(setting.option + value)}` |")
            lines.append(f"| Environment | `{setting.variable}`{commas} |")
        ini = ", one a line" if setting.several else ""
        lines.append(f"| Ini file | `{setting.ini}`{ini} |")
        flag = "" if setting.metavar else "no"
        lines.append(f"| Default | {_cell(setting.default_text) or flag or 'none'} |")
        lines.append("")
    return "\n".join(lines)


def _capabilities() -> str:
    lines = [f"| capability | {' | '.join(choose.NAMES)} |", f"|---|{'---|' * len(choose.NAMES)}"]
    for name, engines in capabilities.ENGINES.items():
        marks = " | ".join("yes" if engine in engines else "no" for engine in choose.NAMES)
        lines.append(f"| `{name}`: {capabilities.MEANINGS[name]} | {marks} |")
    return "\n".join(lines)


def _errors() -> str:
    kinds: list[type[ContainersError]] = [
        value
        for name in pc.__all__
        if isinstance(value := getattr(pc, name), type) and issubclass(value, ContainersError)
    ]
    lines = ["| class | when | built-in base |", "|---|---|---|"]
    for kind in kinds:
        first = _cell(_one_line(inspect.getdoc(kind) or ""))
        lines.append(f"| [`{kind.__name__}`](#{kind.__name__.lower()}) | {first} | {_base(kind)} |")
    for kind in kinds:
        lines += ["", f"## {kind.__name__}", ""]
        own = [base.__name__ for base in kind.__bases__ if issubclass(base, ContainersError)]
        lines += [f"A `{own[0]}`." if own else "The base of all.", ""]
        lines += [_docstring(kind), ""]
        lines += _fields(kind)
    return "\n".join(lines)


def _fields(kind: type[ContainersError]) -> Iterator[str]:
    inherited = [base for base in kind.__mro__[1:] if issubclass(base, ContainersError)]
    for base in inherited:
        names = ", ".join(f"`{name}`" for name in base.__annotations__)
        if names:
            yield f"From [`{base.__name__}`](#{base.__name__.lower()}): {names}."


def _base(kind: type) -> str:
    names = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
    shown = names[0] if names and names[0] != "Exception" else ""
    return f"`{shown}`" if shown else ""


def _oci() -> str:
    lines = ["| property | here |", "|---|---|"]
    for path, field in oci_fields.FIELDS.items():
        effect = f"refused unless empty: {field.refusal}" if field.refusal else field.effect
        lines.append(f"| `{path}` | {_cell(effect)} |")
    return "\n".join(lines)


def _commands() -> str:
    from pytest_containers.cli.completion import subcommands
    from pytest_containers.cli.main import parser

    lines = []
    for names, command, summary in subcommands(parser()):
        lines += [f"## {' '.join(names)}", ""]
        lines += [command.description or _sentence(summary), ""]
        lines += ["```console", f"$ {_usage(names, command)}", "```", ""]
        rows = [action for action in command._actions if action.dest != "help"]
        if rows and not isinstance(rows[-1], argparse._SubParsersAction):
            lines += ["| option | what it does |", "|---|---|"]
            lines += [
                f"| `{_cell(_spelled(action))}` | {_cell(_help(action))} |" for action in rows
            ]
            lines.append("")
    return "\n".join(lines)


def _usage(names: Sequence[str], command: argparse.ArgumentParser) -> str:
    words = ["pytest-containers", *names]
    if any(action.option_strings and action.dest != "help" for action in command._actions):
        words.append("[OPTIONS]")
    for action in command._actions:
        if not action.option_strings:
            words.append(_spelled(action))
    return " ".join(words)


def _spelled(action: argparse.Action) -> str:
    """An option or argument as a user writes it; argparse's own form differs between Pythons."""
    value = action.metavar or ("|".join(action.choices) if action.choices else None)
    value = str(value or action.dest.upper())
    if action.option_strings:
        shown = ", ".join(action.option_strings)
        return shown if action.nargs == 0 else f"{shown} {value}"
    shape = {"?": "[{}]", "*": "[{}...]", "+": "{}...", argparse.REMAINDER: "[{}...]"}
    return shape.get(str(action.nargs), "{}").format(value.upper())


def _help(action: argparse.Action) -> str:
    return action.help or ""


def _fixtures() -> str:
    source = (ROOT / "pytest_containers/plugin/hooks.py").read_text()
    lines = []
    for node in ast.parse(source).body:
        decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", ())]
        if isinstance(node, ast.FunctionDef) and any("pytest.fixture" in one for one in decorators):
            text = " ".join((ast.get_docstring(node) or "").split()).replace("``", "`")
            lines.append(f"- `{node.name}`: {text}")
    return "\n".join(lines)


# Docstrings


def _api(*names: str) -> str:
    return "\n".join(_object(name) for name in names)


def _methods(*names: str) -> str:
    return "\n".join(f"{_object(name)}\n{_members(name)}" for name in names)


def _services(*names: str) -> str:
    parts = []
    for name in names:
        parts.append(_object(f"services.{name}"))
        common = {*dir(pc.services.SqlService), *dir(pc.services.PythonService)}
        parts.append(_members(f"services.{name}", common))
    return "\n".join(parts)


def _object(name: str) -> str:
    value = _find(name)
    if inspect.ismodule(value):
        return f"{_docstring(value)}\n"
    return "\n".join([f"### `{_short(name)}`", "", *_signature(_short(name), value),
                      _docstring(value), ""])  # fmt: skip


def _members(name: str, without: Collection[str] = ()) -> str:
    value = _find(name)
    lines = []
    for member, attribute in _public(value):
        if member in without:
            continue
        level = "###" if inspect.ismodule(value) else "####"
        lines += [f"{level} `{_short(name)}.{member}`", ""]
        if not isinstance(attribute, property):
            lines += _signature(member, attribute)
        lines += [_docstring(attribute), ""]
    return "\n".join(lines)


def _public(value: Any) -> Iterator[tuple[str, Any]]:
    """The documented members of a module or class, in the order in which they are defined."""
    if inspect.ismodule(value):
        exported = getattr(value, "__all__", ())
        for name, member in vars(value).items():
            own = getattr(member, "__module__", "") == value.__name__
            if (own or name in exported) and _is_shown(name, member):
                yield name, member
        return
    found: dict[str, Any] = {}
    for base in reversed(value.__mro__):
        if base.__module__.startswith("pytest_containers"):
            found |= vars(base)
    for name, member in found.items():
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if _is_shown(name, member):
            yield name, member


def _is_shown(name: str, member: Any) -> bool:
    kinds = (property, type) if inspect.isclass(member) else (property,)
    shown = inspect.isfunction(member) or isinstance(member, kinds)
    return shown and not name.startswith("_") and bool(inspect.getdoc(member))


def _find(name: str) -> Any:
    """A public name of `pytest_containers`, or one of its modules: ``plugin.newhooks``."""
    value: Any = pc
    for word in name.split("."):
        if hasattr(value, word):
            value = getattr(value, word)
        else:
            value = importlib.import_module(f"{value.__name__}.{word}")
    return value


def _short(name: str) -> str:
    first, *rest = name.split(".")
    return name if first in ("wait", "services") else (rest[-1] if rest else name)


def _signature(name: str, value: Any) -> list[str]:
    if not callable(value) or getattr(value, "_is_protocol", False):  # protocols are not called
        return []
    try:
        signature = inspect.signature(value)
    except ValueError:
        return []
    shown = [one for key, one in signature.parameters.items() if key not in ("self", "cls")]
    kinds = [one.kind for one in shown]
    parameters = [_parameter(one) for one in shown]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returns = signature.return_annotation
    arrow = "" if inspect.isclass(value) or returns is inspect.Signature.empty else f" -> {returns}"
    line = f"{name}({', '.join(parameters)}){arrow}"
    if len(line) > 88:
        inner = "".join(f"    {one},\n" for one in parameters)
        line = f"{name}(\n{inner}){arrow}"
    return ["```python", line, "```", ""]


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    text = f"{stars.get(parameter.kind, '')}{parameter.name}"
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {parameter.annotation}"
    if parameter.default is not inspect.Parameter.empty:
        default = repr(parameter.default).replace("'", '"').replace("<factory>", "{}")
        text += f" = {default}"
    return text


def _docstring(value: Any) -> str:
    """A Google-style docstring as Markdown."""
    blocks: list[str] = []
    section = ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if _SECTION.fullmatch(line):
            section = line
            blocks += ["", f"**{line.removesuffix(':')}**", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            entry = _ENTRY.fullmatch(line.strip())
            blocks.append(f"- `{entry[1]}`: {entry[2]}" if entry else line.strip())
        elif section and line.startswith("     "):
            blocks[-1] = f"{blocks[-1]} {line.strip()}"
        else:
            section = section if not line else ""
            blocks.append(line)
    text = re.sub(r"``(.+?)``", r"`\1`", "\n".join(blocks))
    text = re.sub(r"^(.*[^:]):: *$", r"\1:", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


# Examples


def _example(path: str, *names: str) -> str:
    source = (ROOT / "examples" / path).read_text()
    if names:
        lines = source.splitlines()
        chosen = [node for node in ast.parse(source).body if _names(node) & {*names}]
        missing = {*names} - {name for node in chosen for name in _names(node)}
        if missing:
            raise LookupError(f"examples/{path} has no {', '.join(sorted(missing))}")
        source = "\n\n".join(
            "\n".join(lines[_first(node) - 1 : node.end_lineno]) for node in chosen
        )
        source = re.sub(r"\n\n(def|class|@)", r"\n\n\n\1", source)
    return f"```python\n{source.strip()}\n```"


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name for alias in node.names}
    return {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()


def _first(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


# Words


def _one_line(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


# The module


BUILTIN = ROOT / "pytest_containers/runtime/seccomp/builtin.py"
_BUILTIN = '''"""The default policy for Docker's capabilities, compiled.

``python docs/generate.py`` writes this, so that no container waits for the compiler.
"""

from __future__ import annotations

from binascii import a2b_base64

from pytest_containers.linux.seccomp import Filter

BUILTIN = {
%s}
'''


def builtin_module() -> str:
    """Return the source of the module with the compiled filters."""
    entries = ""
    for machine in ("x86_64", "aarch64"):
        policy = default_policy(DEFAULT_CAPABILITIES, machine)
        code = textwrap.wrap(b64encode(compile_filter(policy, machine)).decode(), 84)
        lines = "\n".join(f'            "{line}"' for line in code)
        entries += (
            f'    "{machine}": Filter(\n        a2b_base64(\n{lines}\n        ),\n'
            f"        {policy.flags},\n    ),\n"
        )
    return _BUILTIN % entries


FORMS = ROOT / "pytest_containers/runtime/network/encoded.py"
_FORMS = '''"""Messages of the network helper, encoded by pyroute2.

``python docs/generate.py`` writes this, so that no run waits for pyroute2.
"""

from __future__ import annotations

Form = tuple[bytes, tuple[tuple[int, tuple[int, ...]], ...]]
"""A message, and for each value that is another each time its size and its places."""

# fmt: off
FORMS: dict[str, Form] = {
%s}
# fmt: on
"""By what messages of one form have in common (`messages.shape_of`)."""
'''


class _Recorder(Encoder):
    """Encodes with pyroute2, and keeps what it was asked for by the shape."""

    def __init__(self, codecs: Codecs) -> None:
        super().__init__(lambda: codecs, {})
        self.asked: dict[str, tuple[Any, ...]] = {}

    def _encode(self, *message: Any) -> bytes:
        self.asked[shape_of(*message)[0]] = message
        return super()._encode(*message)


def forms_module() -> str:
    """Return the source of the module with the encoded messages."""
    codecs = load(sys.path)
    recorder = _Recorder(codecs)
    addresses = RunAddresses(100, bytes(5))
    Templates(recorder, addresses)
    _ask_for_the_rest(recorder, addresses.ip4(1), addresses.prefix6.partition("/")[0])
    entries = ""
    for shape, message in recorder.asked.items():
        encoded, places = _form(codecs, message)
        entries += f'    "{shape}":\n        (bytes.fromhex("{encoded.hex()}"), {places!r}),\n'
    return _FORMS % entries


def _ask_for_the_rest(encoder: Encoder, ip: str, ip6: str) -> None:
    """Ask for the messages that are sent once in a run."""
    for family, address, length in ((AF_INET, ip, 16), (AF_INET6, ip6, 48)):
        encoder.rule(family, ALLOW_LINKED - 100, allow=True, iif="lo")
        encoder.rule(family, ALLOW_LINKED + 200, allow=False, destination=(address, length))
    encoder.address(ip, 32, 1)
    encoder.address(ip, 32, 1, delete=True)
    encoder.delete_link(1)
    encoder.veth("pc01234567", 0, (RUN_END, 0), 1)
    encoder.silence_ipv6(1)
    encoder.route(ip, 16, 1, gateway=ip, onlink=True, source=ip)
    encoder.rule(AF_INET, ALLOW_LINKED - 100, allow=True, iif=RUN_END)
    answers: dict[str, Any] = {"allow": True, "destination": (ip, 32)}
    for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        encoder.rule(
            AF_INET, ALLOW_LINKED + 100, ip_protocol=protocol, destination_ports=(1, 2), **answers
        )
    encoder.rule(AF_INET, ALLOW_LINKED + 100, ip_protocol=socket.IPPROTO_ICMP, **answers)


def _form(codecs: Codecs, message: tuple[Any, ...]) -> tuple[bytes, tuple[Any, ...]]:
    """Encode a message, and find the places of its values by changing one after the other."""
    sizes: list[int] = []

    def size_of(leaf: str, value: Any) -> Any:
        fixed = {"number": 4, "length": 1, "ip4": 4, "ip6": 16, "mac": 6, "ports": 4}
        sizes.append(fixed.get(leaf) or len(value))
        return value

    map_values(message[3], message[4], size_of)
    plain = _varied(codecs, message, sizes)
    places = []
    for number, size in enumerate(sizes):
        changed = _varied(codecs, message, sizes, number)
        offsets = [at for at, (a, b) in enumerate(zip(plain, changed, strict=True)) if a != b]
        starts = offsets[::size]
        assert offsets == [start + step for start in starts for step in range(size)], message
        places.append((size, tuple(starts)))
    return plain, tuple(places)


def _varied(
    codecs: Codecs, message: tuple[Any, ...], sizes: Sequence[int], changed: int = -1
) -> bytes:
    """Encode a message with bytes of 1 in the places of its values, and of 2 in that of one."""
    numbers = itertools.count()

    def value_of(leaf: str, _: object) -> object:
        number = next(numbers)
        data = bytes([2 if number == changed else 1]) * sizes[number]
        if leaf in ("number", "length"):
            return int.from_bytes(data, "little")
        if leaf in ("ip4", "ip6"):
            return socket.inet_ntop(AF_INET if leaf == "ip4" else AF_INET6, data)
        if leaf == "mac":
            return data.hex(":")
        if leaf == "ports":
            return ":".join(str(port) for port in struct.unpack("=HH", data))
        return data.decode()

    codec, kind, flags, fields, attributes = message
    return encode(codecs, codec, kind, flags, *map_values(fields, attributes, value_of))


def stale(paths: Iterable[Path]) -> list[Path]:
    """The files whose generated parts are not what they should be."""
    return [path for path in paths if renewed(path) != path.read_text()]


def renewed(path: Path) -> str:
    """Return a file with its generated parts written anew."""
    if path == BUILTIN:
        return builtin_module()
    return forms_module() if path == FORMS else render(path.read_text())


def main(arguments: Sequence[str]) -> int:
    """Write all pages, or check them."""
    paths = stale([*pages(), BUILTIN, FORMS])
    for path in paths:
        print(path.relative_to(ROOT))
        if "--check" not in arguments:
            path.write_text(renewed(path))
    return 1 if paths and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
