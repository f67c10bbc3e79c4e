"""The table of settings, and their values from the command line, environment and ini file.

The first source that has a value for a setting wins, in this order: command line, environment,
factory argument, ini file. The three names of a setting follow a pattern:
``--containers-log-lines``, ``PYTEST_CONTAINERS_LOG_LINES``, ``containers_log_lines``.

The plugin registers its options from the table whenever pytest starts, so this module imports
next to nothing. ``docs/reference/settings.md`` is generated from the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from pytest_containers.model import setting_values as values


def _hide_frames(excinfo: Any) -> bool:
    from pytest_containers.model.errors import hide_frames

    return hide_frames(excinfo)


__tracebackhide__ = _hide_frames


class Setting:
    """A row of the table.

    A plain class: a named tuple takes five times as long to create, and every pytest run would
    wait for it.

    Attributes:
        name: The name as in Python: ``log_lines``.
        parse: Converts a string to the value; its ValueError names the expected format.
        default: The value if no source has one.
        help: One line for ``--help``, without the default.
        metavar: The name of the value in ``--help``; empty for a flag.
        several: True if the setting may be repeated; its value is a tuple.
        shown_default: The default in words, if its value is not clear by itself.
        details: More sentences for the reference, in Markdown.
        ini_only: True if only the ini file may have the setting.
    """

    __slots__ = (
        "default",
        "details",
        "help",
        "ini_only",
        "metavar",
        "name",
        "parse",
        "several",
        "shown_default",
    )

    def __init__(
        self,
        name: str,
        parse: Callable[[str], Any],
        default: Any,
        help: str,
        metavar: str,
        *,
        several: bool = False,
        shown_default: str = "",
        details: str = "",
        ini_only: bool = False,
    ) -> None:
        self.name: str = name
        self.parse: Callable[[str], Any] = parse
        self.default: Any = default
        self.help: str = help
        self.metavar: str = metavar
        self.several: bool = several
        self.shown_default: str = shown_default
        self.details: str = details
        self.ini_only: bool = ini_only

    @property
    def option(self) -> str:
        """The command-line option of pytest."""
        return f"--containers-{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"PYTEST_CONTAINERS_{self.name.upper()}"

    @property
    def ini(self) -> str:
        """The key in the ini file."""
        return f"containers_{self.name}"

    @property
    def default_text(self) -> str:
        """The default as ``--help`` shows it; empty without a default."""
        if self.shown_default or self.default in (None, (), "", False):
            return self.shown_default
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def help_text(self) -> str:
        """`help`, with the default appended."""
        return f"{self.help} (default: {self.default_text})" if self.default_text else self.help

    @property
    def argument(self) -> dict[str, Any]:
        """The keyword arguments of ``add_argument``.

        The default is always None: a real one would hide the environment and the ini file.
        """
        if not self.metavar:
            return {"action": "store_const", "const": "yes", "help": self.help_text}
        action = "append" if self.several else "store"
        return {"action": action, "metavar": self.metavar, "help": self.help_text}


HOME = Setting(
    "home",
    values.directory,
    None,
    "directory of the image store",
    "DIR",
    shown_default="pytest-containers in $XDG_CACHE_HOME or ~/.cache",
    details="It is created with mode 0700, and refused if it belongs to another user.",
)
ENGINE = Setting(
    "engine",
    values.one_of("native", "docker", "process", "auto"),
    "native",
    "engine of the containers: native, docker, process or auto",
    "native|docker|process|auto",
    details="`docker` uses the daemon that `DOCKER_HOST` or the context of Docker names, and needs "
    "`pytest-containers[docker]`. `process` runs confined processes where namespaces are denied. "
    "`auto` takes the first that works: `native`, `docker`, `process`. See "
    "[the docker engine](../how-to/docker.md) and "
    "[the process engine](../explanation/process-engine.md).",
)
REQUIRED = Setting(
    "required",
    values.flag,
    True,
    "fail tests with containers where no engine works, instead of skipping them",
    "yes|no",
    shown_default="yes",
    details="It is about `containers_engine = auto`.",
)
IMAGE = Setting(
    "image",
    values.image_override,
    (),
    "run one fixture with another image",
    "FIXTURE=IMAGE",
    several=True,
    details="For matrices: `--containers-image db=postgres:14`.",
)
READY_TIMEOUT = Setting(
    "ready_timeout",
    values.seconds,
    60.0,
    "time limit for a container to become ready",
    "SECONDS",
    details="The factory argument is `ready_timeout_s`.",
)
LOG_LINES = Setting(
    "log_lines", values.count, 30, "lines of each container's output to show for a failed test", "N"
)
LOGS = Setting(
    "logs",
    values.one_of("failed", "live"),
    "failed",
    "whose output to show: that of failed tests, or all of it live",
    "failed|live",
    details="`live` shows each line of each container as it comes, after the name of the "
    "container, and also the output for failed tests. See "
    "[debug a failing test](../how-to/debugging.md).",
)
KEEP = Setting(
    "keep",
    values.one_of("off", "failed", "all"),
    "off",
    "which containers to keep after the test run: off, failed or all",
    "off|failed|all",
    details="`failed` keeps those of failed tests, also containers that did not become ready, with "
    "their networks. `pytest-containers ps` lists them. See "
    "[debug a failing test](../how-to/debugging.md).",
)
KEEP_LIMIT = Setting(
    "keep_limit",
    values.positive,
    10,
    "largest number of kept containers of the user; the oldest goes first",
    "N",
)
KEEP_TIME = Setting(
    "keep_time",
    values.duration,
    3600.0,
    "how long kept containers stay after the end of the test run",
    "TIME",
    shown_default="1h",
    details="A number with a unit: `90s`, `30m`, `2h`, `1d`.",
)
PULL = Setting(
    "pull",
    values.one_of("missing", "always", "never"),
    "missing",
    "when to ask registries for images: missing, always or never",
    "POLICY",
    details="`always` fetches an image if it is not stored or its name has moved to a newer one. "
    "With `never`, an image that is not in the store is an error.",
)
REGISTRY_MIRROR = Setting(
    "registry_mirror",
    values.mirror,
    (),
    "ask a mirror first for a registry's images",
    "REGISTRY=MIRROR",
    several=True,
    details="Example: `docker.io=mirror.example:5000/hub`. Several mirrors of one registry are "
    "asked in the given order, and then the registry itself.",
)
INSECURE_REGISTRY = Setting(
    "insecure_registry",
    values.host,
    (),
    "allow plain HTTP and any certificate for a registry",
    "HOST[:PORT]",
    several=True,
    details="A registry on the loopback device is always allowed to speak plain HTTP.",
)
HUB_PREFIX = Setting(
    "hub_prefix",
    str,
    "",
    "put a prefix before image names of Docker Hub",
    "PREFIX",
    details="Example: `mirror.example/hub/`. The default is the variable of testcontainers, "
    "`TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX`.",
)
SECURITY_OPT = Setting(
    "security_opt",
    values.security_option,
    (),
    "filter of the system calls of containers: seccomp=unconfined or seccomp=FILE",
    "OPTION",
    several=True,
    shown_default="Docker's default policy",
    details="For the containers of fixtures and tests, not for the steps of builds. The path of a "
    "file is relative to the current directory, in the ini file to the root directory of pytest. "
    "The factory argument is `security_opt`; see [isolation](../explanation/isolation.md).",
)
FRESH = Setting(
    "fresh",
    values.flag,
    False,
    "run all seeds again instead of using stored states",
    "",
    details="See [seeds](../how-to/databases.md).",
)
STATES = Setting(
    "states",
    values.shared_place,
    None,
    "share seeded states with other machines through this repository of a registry",
    "REPOSITORY",
    details="With options: see [fleets](../how-to/fleets.md).",
)
STATES_KEY = Setting(
    "states_key",
    values.file,
    None,
    "file with a secret that signs shared states and steps of builds",
    "FILE",
    details="Others are not used. See [fleets](../how-to/fleets.md).",
)
BUILD_CACHE = Setting(
    "build_cache", values.shared_place, None, "share steps of builds like states", "REPOSITORY"
)
LOOKAHEAD = Setting(
    "lookahead",
    values.lookahead,
    "on",
    "number of containers to start early for the next test: on, off or a number",
    "on|off|N",
    shown_default="on, which is the number of processors",
    details="The number of processors is divided among the workers of pytest-xdist.",
)
EGRESS = Setting(
    "egress",
    values.flag,
    False,
    "let containers reach other machines",
    "",
    details="The default for containers without `egress=`, in scopes that do not set it either. "
    "See [networks](../how-to/networks.md).",
)
MAX_CONTAINERS = Setting(
    "max_containers",
    values.positive,
    None,
    "largest number of containers of a test run at a time",
    "N",
    details="One more is an error. The workers of pytest-xdist share the number.",
)
MAX_MEMORY = Setting(
    "max_memory",
    values.size,
    None,
    "memory limit of all containers of a test run together",
    "SIZE",
    details="It covers their processes and their files in memory. It needs a cgroup: see "
    "[limits](../how-to/limits.md).",
)
IDENTITY = Setting(
    "identity",
    values.one_of("auto", "root", "range", "single"),
    "auto",
    "how users of containers map to ids of the host: auto, root, range or single",
    "MODE",
    details="`auto` chooses the most capable mode that is available. `single` has one id, the "
    "caller's, for all users of a container; `range` has the subordinate ids of the caller as "
    "well; and `root` needs pytest to run as root.",
)
RUNNER = Setting(
    "runner",
    values.one_of("auto", "stub", "python"),
    "auto",
    "how containers are started: auto, stub or python",
    "RUNNER",
    details="`stub` makes the system calls of a start in machine code, which is faster; `python` "
    "works everywhere. `auto` chooses the stub if the machine permits it.",
)
ENDPOINT = Setting(
    "endpoint",
    str,
    (),
    "fixed address for settings that are read before fixtures run",
    "FIXTURE:PORT VARIABLE=VALUE ...",
    several=True,
    ini_only=True,
    details="One line for each address. See [fixed addresses](../how-to/endpoints.md).",
)
SERVICES = Setting(
    "services",
    str,
    (),
    "service that is up before tests are collected",
    "NAME = SERVICE[@IMAGE] OPTION=VALUE ...",
    several=True,
    ini_only=True,
    details="One line for each service. See [session services](../how-to/session-services.md).",
)
STRICT = Setting(
    "strict",
    values.flag,
    False,
    "fail the run if an endpoint refused connections, since nothing was behind it",
    "",
    details="Without it, such an endpoint is a warning in the summary. See "
    "[session services](../how-to/session-services.md).",
)
REPORT = Setting(
    "report",
    values.file,
    None,
    "write a page with the tests, containers, images and seeds over time to this file",
    "FILE",
    details="One HTML file that loads nothing. See [the report](../how-to/report.md).",
)
DEBUG = Setting(
    "debug",
    values.file,
    None,
    "write a trace of the run, with durations, to this file",
    "FILE",
)
ALL = (
    HOME,
    ENGINE,
    REQUIRED,
    IMAGE,
    READY_TIMEOUT,
    LOG_LINES,
    LOGS,
    KEEP,
    KEEP_LIMIT,
    KEEP_TIME,
    PULL,
    REGISTRY_MIRROR,
    INSECURE_REGISTRY,
    HUB_PREFIX,
    SECURITY_OPT,
    FRESH,
    STATES,
    STATES_KEY,
    BUILD_CACHE,
    LOOKAHEAD,
    EGRESS,
    IDENTITY,
    MAX_CONTAINERS,
    MAX_MEMORY,
    RUNNER,
    ENDPOINT,
    SERVICES,
    STRICT,
    REPORT,
    DEBUG,
)
OPTIONS = tuple(setting for setting in ALL if not setting.ini_only)
"""The settings that the command line and the environment have as well."""


class Settings:
    """All settings of a test run or a command.

    Args:
        command_line: Values of options by name, strings or lists of strings; None is "not given".
        ini: Values of the ini file by name; an empty value is "not given".
        environ: The environment.
        prefix: The prefix of options in messages.

    Raises:
        SettingsError: A value is not usable; the message names its source and the expected format.
    """

    def __init__(
        self,
        command_line: Mapping[str, Any],
        ini: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
        *,
        prefix: str = "--containers-",
    ) -> None:
        self._strong: dict[str, Any] = {}
        self._weak: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        for setting in OPTIONS:
            option = command_line.get(setting.name)
            variable = environ.get(setting.variable)
            if option not in (None, []):
                source = f"{prefix}{setting.name.replace('_', '-')}"
                self._strong[setting.name] = _parse(setting, option, source)
                self._sources[setting.name] = source
            elif variable:
                value = variable.split(",") if setting.several else variable
                self._strong[setting.name] = _parse(setting, value, setting.variable)
                self._sources[setting.name] = setting.variable
            if ini.get(setting.name) not in (None, "", []):
                self._weak[setting.name] = _parse(setting, ini[setting.name], setting.ini)

    def get(self, setting: Setting, argument: Any = None) -> Any:
        """Return the value of a setting.

        Args:
            argument: The argument of a factory; None is "not given".
        """
        if setting.name in self._strong:
            return self._strong[setting.name]
        if argument is not None:
            return argument
        return self._weak.get(setting.name, setting.default)

    def image_for(self, fixture: str) -> str | None:
        """Return the image that overrides the image of a fixture, if any."""
        overrides: dict[str, str] = dict(self._weak.get("image", ()))
        overrides.update(self._strong.get("image", ()))
        return overrides.get(fixture)

    def image_sources(self) -> dict[str, str]:
        """Return the names that have another image, each with the source that says so."""
        weak = {name: IMAGE.ini for name, _ in self._weak.get("image", ())}
        strong = {name: self._sources["image"] for name, _ in self._strong.get("image", ())}
        return weak | strong


def _parse(setting: Setting, value: Any, source: str) -> Any:
    if setting.several:
        return tuple(_parse_value(setting, str(item), source) for item in value)
    return _parse_value(setting, str(value), source)


def _parse_value(setting: Setting, value: str, source: str) -> Any:
    try:
        return setting.parse(value.strip())
    except ValueError as error:
        from pytest_containers.model.errors import SettingsError
        from pytest_containers.model.harmless import quoted

        raise SettingsError(
            f"{source}: {quoted(value)} is not usable; it must be {error}",
            source=source,
            value=value,
        ) from None
