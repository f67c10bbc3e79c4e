"""``@pytest.mark.containers_seed``: what it adds, and what cannot be meant by it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_containers.plugin.manager import SCOPES

__tracebackhide__ = True

MARK = "containers_seed"
RECIPE = "__containers_recipe__"
"""Attribute of our fixture functions: their recipe where it is constant, else True."""


def marks_of(node: Any, name: str) -> list[tuple[Any, Path]]:
    """Seeds of ``@pytest.mark.containers_seed("fixture", seed, …)``, the widest scope's first."""
    found: list[tuple[Any, Path]] = []
    for owner, fixture, seeds in _marks(node):
        if fixture == name:
            path = getattr(owner, "path", None) or node.path
            folder = path if path.is_dir() else path.parent
            found += [(seed, folder) for seed in seeds]
    return found


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
    """Refuse marks that no fixture of the test would ever look at.

    Raises:
        UsageError: There is no such fixture, it is none of ours, or it is made for more tests than
            the mark is of.
    """
    for owner, name, _ in _marks(item):
        fault = _fault(item, owner, name)
        if fault is not None:
            raise pytest.UsageError(f"{owner.nodeid}: @pytest.mark.{MARK}({name!r}, …): {fault}")


def _fault(item: pytest.Item, owner: Any, name: str) -> str | None:
    used = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # nothing public tells
    definitions = used.get(name) or item.session._fixturemanager.getfixturedefs(name, item)
    if not definitions:
        ours = [one for one in used if any(hasattr(each.func, RECIPE) for each in used[one])]
        close = difflib.get_close_matches(name, ours, 1, 0.5)
        return f"there is no fixture {name!r}" + (f", did you mean {close[0]!r}?" if close else "")
    own = [one for one in definitions if hasattr(one.func, RECIPE)]
    if not own:
        return f"fixture {name!r} is none of pytest-containers, which can be seeded"
    if owner is item and name not in used and "request" not in item.fixturenames:
        return f"the test does not use fixture {name!r}"
    scope, reach = own[-1].scope, _scope_of(owner)
    if scope == "class" and getattr(item, "cls", None) is None:
        scope = "function"  # as pytest has it
    if SCOPES.index(reach) <= SCOPES.index(scope):
        return None
    if scope == "session":
        return (
            f"fixture {name!r} is made once for all tests (scope='session'), whatever one of them "
            "is marked with; give its seed to the fixture itself, or take a smaller scope"
        )
    return (
        f"fixture {name!r} is made once for each {scope}, whatever a {reach} in it is marked with; "
        f"mark the {scope}, or give the fixture scope={reach!r}"
    )


def _scope_of(owner: Any) -> str:
    if isinstance(owner, pytest.Session):
        return "session"
    for kind, scope in ((pytest.Package, "package"), (pytest.Module, "module")):
        if isinstance(owner, kind):
            return scope
    return "class" if isinstance(owner, pytest.Class) else "function"
