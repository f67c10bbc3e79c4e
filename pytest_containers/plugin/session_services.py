"""Session services: servers that are up before tests are collected.

A service starts at its line of the ini file, before any `conftest.py` is imported, or where
`session_service` is called. It is shared through the run as with ``isolation="none"``: the
controller of xdist starts it, and each worker that gets to the same line joins it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_containers.model.errors import ContainersError, SettingsError, SpecError, hide_frames
from pytest_containers.plugin import session_lines
from pytest_containers.plugin.startup import is_dormant
from pytest_containers.services.base import BaseService, Isolation
from pytest_containers.services.checks import check_names
from pytest_containers.services.declaration import Declaration
from pytest_containers.services.endpoints import Endpoint
from pytest_containers.services.fixtures import constant_fixture, endpoint_of
from pytest_containers.services.recipe import Recipe

if TYPE_CHECKING:
    from pytest_containers.plugin.manager import Manager
    from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames


class _IniLine(Declaration):
    """The place of a session service in the ini file."""

    def __str__(self) -> str:
        return f"{self.path}: containers_services"


class _Declared:
    """A service: the place that declares it, and its value once it runs."""

    __slots__ = ("recipe", "value", "where")

    def __init__(self, where: Declaration, recipe: Recipe) -> None:
        self.where = where
        self.recipe = recipe
        self.value: Any = None


class FailedService(NamedTuple):
    """A service that did not start: the error, and the message for the user."""

    error: ContainersError
    message: str


class SessionServices:
    """The session services of a process.

    Attributes:
        dormant: True if no test will run, so that nothing is started.
        failure: The service that did not start, if any.
    """

    def __init__(self, config: pytest.Config, manager: Callable[[], Manager]) -> None:
        self._config = config
        self._manager = manager
        self._declared: dict[str, _Declared] = {}
        self.dormant: bool = is_dormant(config)
        self.failure: FailedService | None = None

    def start_lines(self, lines: Sequence[str]) -> None:
        """Start the services of the ini file together, and wait for all of them.

        Raises:
            UsageError: A line is not usable, or a server does not start.
        """
        ini = self._config.inipath or self._config.rootpath
        begun = []
        for line in lines:
            with self._usage(line):
                begun.append(self._begin_line(line, ini))
        for line, finish in zip(lines, begun, strict=True):
            with self._usage(line):
                finish()

    def restart(self) -> str | None:
        """Start the services again, since the run that they were in is lost.

        Their values, which the code under test may hold, lead to the new servers.

        Returns:
            A message if a server does not start.
        """
        begin = self._manager().provider.begin
        for name, declared in self._declared.items():
            try:
                value = begin(declared.recipe, name)()
            except ContainersError as error:
                return f"session service {name!r} was lost, and does not start again: {error}"
            declared.value.rebind(value)
        return None

    @contextmanager
    def _usage(self, line: str) -> Iterator[None]:
        """Make an error of a line one of the usage of pytest."""
        try:
            yield
        except ContainersError as error:
            message = str(error)
            if self.failure is not None:
                message = self.failure.message
            elif not isinstance(error, SettingsError):
                message = f"containers_services: {line!r}: {message}"
            raise pytest.UsageError(message) from None

    def _begin_line(self, line: str, ini: Path) -> Callable[[], Any]:
        parsed = session_lines.parse(line)
        service_class = self._manager().service_class(parsed.kind)
        options = session_lines.options_of(parsed, service_class)
        if parsed.image is not None:
            options["image"] = parsed.image
        place = _IniLine(os.fspath(ini), _line_number(ini, line), __name__)
        return self._begin(service_class, (parsed.name, place), ini.parent, options)

    def start(
        self,
        kind: str | type[Service],
        declared: tuple[str, Declaration],
        folder: Path,
        options: dict[str, Any],
    ) -> Any:
        """Start a service, or join it, and add its fixture.

        Args:
            kind: A class of `services`, or its name.
            declared: The name of the service, and the place that declares it.
            folder: The directory that relative paths start from.
            options: The options of `session_service` and of the service.

        Returns:
            The running service; one that only knows its address if no test will run.

        Raises:
            SpecError: An option is wrong, or another place declares a service of that name.
            ContainersError: The server does not start.
        """
        return self._begin(kind, declared, folder, options)()

    def _begin(
        self,
        kind: str | type[Service],
        declared: tuple[str, Declaration],
        folder: Path,
        options: dict[str, Any],
    ) -> Callable[[], Any]:
        """Begin to start a service; return how to finish. See `start`."""
        name, where = declared
        earlier = self._declared.get(name)
        if earlier is not None:
            if str(earlier.where) == str(where):  # a file that is imported again
                return lambda: earlier.value
            raise SpecError(
                f"session service {name!r} ({_relative(where)}) is already declared in "
                f"{_relative(earlier.where)}; give one of them another name"
            )
        if not self.dormant:
            self._manager().engine.start()  # in the background, while the rest is imported
        service_class = self._manager().service_class(kind)
        check_names(service_class, options, tuple(session_lines.OWN_OPTIONS))
        own_names = session_lines.OWN_OPTIONS.keys()
        own = {key: options[key] for key in own_names if options.get(key) is not None}
        service = service_class(
            **{key: value for key, value in options.items() if key not in own_names}
        )
        recipe = _recipe(service, declared, folder, own)
        scope = own.get("scope", "session" if recipe.isolation == "none" else "function")
        # Known by its name from now on: another line cannot have it.
        self._declared[name] = declaration = _Declared(where, recipe)
        begun: Callable[[], Any]
        if self.dormant:
            endpoint = recipe.endpoint or Endpoint(name, service.number)
            begun = functools.partial(service.at, endpoint.address)
        else:
            with self._explained(declared):
                begun = self._manager().provider.begin(recipe, name)

        def finish() -> Any:
            with self._explained(declared):
                declaration.value = begun()
            self._add_fixture(recipe, declared, scope)
            return declaration.value

        return finish

    @contextmanager
    def _explained(self, declared: tuple[str, Declaration]) -> Iterator[None]:
        """Keep the error of a service that does not start, with the place that declares it."""
        name, where = declared
        try:
            yield
        except ContainersError as error:
            message = f"session service {name!r} ({_relative(where)}) was not started: {error}"
            self.failure = FailedService(error, message)
            self._declared.pop(name, None)
            raise
        except KeyboardInterrupt:
            # pytest shows the traceback of an interrupt before its session.
            sys.stderr.write(f"Interrupted while session service {name!r} was starting\n")
            raise SystemExit(int(pytest.ExitCode.INTERRUPTED)) from None

    def _add_fixture(self, recipe: Recipe, declared: tuple[str, Declaration], scope: str) -> None:
        name, place = declared
        title = f"{type(recipe.description).__name__}, a session service"
        holder = ModuleType(f"containers session service {name}")
        pytest_options = {"scope": scope, "name": name}
        setattr(holder, name, constant_fixture(recipe, pytest_options, title, place))
        self._config.pluginmanager.register(holder, holder.__name__)


def _recipe(
    service: BaseService, declared: tuple[str, Declaration], folder: Path, own: dict[str, Any]
) -> Recipe:
    isolation: Isolation = own.get("isolation", "none")
    per_worker = own.get("per_worker", False)
    endpoint = own.get("endpoint")
    if endpoint is not None and not isinstance(endpoint, Endpoint):
        endpoint = endpoint_of(service, endpoint, declared[0], str(declared[1]))
    if endpoint is not None and endpoint.fixed and per_worker:
        raise SpecError(
            f"session service {declared[0]!r}: per_worker=True cannot have a fixed port, since "
            f"only one process can have port {endpoint.port}; use a variable, or one server for "
            "all workers"
        )
    return Recipe(
        service,
        own.get("seed"),
        own.get("inputs", ()),
        own.get("seed_timeout_s"),
        isolation,
        endpoint,
        folder,
        constant=True,
        per_worker=per_worker,
    )


def _relative(where: Declaration) -> str:
    place = str(where)
    return os.path.relpath(place) if os.path.isabs(place) else place


def _line_number(ini: Path, line: str) -> int:
    """Return the number of the line of a file that has a given text; 1 if none has."""
    with suppress(OSError, UnicodeDecodeError):
        for number, other in enumerate(ini.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() in other:
                return number
    return 1
