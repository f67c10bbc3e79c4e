"""``@pytest.mark.containers_seed``: its seeds, and the check for marks without effect."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_containers.services.names import RECIPE, SCOPES

__tracebackhide__ = True

MARK = "containers_seed"


def marks_of(node: Any, name: str) -> list[tuple[Any, Path]]:
    """Return the seeds of all marks for a fixture, those of the widest scope first."""
    pairs: list[tuple[Any, Path]] = []
    for owner, fixture, seeds in _marks(node):
        if fixture == name:
            path = getattr(owner, "path", None) or node.path
            folder = path if path.is_dir() else path.parent
            pairs += [(seed, folder) for seed in seeds]
    return pairs


def _marks(node: Any) -> Iterator[tuple[Any, str, tuple[Any, ...]]]:
    for owner, mark in reversed(list(node.iter_markers_with_node(MARK))):
        if not mark.args or not isinstance(mark.args[0], str):
            raise pytest.UsageError(
                f"{owner.nodeid}: write @pytest.mark.{MARK}('fixture', seed): the fixture's name "
                "comes first"
            )
        if len(mark.args) < 2 or mark.kwargs:
            raise pytest.UsageError(
                f"{owner.nodeid}: @pytest.mark.{MARK}({mark.args[0]!r}) adds nothing; seeds come "
                f"after the fixture's name: {MARK}({mark.args[0]!r}, seed)"
            )
        yield owner, mark.args[0], mark.args[1:]


def check_marks(item: pytest.Item) -> None:
    """Raise for a mark that would have no effect on its test.

    Raises:
        UsageError: The fixture does not exist, cannot have seeds, or has a wider scope than the
            mark.
    """
    for owner, name, _ in _marks(item):
        fault = _fault(item, owner, name)
        if fault is not None:
            raise pytest.UsageError(f"{owner.nodeid}: @pytest.mark.{MARK}({name!r}, …): {fault}")


def definitions_of(item: pytest.Item, name: str) -> Sequence[Any]:
    """Return the definitions of a fixture that a test could use, the nearest last."""
    # There is no public way. Its argument was the id of the node before pytest 8.1.
    node: Any = item if pytest.version_tuple >= (8, 1) else item.nodeid
    return item.session._fixturemanager.getfixturedefs(name, node) or ()


def _fault(item: pytest.Item, owner: Any, name: str) -> str | None:
    used = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # there is no public way
    definitions = used.get(name) or definitions_of(item, name)
    if not definitions:
        ours = [
            fixture
            for fixture, fixturedefs in used.items()
            if any(hasattr(fixturedef.func, RECIPE) for fixturedef in fixturedefs)
        ]
        close = difflib.get_close_matches(name, ours, 1, 0.5)
        return f"there is no fixture {name!r}" + (f", did you mean {close[0]!r}?" if close else "")
    own = [definition for definition in definitions if hasattr(definition.func, RECIPE)]
    if not own:
        return f"fixture {name!r} is not a container fixture and cannot have seeds"
    if owner is item and name not in used and not _may_ask_by_name(item):
        return f"the test does not use fixture {name!r}"
    scope, reach = own[-1].scope, _scope_of(owner)
    if scope == "class" and getattr(item, "cls", None) is None:
        scope = "function"  # as in pytest, outside of classes
    if SCOPES.index(reach) <= SCOPES.index(scope):
        return None
    if scope == "session":
        return (
            f"fixture {name!r} is made once for all tests (scope='session'), so a mark on some of "
            "them has no effect; pass the seed to the fixture, or give the fixture a smaller scope"
        )
    return (
        f"fixture {name!r} is made once for each {scope}, so a mark on a {reach} has no effect; "
        f"mark the {scope}, or give the fixture scope={reach!r}"
    )


def _may_ask_by_name(item: pytest.Item) -> bool:
    """True if the test or a fixture of its suite takes `request`, and so may ask for any fixture.

    Plugins take it for purposes of their own, some of them in a fixture of every test.
    """
    info = item._fixtureinfo  # type: ignore[attr-defined]  # there is no public way
    return "request" in info.argnames or any(
        "request" in fixturedef.argnames and _is_of_suite(fixturedef.func, item.config.rootpath)
        for fixturedefs in info.name2fixturedefs.values()
        for fixturedef in fixturedefs
    )


def _is_of_suite(function: Any, root: Path) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return True
    path = Path(code.co_filename)
    return path.is_relative_to(root) and "site-packages" not in path.parts


def _scope_of(owner: Any) -> str:
    if isinstance(owner, pytest.Session):
        return "session"
    for kind, scope in ((pytest.Package, "package"), (pytest.Module, "module")):
        if isinstance(owner, kind):
            return scope
    return "class" if isinstance(owner, pytest.Class) else "function"
