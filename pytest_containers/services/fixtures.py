"""pytest fixtures whose value is a service.

They request the fixture of the plugin for their scope (`names.SCOPE_FIXTURES`) by its name, so that
this room need not import the plugin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.services.base import BaseService, Isolation
from pytest_containers.services.declaration import Declaration, declaration_of, declared_at
from pytest_containers.services.endpoints import Endpoint, parts_of
from pytest_containers.services.names import RECIPE, SCOPE_FIXTURES, WITHOUT_PLUGIN
from pytest_containers.services.recipe import NO_ENDPOINT, Recipe, folder_of_caller

__tracebackhide__ = hide_frames


def service_fixture(
    service: BaseService,
    *,
    seed: Any = None,
    inputs: Any = (),
    seed_timeout_s: float | None = None,
    isolation: Isolation = "server",
    endpoint: Any = None,
    remake: Callable[..., BaseService] | None = None,
    depth: int = 2,
    **pytest_options: Any,
) -> Any:
    """Make a fixture whose value is a service; see `Service.fixture`.

    Args:
        service: The description of the service.
        seed, inputs, seed_timeout_s, isolation, endpoint: As in `Service.fixture`.
        remake: Makes the service with other options, for parameters.
        depth: The number of frames up to the file that relative paths start from.
        **pytest_options: As `pytest.fixture`.
    """
    place = declaration_of(sys._getframe(depth - 1))
    if endpoint is not None and not isinstance(endpoint, Endpoint):
        if isolation == "database":
            raise SpecError(NO_ENDPOINT)
        name = pytest_options.get("name") or place.assigned or type(service).__name__.lower()
        endpoint = endpoint_of(service, endpoint, name, str(place))
    recipe = Recipe(
        service,
        seed,
        inputs,
        seed_timeout_s,
        isolation,
        endpoint,
        folder_of_caller(depth),
        constant=True,
        remake=remake,
    )
    title = f"{type(service).__name__}, a service"
    return constant_fixture(recipe, pytest_options, title, place)


def endpoint_of(service: BaseService, value: object, name: str, line: str) -> Endpoint:
    """Make the endpoint that the argument ``endpoint=`` of a service describes.

    Args:
        value: A variable, a dictionary of variables, a port of the host, or a list of these.
        name: The fixture.
        line: The source line of the fixture, ``file:line``.

    Raises:
        SpecError: The value is something else, or another endpoint has set a variable.
    """
    variables, host_port = parts_of(value)
    endpoint = Endpoint(name, service.number, line, host_port=host_port)
    endpoint.export(variables, url=service.url_at(endpoint.host, endpoint.port))
    return endpoint


def constant_fixture(
    recipe: Recipe, pytest_options: dict[str, Any], title: str, place: Declaration
) -> Any:
    """Make a fixture from a recipe that is the same for every test with the same parameter."""
    if pytest_options.get("params") is not None:
        pytest_options = {**pytest_options, **_parametrized(recipe, **pytest_options)}

    def produce(request: pytest.FixtureRequest) -> Iterator[Any]:
        chosen = recipe.variant(request.param) if hasattr(request, "param") else recipe
        with ExitStack() as stack:
            yield provide(request, chosen, stack)

    fixture = declared_at(place, produce, pytest_options.get("name"))
    fixture.__doc__ = f"{title}, for each {pytest_options.get('scope', 'function')}."
    setattr(fixture, RECIPE, recipe)
    return pytest.fixture(**pytest_options)(fixture)


def _parametrized(recipe: Recipe, params: Any, ids: Any = None, **_: Any) -> dict[str, Any]:
    """Check the parameters of a fixture now, and return them with their ids."""
    params = list(params)
    for parameter in params:
        is_set = isinstance(parameter, tuple) and hasattr(parameter, "marks")  # pytest.param()
        recipe.variant(parameter.values[0] if is_set else parameter)
    return {"params": params, "ids": _id_of if ids is None else ids}


def _id_of(parameter: Any) -> str | None:
    """Return the id of a dictionary of options or of an image; None is pytest's own."""
    if isinstance(parameter, Mapping) and parameter:
        return ",".join(f"{name}={_id_of(value) or value}" for name, value in parameter.items())
    return parameter.name if isinstance(parameter, Image) else None


def provide(request: pytest.FixtureRequest, recipe: Recipe, stack: ExitStack) -> Any:
    """Start the container of a recipe through the plugin; it ends with `stack`."""
    try:
        containers = request.getfixturevalue(SCOPE_FIXTURES[request.scope])
    except pytest.FixtureLookupError:
        raise SpecError(f"fixture {request.fixturename!r}: {WITHOUT_PLUGIN}") from None
    return containers.provide(recipe, request, stack)
