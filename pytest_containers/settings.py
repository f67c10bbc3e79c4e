"""Settings: what the command line, the environment, a factory argument and the ini file say.

The first of them that says something counts, in this order. The names follow from each other:
``--containers-log-lines``, ``PYTEST_CONTAINERS_LOG_LINES``, ``containers_log_lines``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_containers.errors import SettingsError


class Setting(NamedTuple):
    """One setting.

    Attributes:
        name: As in Python: ``log_lines``.
        parse: Text to value; raises ValueError with what was expected.
        default: Without a word from anybody.
        help: One line.
        metavar: For the command line; empty for one that is given or not.
        several: Whether it may be given several times; the value is a tuple then.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    metavar: str
    several: bool = False

    @property
    def option(self) -> str:
        """On the command line."""
        return f"--containers-{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return f"PYTEST_CONTAINERS_{self.name.upper()}"

    @property
    def ini(self) -> str:
        """In the ini file."""
        return f"containers_{self.name}"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError("a number of seconds above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _image_override(text: str) -> tuple[str, str]:
    name, separator, reference = text.partition("=")
    if not (name and separator and reference):
        raise ValueError("NAME=REFERENCE, the name of a fixture and an image")
    return name, reference


def _mirror(text: str) -> tuple[str, str]:
    registry, separator, mirror = text.partition("=")
    if not (registry and separator and mirror):
        raise ValueError("REGISTRY=MIRROR, as in docker.io=mirror.example:5000/hub")
    return registry, mirror


def _host(text: str) -> str:
    if not text or "/" in text:
        raise ValueError("a host with its port if any, as in registry.test:5000")
    return text


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True,
             "0": False, "false": False, "no": False, "off": False}  # fmt: skip
    if text.lower() not in known:
        raise ValueError("yes or no")
    return known[text.lower()]


def _lookahead(text: str) -> str:
    if text not in ("on", "off") and not text.isdecimal():
        raise ValueError("on, off, or a number of containers")
    return text


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return text

    return parse


def _path(text: str) -> str:
    if not text:
        raise ValueError("a directory")
    return os.path.abspath(os.path.expanduser(text))


HOME = Setting("home", _path, None, "directory of the image store", "DIR")
IMAGE = Setting(
    "image", _image_override, (), "use another image for one fixture, for matrices",
    "FIXTURE=IMAGE", several=True,
)  # fmt: skip
READY_TIMEOUT = Setting(
    "ready_timeout", _seconds, 60.0, "how long a container may take to become ready", "SECONDS"
)
LOG_LINES = Setting(
    "log_lines", _count, 30, "lines of a container's output in the report of a failure", "N"
)
IDENTITY = Setting(
    "identity", _one_of("auto", "root", "range", "single"), "auto",
    "who container users are on the host; less than possible, to try it", "MODE",
)  # fmt: skip
RUNNER = Setting(
    "runner", _one_of("auto", "stub", "python"), "auto",
    "what makes the system calls of a start", "RUNNER",
)  # fmt: skip
PULL = Setting(
    "pull", _one_of("missing", "always", "never"), "missing",
    "when a registry is asked for an image", "POLICY",
)  # fmt: skip
REGISTRY_MIRROR = Setting(
    "registry_mirror", _mirror, (), "ask a mirror first for a registry's images",
    "REGISTRY=MIRROR", several=True,
)  # fmt: skip
INSECURE_REGISTRY = Setting(
    "insecure_registry", _host, (),
    "a registry that may be asked in plain http or with any certificate", "HOST[:PORT]",
    several=True,
)  # fmt: skip
HUB_PREFIX = Setting(
    "hub_prefix", str, "", "goes before names of Docker Hub: mirror.example/hub/", "PREFIX"
)
FRESH = Setting(
    "fresh", _flag, False, "make the states of seeds anew, whatever is there", ""
)  # fmt: skip
LOOKAHEAD = Setting(
    "lookahead", _lookahead, "on",
    "containers started for the next test while one runs: on, off, or how many", "ON",
)  # fmt: skip
ALL = (
    HOME, IMAGE, READY_TIMEOUT, LOG_LINES, IDENTITY, RUNNER, PULL, REGISTRY_MIRROR,
    INSECURE_REGISTRY, HUB_PREFIX, FRESH, LOOKAHEAD,
)  # fmt: skip

_UNSET = object()


class Settings:
    """All settings of a test run.

    Args:
        command_line: Values (texts, lists of texts) by name; None or absent is "not given".
        ini: The same of the ini file; an empty value is "not given".
        environ: The environment.

    Raises:
        SettingsError: A value is not usable; with its source and what was expected.
    """

    def __init__(
        self,
        command_line: Mapping[str, Any],
        ini: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._strong: dict[str, Any] = {}
        self._weak: dict[str, Any] = {}
        for setting in ALL:
            given = command_line.get(setting.name)
            if given not in (None, []):
                self._strong[setting.name] = _parse(setting, given, setting.option)
            elif environ.get(setting.variable):
                text = environ[setting.variable]
                given = text.split(",") if setting.several else text
                self._strong[setting.name] = _parse(setting, given, setting.variable)
            if ini.get(setting.name) not in (None, "", []):
                self._weak[setting.name] = _parse(setting, ini[setting.name], setting.ini)

    def get(self, setting: Setting, argument: Any = None) -> Any:
        """The value that counts.

        Args:
            argument: What a factory was called with; None is "not given".
        """
        for found in (
            self._strong.get(setting.name, _UNSET),
            _UNSET if argument is None else argument,
            self._weak.get(setting.name, _UNSET),
        ):
            if found is not _UNSET:
                return found
        return setting.default

    def image_for(self, fixture: str) -> str | None:
        """The image that replaces the one of fixture `fixture`, if any."""
        overrides: dict[str, str] = dict(self._weak.get("image", ()))
        overrides.update(self._strong.get("image", ()))
        return overrides.get(fixture)


def _parse(setting: Setting, given: Any, source: str) -> Any:
    if setting.several:
        return tuple(_parse_one(setting, text, source) for text in given)
    return _parse_one(setting, given, source)


def _parse_one(setting: Setting, text: Any, source: str) -> Any:
    try:
        return setting.parse(str(text).strip())
    except ValueError as error:
        raise SettingsError(
            f"{source}: {text!r} is not usable; it must be {error}", source=source, value=str(text)
        ) from None
