"""Factories of fixtures: containers, images, builds and volumes."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, overload

import pytest

from pytest_containers.model.arguments import check
from pytest_containers.model.engine import Image, Volume
from pytest_containers.model.errors import SpecError, hide_frames
from pytest_containers.model.spec import ContainerSpec, spec_of
from pytest_containers.plugin.hooks import current_config, manager_of, session_services_of
from pytest_containers.plugin.scopes import Containers
from pytest_containers.services.base import BaseService, Isolation
from pytest_containers.services.declaration import Declaration, declaration_of, declared_at
from pytest_containers.services.endpoints import Endpoint, endpoint
from pytest_containers.services.fixtures import constant_fixture, provide, service_fixture
from pytest_containers.services.names import RECIPE
from pytest_containers.services.recipe import Recipe, folder_of_caller

if TYPE_CHECKING:
    from pytest_containers.services.service import Service

__tracebackhide__ = hide_frames

Scope = Literal["function", "class", "module", "package", "session"]
_Function = Callable[..., Any]

__all__ = [
    "Containers", "Endpoint", "build_fixture", "container_fixture", "endpoint", "image_fixture",
    "service_fixture", "session_service", "volume_fixture",
]  # fmt: skip


@overload
def container_fixture(image: _Function, /) -> Any: ...
@overload
def container_fixture(
    image: None = None,
    /,
    *,
    scope: Scope | Callable[..., Scope] = ...,
    autouse: bool = ...,
    name: str | None = ...,
    params: Any = ...,
    ids: Any = ...,
) -> Callable[[_Function], Any]: ...
@overload
def container_fixture(
    image: Any,
    command: Any = None,
    /,
    *,
    scope: Scope | Callable[..., Scope] = ...,
    autouse: bool = ...,
    name: str | None = ...,
    params: Any = ...,
    ids: Any = ...,
    **options: Any,
) -> Any: ...


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
    """Make a fixture whose value is a running container, ready for use.

    Called with an image, it returns the fixture::

        redis = container_fixture("redis:7", ports=[6379])

    As a decorator, it starts the container that the function describes. The function requests
    other fixtures as its arguments, and returns a `ContainerSpec` or a service (or yields one,
    with code for the teardown after the yield)::

        @container_fixture(scope="module")
        def api(postgres):
            return ContainerSpec("host:", ["api", postgres.ip], ports=[8000])

    The function is a plain one, since it only describes the container; an ``async def`` is an
    error. The fixture works in asynchronous tests, and asynchronous fixtures can request it. The
    host name of the container is the name of the fixture.

    Args:
        image: A reference, an image, a `ContainerSpec`, or the decorated function.
        command: Replaces the command of the image.
        params: As for `pytest.fixture`. Without a function, they are images to use instead of
            `image`, or dictionaries of fields of `ContainerSpec`.
        scope, autouse, name, ids: As for `pytest.fixture`.
        seed: The initial data, made once and then stored: a callable that gets the ready
            container, a script, a directory of scripts, or a list of these.
        inputs: Files, directories or globs that the seed depends on, besides those that it is
            seen to use.
        seed_timeout_s: The time limit of a seed; None is 600.
        isolation: ``"server"`` starts a container for each test (or scope); ``"none"`` shares one
            between all tests, in all workers.
        endpoint: A fixed address that forwards to the container (see `endpoint`).
        **options: Fields of `ContainerSpec`.
    """
    fixture_options = {
        "scope": scope,
        "autouse": autouse,
        "name": name,
        "params": params,
        "ids": ids,
    }
    fields = {
        "seed": seed,
        "inputs": inputs,
        "seed_timeout_s": seed_timeout_s,
        "isolation": isolation,
        "endpoint": endpoint,
        "folder": folder_of_caller(2),
    }
    if inspect.isfunction(image):
        return _from_function(image, fixture_options, fields)
    if image is None:
        if options or command is not None:
            raise SpecError(
                "container_fixture(): options without an image; name one, or return a "
                "ContainerSpec from the decorated function"
            )
        return functools.partial(_from_function, fixture_options=fixture_options, fields=fields)
    spec = spec_of(image, command, options)
    description = image if isinstance(image, str) else spec.image
    remake = functools.partial(_changed, spec)
    return constant_fixture(
        Recipe(spec, constant=True, remake=remake, **fields),
        fixture_options,
        f"A container of {description}",
        declaration_of(sys._getframe(1)),
    )


def _changed(spec: ContainerSpec, **changes: Any) -> ContainerSpec:
    return spec_of(spec, None, changes)


def _from_function(
    function: _Function, fixture_options: dict[str, Any], fields: dict[str, Any]
) -> Any:
    """Make the fixture of a function that returns or yields a spec or a service."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _asynchronous(function)
    signature = inspect.signature(function)
    passes_request = "request" in signature.parameters

    def produce(*args: Any, **kwargs: Any) -> Iterator[Any]:
        request = kwargs["request"] if passes_request else kwargs.pop("request")
        result = function(*args, **kwargs)
        generator = result if inspect.isgenerator(result) else None
        description = _checked(next(generator) if generator is not None else result, function)
        try:
            with ExitStack() as stack:
                yield provide(request, Recipe(description, **fields), stack)
        finally:
            if generator is not None:
                _finish(generator, function)

    code = function.__code__
    place = Declaration(code.co_filename, code.co_firstlineno, function.__module__)
    fixture = declared_at(place, produce, function.__name__)
    fixture.__doc__ = function.__doc__ or f"A container, for each {fixture_options['scope']}."
    setattr(fixture, RECIPE, True)
    parameters = list(signature.parameters.values())
    if not passes_request:
        request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)
        parameters.append(request)
    fixture.__signature__ = inspect.Signature(parameters)  # what pytest reads
    return pytest.fixture(**fixture_options)(fixture)


def _asynchronous(function: _Function) -> SpecError:
    name = function.__name__
    return SpecError(
        f"container fixture {name!r} is an async def, but it only describes a container and runs "
        "before that starts; make it a plain def, and await in an asynchronous fixture that "
        f"requests {name!r}"
    )


def _checked(description: Any, function: _Function) -> ContainerSpec | BaseService:
    if inspect.iscoroutine(description):
        description.close()  # avoids the warning that it was never awaited
        raise _asynchronous(function)
    if not isinstance(description, ContainerSpec | BaseService):
        raise SpecError(
            f"container fixture {function.__name__!r} must return a ContainerSpec or a service; "
            f"it returned {description!r}"
        )
    return description


def _finish(generator: Any, function: _Function) -> None:
    for _ in generator:
        raise SpecError(f"container fixture {function.__name__!r} must yield only once")


def image_fixture(
    reference: str,
    /,
    *,
    pull: Literal["missing", "always", "never"] | None = None,
    scope: Scope | Callable[..., Scope] = "session",
    name: str | None = None,
) -> Any:
    """Make a fixture whose value is an image, fetched once::

        app_image = image_fixture("registry.example/app:1")

        @container_fixture
        def app(app_image):
            return ContainerSpec(app_image, ports=[8000])

    ``--containers-image app_image=other:2`` replaces it.

    Args:
        reference: A name in the store or of a registry, ``oci:PATH`` …
        pull: When to ask the registry; None is the setting.
        scope, name: As for `pytest.fixture`.
    """
    check("image_fixture()", reference=reference)

    def produce(request: pytest.FixtureRequest) -> Iterator[Image]:
        manager = manager_of(request.config)
        override = manager.settings.image_for(request.fixturename or "") or reference
        yield manager.image(override, pull)

    fixture = declared_at(declaration_of(sys._getframe(1)), produce, name)
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
    """Make a fixture whose value is an image, built from a Dockerfile with cached steps::

        api_image = build_fixture("./api", target="prod", args={"REV": "1"})

        @container_fixture
        def api(api_image):
            return ContainerSpec(api_image, ports=[8000])

    ``--containers-image api_image=other:2`` replaces it.

    Args:
        context: The build context, a directory relative to the file of the fixture.
        dockerfile: The path of the Dockerfile relative to `context`; None is ``Dockerfile``.
        tags: Names of the image in the store.
        scope, name: As for `pytest.fixture`.
        **options: Fields of `BuildOptions`: ``target``, ``args``, ``labels``,
            ``secrets``, ``ssh``, ``network``, ``no_cache``, ``pull``.
    """
    check("build_fixture()", context=context, dockerfile=dockerfile, tags=tags)
    folder = folder_of_caller(2)

    def produce(request: pytest.FixtureRequest) -> Iterator[Image]:
        manager = manager_of(request.config)
        override = manager.settings.image_for(request.fixturename or "")
        if override:
            yield manager.image(override, None)
        else:
            yield manager.build(folder / context, dockerfile, tags, options)

    fixture = declared_at(declaration_of(sys._getframe(1)), produce, name)
    fixture.__doc__ = f"The image of {os.fspath(context)}, built."
    return pytest.fixture(scope=scope, name=name)(fixture)


def session_service(
    kind: str | type[Service],
    /,
    *,
    name: str | None = None,
    seed: Any = None,
    inputs: Any = (),
    seed_timeout_s: float | None = None,
    isolation: Isolation = "none",
    endpoint: Any = None,
    scope: Scope | None = None,
    per_worker: bool = False,
    **options: Any,
) -> Any:
    """Start a service at once, for code that looks for it before any fixture runs.

    Call it at the top of a `conftest.py` in the root directory, before the import of the code
    under test; or set ``containers_services`` in the ini file::

        db = session_service("postgres", image="host:", endpoint="DATABASE_URL")

    The server runs until the end of the test run. All workers of xdist and the controller share
    it. Nothing is started where no test will run (``--collect-only``, ``--fixtures`` …). Tests
    have a fixture of its name.

    Args:
        kind: A class of `services`, or its name.
        name: The name of the fixture and of the host for other containers; None is the variable
            that the result is assigned to, else the name of the class.
        seed, inputs, seed_timeout_s: As in `Service.fixture`.
        isolation: What a test gets that requests the fixture: ``"none"`` is this server,
            ``"database"`` a database of its own on this server, ``"server"`` a server of its own,
            to which the endpoint leads while the test runs.
        endpoint: A variable to set to the URL, a dictionary of variables, a port of the host such
            as ``5672`` for code that has it built in, or a list of these.
        scope: The scope of the fixture; None is ``"session"``, and ``"function"`` with another
            isolation than ``"none"``.
        per_worker: True starts a server for each worker of xdist, and one for the controller.
        **options: The options of the service.

    Returns:
        The running service, with `url` and all other methods.

    Raises:
        SpecError: No test run is importing this file, or an option is wrong.
        ContainersError: The server does not start; pytest ends with this message.
    """
    config = current_config()
    if config is None:
        raise SpecError(
            "session_service(): no test run is importing this file; call it in a conftest.py, and "
            "without -p no:containers"
        )
    place = declaration_of(sys._getframe(1))
    kind_name = kind if isinstance(kind, str) else kind.__name__.lower()
    return session_services_of(config).start(
        kind,
        (name or place.assigned or kind_name, place),
        folder_of_caller(2),
        {
            **options, "seed": seed, "inputs": inputs, "seed_timeout_s": seed_timeout_s,
            "isolation": isolation, "endpoint": endpoint, "scope": scope, "per_worker": per_worker,
        },
    )  # fmt: skip


def volume_fixture(
    *,
    scope: Scope | Callable[..., Scope] = "function",
    size_bytes: int | None = None,
    name: str | None = None,
) -> Any:
    """Make a fixture whose value is an empty volume, to mount with `VolumeMount`.

    Args:
        scope: The lifetime of the volume and its files.
        size_bytes: The size limit; None is half of the memory.
        name: As for `pytest.fixture`.
    """
    check("volume_fixture()", size_bytes=size_bytes)

    def produce(request: pytest.FixtureRequest) -> Iterator[Volume]:
        volume = manager_of(request.config).engine.create_volume(size_bytes)
        yield volume
        volume.remove()

    fixture = declared_at(declaration_of(sys._getframe(1)), produce, name)
    fixture.__doc__ = f"An empty volume, for each {scope}."
    return pytest.fixture(scope=scope, name=name)(fixture)
