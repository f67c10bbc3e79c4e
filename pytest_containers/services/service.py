"""`Service`: the base class of all services, with `Service.fixture`."""

from __future__ import annotations

import functools
from typing import Any

from pytest_containers.model.errors import hide_frames
from pytest_containers.services import checks
from pytest_containers.services.base import BaseService

__tracebackhide__ = hide_frames

_FIXTURE_OPTIONS = (
    "seed", "inputs", "seed_timeout_s", "isolation", "endpoint", "scope", "autouse", "name",
    "params", "ids",
)  # fmt: skip


class Service(BaseService):
    """A kind of server; see `BaseService` for its options and for subclasses."""

    # Subclasses declare their own options for type checkers (`services.options`); only a signature
    # of this form may be overridden by any other.
    @classmethod
    def fixture(cls, *args: Any, **options: Any) -> Any:
        """Make a fixture whose value is a running service of this kind.

        Args:
            seed: The initial data, made once and then stored: a callable that gets the ready
                service, a script, a directory of scripts, or a list of these.
            inputs: Files, directories or globs that the seed depends on, besides those that it is
                seen to use.
            seed_timeout_s: The time limit of a seed; None is 600.
            isolation: ``"server"`` starts a server for each test (or scope); ``"database"`` clones
                a database for each test on a shared server; ``"none"`` shares one server.
            endpoint: A variable to set to the URL before tests are collected, or a dictionary of
                variables in which ``{host}``, ``{port}`` and ``{url}`` are replaced. The address
                stays the same and forwards to the server of the current test (see `endpoint`). Not
                with ``isolation="database"``.
            params: The images to run each test with, or dictionaries of options; a test can choose
                with ``@pytest.mark.parametrize("db", ["postgres:16"], indirect=True)`` as well.
            scope, autouse, name, ids: As for `pytest.fixture`.
            **options: The options of the service.
        """
        if args:
            raise TypeError(f"{cls.__name__}.fixture() takes keyword arguments only")
        checks.check_names(cls, options, _FIXTURE_OPTIONS)
        # Only fixtures need pytest: services work without it.
        from pytest_containers.services.fixtures import service_fixture

        fixture_options = {key: value for key, value in options.items() if key in _FIXTURE_OPTIONS}
        service_options = {
            key: value for key, value in options.items() if key not in _FIXTURE_OPTIONS
        }
        fixture_options = {"scope": "function", "autouse": False, "name": None, **fixture_options}
        remake = functools.partial(cls, **service_options)
        return service_fixture(remake(), remake=remake, depth=3, **fixture_options)
