"""`container_fixture` and its kin: fixtures made from a description of a container."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, overload

import pytest

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.plugin.endpoints import Endpoint, endpoint, line_of
from pytest_containers.plugin.hooks import manager_of
from pytest_containers.plugin.manager import Containers
from pytest_containers.plugin.marks import RECIPE
from pytest_containers.plugin.provider import NO_ENDPOINT
from pytest_containers.plugin.recipe import Recipe, folder_of_caller
from pytest_containers.services.base import Isolation, Service
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native import Volume
    from pytest_containers.images.image import Image

__tracebackhide__ = hide_frames

Scope = Literal["function", "class", "module", "package", "session"]
_Function = Callable[..., Any]
_FIXTURES = {
    "function": "containers",
    "class": "class_containers",
    "module": "module_containers",
    "package": "package_containers",
    "session": "session_containers",
}

__all__ = [
    "Containers", "Endpoint", "build_fixture", "container_fixture", "endpoint", "image_fixture",
    "service_fixture", "volume_fixture",
]  # fmt: skip


@overload
def container_fixture(image: _Function, /) -> Any: ...
@overload
def container_fixture(
    image: None = None, /, *, scope: Scope | Callable[..., Scope] = ..., autouse: bool = ...,
    name: str | None = ..., params: Any = ..., ids: Any = ...,
) -> Callable[[_Function], Any]: ...  # fmt: skip
@overload
def container_fixture(
    image: Any, command: Any = None, /, *, scope: Scope | Callable[..., Scope] = ...,
    autouse: bool = ..., name: str | None = ..., **options: Any,
) -> Any: ...  # fmt: skip


def container_fixture(
    image: Any = None,
    command: Any = None,
    /,
    *,
    scope: Scope | Callable[..., Scope] = "function",
    autouse: bool = False,
    name: str | None = None,
    params: Any = None,
    ids: Any = None,
    seed: Any = None,
    inputs: Any = (),
    seed_timeout_s: float | None = None,
    isolation: Isolation = "server",
    endpoint: Endpoint | None = None,
    **options: Any,
) -> Any:
    """A fixture whose value is a running container of its own, ready to be used.

    Called with an image, it is the fixture::

        redis = container_fixture("redis:7", ports=[6379])

    As a decorator, it makes the function's result a container. The function's arguments are
    fixtures, and it returns (or yields, for something to do afterwards) a `ContainerSpec` or a
    service::

        @container_fixture(scope="module")
        def api(postgres):
            return ContainerSpec("host:", ["api", postgres.ip], ports=[8000])

    The container's name, by which others of the test find it, is the fixture's.

    Args:
        image: A reference, an image, a `ContainerSpec`, or the decorated function.
        command: Replaces the image's command.
        scope, autouse, name, params, ids: As `pytest.fixture`.
        seed: What brings it into the state that tests want, done once and kept: a callable that
            gets the ready container, a script, a directory of scripts, or several of these.
        inputs: A file, directory or glob that the seed depends on beside what it is seen to use,
            or several.
        seed_timeout_s: How long a seed may take; None is 600.
        isolation: ``"server"``: a container for each test (of the scope); ``"none"``: one for all
            tests, in all workers.
        endpoint: A fixed address that leads to it (see `endpoint`).
        **options: Fields of `ContainerSpec`.
    """
    how = {"scope": scope, "autouse": autouse, "name": name, "params": params, "ids": ids}
    fields = {
        "seed": seed, "inputs": inputs, "seed_timeout_s": seed_timeout_s, "isolation": isolation,
        "endpoint": endpoint, "folder": folder_of_caller(2),
    }  # fmt: skip
    if inspect.isfunction(image):
        return _from_function(image, how, fields)
    if image is None:
        if options or command is not None:
            raise SpecError(
                "container_fixture(): options without an image; name one, or return a "
                "ContainerSpec from the decorated function"
            )
        return functools.partial(_from_function, how=how, fields=fields)
    from pytest_containers.engines.native.engine import spec_of

    spec = spec_of(image, command, options)
    what = image if isinstance(image, str) else spec.image
    return _constant(Recipe(spec, constant=True, **fields), how, f"A container of {what}")


def service_fixture(
    service: Service,
    *,
    seed: Any = None,
    inputs: Any = (),
    seed_timeout_s: float | None = None,
    isolation: Isolation = "server",
    endpoint: Any = None,
    depth: int = 2,
    **how: Any,
) -> Any:
    """A fixture whose value is a service; see `Service.fixture`.

    Args:
        depth: How many frames up the file is that relative paths are relative to.
    """
    fixed = endpoint
    if isolation == "database" and endpoint is not None:
        raise SpecError(NO_ENDPOINT)
    if endpoint is not None and not isinstance(endpoint, Endpoint):
        variables = {endpoint: "{url}"} if isinstance(endpoint, str) else endpoint
        if not isinstance(variables, dict):
            raise SpecError(
                f"endpoint={endpoint!r} is not usable; it must be the name of a variable, a "
                "dictionary of variables, or an endpoint()"
            )
        where, assigned = line_of(sys._getframe(depth - 1))
        name = how.get("name") or assigned or type(service).__name__.lower()
        fixed = Endpoint(name, service.number, where)
        fixed.export(variables, url=service.url_at(fixed.host, fixed.port))
    recipe = Recipe(
        service, seed, inputs, seed_timeout_s, isolation, fixed, folder_of_caller(depth),
        constant=True,
    )  # fmt: skip
    return _constant(recipe, how, f"{type(service).__name__}, a service")


def _constant(recipe: Recipe, how: dict[str, Any], title: str) -> Any:
    """The fixture for what is the same for every test."""

    def fixture(request: pytest.FixtureRequest) -> Iterator[Any]:
        with ExitStack() as stack:
            yield _provide(request, recipe, stack)

    fixture.__doc__ = f"{title}, for each {how.get('scope', 'function')}."
    setattr(fixture, RECIPE, recipe)
    return pytest.fixture(**how)(fixture)


def _from_function(function: _Function, how: dict[str, Any], fields: dict[str, Any]) -> Any:
    """The fixture for a function that returns or yields a spec or a service."""
    signature = inspect.signature(function)
    passes_request = "request" in signature.parameters

    def fixture(*args: Any, **kwargs: Any) -> Iterator[Any]:
        request = kwargs["request"] if passes_request else kwargs.pop("request")
        made = function(*args, **kwargs)
        generator = made if inspect.isgenerator(made) else None
        what = _checked(next(generator) if generator is not None else made, function)
        try:
            with ExitStack() as stack:
                yield _provide(request, Recipe(what, **fields), stack)
        finally:
            if generator is not None:
                _finish(generator, function)

    fixture.__name__ = fixture.__qualname__ = function.__name__
    fixture.__module__ = function.__module__
    fixture.__doc__ = function.__doc__ or f"A container, for each {how['scope']}."
    setattr(fixture, RECIPE, True)
    parameters = list(signature.parameters.values())
    if not passes_request:
        request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)
        parameters.append(request)
    fixture.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what pytest reads
    return pytest.fixture(**how)(fixture)


def _checked(what: Any, function: _Function) -> ContainerSpec | Service:
    if not isinstance(what, ContainerSpec | Service):
        raise SpecError(
            f"container fixture {function.__name__!r} must return a ContainerSpec or a service; "
            f"it returned {what!r}"
        )
    return what


def _finish(generator: Any, function: _Function) -> None:
    for _ in generator:
        raise SpecError(f"container fixture {function.__name__!r} must yield once; it goes on")


def _provide(request: pytest.FixtureRequest, recipe: Recipe, stack: ExitStack) -> Any:
    manager = manager_of(request.config)
    manager.engine.start()  # gets ready while other fixtures do
    containers: Containers = request.getfixturevalue(_FIXTURES[request.scope])
    return manager.provider.provide(recipe, request, containers, stack)


def image_fixture(
    reference: str,
    /,
    *,
    pull: Literal["missing", "always", "never"] | None = None,
    scope: Scope | Callable[..., Scope] = "session",
    name: str | None = None,
) -> Any:
    """A fixture whose value is an image, fetched once and ready to be started from::

        app_image = image_fixture("registry.example/app:1")

        @container_fixture
        def app(app_image):
            return ContainerSpec(app_image, ports=[8000])

    ``--containers-image app_image=other:2`` replaces it.

    Args:
        reference: As everywhere: a name of a registry or of the store, ``oci:PATH`` …
        pull: When its registry is asked; None is the setting.
        scope, name: As `pytest.fixture`.
    """

    def fixture(request: pytest.FixtureRequest) -> Image:
        manager = manager_of(request.config)
        wanted = manager.settings.image_for(request.fixturename or "") or reference
        return manager.image(wanted, pull)

    fixture.__doc__ = f"The image {reference}."
    return pytest.fixture(scope=scope, name=name)(fixture)


def build_fixture(
    context: str | os.PathLike[str] = ".",
    /,
    *,
    dockerfile: str | os.PathLike[str] | None = None,
    tags: Sequence[str] = (),
    scope: Scope | Callable[..., Scope] = "session",
    name: str | None = None,
    **options: Any,
) -> Any:
    """A fixture whose value is an image, built from a Dockerfile; what was built is reused::

        api_image = build_fixture("./api", target="prod", args={"REV": "1"})

        @container_fixture
        def api(api_image):
            return ContainerSpec(api_image, ports=[8000])

    ``--containers-image api_image=other:2`` replaces it.

    Args:
        context: The directory whose files may be copied, relative to the file of the fixture.
        dockerfile: Relative to `context`; None is its ``Dockerfile``.
        tags: Names that it gets in the store.
        scope, name: As `pytest.fixture`.
        **options: Fields of `build.options.BuildOptions`: ``target``, ``args``, ``labels``,
            ``secrets``, ``ssh``, ``network``, ``no_cache``, ``pull``.
    """
    folder = folder_of_caller(2)

    def fixture(request: pytest.FixtureRequest) -> Image:
        manager = manager_of(request.config)
        wanted = manager.settings.image_for(request.fixturename or "")
        if wanted:
            return manager.image(wanted, None)
        return manager.build(folder / context, dockerfile, tags, options)

    fixture.__doc__ = f"The image of {os.fspath(context)}, built."
    return pytest.fixture(scope=scope, name=name)(fixture)


def volume_fixture(
    *,
    scope: Scope | Callable[..., Scope] = "function",
    size_bytes: int | None = None,
    name: str | None = None,
) -> Any:
    """A fixture whose value is an empty volume, to mount with `VolumeMount`.

    Args:
        scope: As long as this lives what containers leave in it.
        size_bytes: Its limit; None is half the machine's memory.
        name: As `pytest.fixture`.
    """

    def fixture(request: pytest.FixtureRequest) -> Iterator[Volume]:
        volume = manager_of(request.config).engine.create_volume(size_bytes)
        yield volume
        volume.remove()

    fixture.__doc__ = f"An empty volume, for each {scope}."
    return pytest.fixture(scope=scope, name=name)(fixture)
