"""`container_fixture` and its kin: fixtures made from a description of a container."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

import pytest

from pytest_containers.errors import SpecError, hide_frames
from pytest_containers.plugin.hooks import manager_of
from pytest_containers.plugin.manager import Containers
from pytest_containers.spec import ContainerSpec

if TYPE_CHECKING:
    from pytest_containers.engines.native import Container, Volume
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

__all__ = ["Containers", "container_fixture", "image_fixture", "volume_fixture"]


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
    **options: Any,
) -> Any:
    """A fixture whose value is a running container of its own, ready to be used.

    Called with an image, it is the fixture::

        redis = container_fixture("redis:7", ports=[6379])

    As a decorator, it makes the function's result a container. The function's arguments are
    fixtures, and it returns (or yields, for something to do afterwards) a `ContainerSpec`::

        @container_fixture(scope="module")
        def api(postgres):
            return ContainerSpec("host:", ["api", postgres.ip], ports=[8000])

    The container's name, by which others of the test find it, is the fixture's.

    Args:
        image: A reference, an image, a `ContainerSpec`, or the decorated function.
        command: Replaces the image's command.
        scope, autouse, name, params, ids: As `pytest.fixture`.
        **options: Fields of `ContainerSpec`.
    """
    how = {"scope": scope, "autouse": autouse, "name": name, "params": params, "ids": ids}
    if inspect.isfunction(image):
        return _from_function(image, how)
    if image is None:
        if options or command is not None:
            raise SpecError(
                "container_fixture(): options without an image; name one, or return a "
                "ContainerSpec from the decorated function"
            )
        return functools.partial(_from_function, how=how)
    from pytest_containers.engines.native.engine import spec_of

    spec = spec_of(image, command, options)

    def fixture(request: pytest.FixtureRequest) -> Iterator[Container]:
        with _running(request, spec) as container:
            yield container

    what = image if isinstance(image, str) else spec.image
    fixture.__doc__ = f"A container of {what}, for each {scope}."
    return pytest.fixture(**how)(fixture)


def _from_function(function: _Function, how: dict[str, Any]) -> Any:
    """The fixture for a function that returns or yields a spec."""
    signature = inspect.signature(function)
    passes_request = "request" in signature.parameters

    def fixture(*args: Any, **kwargs: Any) -> Iterator[Container]:
        request = kwargs["request"] if passes_request else kwargs.pop("request")
        made = function(*args, **kwargs)
        generator = made if inspect.isgenerator(made) else None
        spec = _checked(next(generator) if generator is not None else made, function)
        try:
            with _running(request, spec) as container:
                yield container
        finally:
            if generator is not None:
                _finish(generator, function)

    fixture.__name__ = fixture.__qualname__ = function.__name__
    fixture.__module__ = function.__module__
    fixture.__doc__ = function.__doc__ or f"A container, for each {how['scope']}."
    parameters = list(signature.parameters.values())
    if not passes_request:
        request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)
        parameters.append(request)
    fixture.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what pytest reads
    return pytest.fixture(**how)(fixture)


def _checked(spec: Any, function: _Function) -> ContainerSpec:
    if not isinstance(spec, ContainerSpec):
        raise SpecError(
            f"container fixture {function.__name__!r} must return a ContainerSpec; "
            f"it returned {spec!r}"
        )
    return spec


def _finish(generator: Any, function: _Function) -> None:
    for _ in generator:
        raise SpecError(f"container fixture {function.__name__!r} must yield once; it goes on")


class _running:
    """Runs a container for a fixture."""

    def __init__(self, request: pytest.FixtureRequest, spec: ContainerSpec) -> None:
        self._request = request
        self._spec = spec

    def __enter__(self) -> Container:
        request = self._request
        manager = manager_of(request.config)
        manager.engine.start()  # gets ready while other fixtures do
        self._containers: Containers = request.getfixturevalue(_FIXTURES[request.scope])
        name = request.fixturename or "container"
        container: Container = self._containers.run(self._spec, name=name)
        self._container = container
        return container

    def __exit__(self, *exc: object) -> None:
        self._containers.remove(self._container)


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
