"""What of a Python file can have mattered to code that ran.

A function that did not run cannot have mattered: its body is left out of the digest, so a view or
a test may be edited without a database being seeded anew. What runs when the file is imported
counts whole, and so does every function whose name is called there (in any of the files), since
its result may be data by now.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def digest(source: bytes, kept: Iterable[str], *, without_tests: bool = False) -> str:
    """Digest of a file's syntax tree: comments and layout do not count.

    Args:
        kept: Names (``function``, ``Class.method``) of functions whose bodies count.
        without_tests: Leave out what pytest would collect, unless it is kept.

    Raises:
        SyntaxError: It is not Python.
    """
    tree = ast.parse(source)
    names = frozenset(kept)
    if without_tests:
        tree.body = [node for node in tree.body if not _is_test(node, names)]
    for name, function in _functions(tree):
        if name not in names:
            function.body = []
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_test(node: ast.stmt, kept: frozenset[str]) -> bool:
    name = getattr(node, "name", "")
    if any(one == name or one.startswith(f"{name}.") for one in kept):
        return False
    if isinstance(node, _Function):
        return name.startswith("test")
    return isinstance(node, ast.ClassDef) and name.startswith("Test")


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Function]]:
    """Functions that are not inside of others, by name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Function):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def kept_functions(
    sources: Mapping[str, bytes], executed: Mapping[str, set[str]]
) -> dict[str, list[str]]:
    """For each file, the functions whose bodies count.

    Args:
        sources: Python files by path.
        executed: Names of the functions that ran, by path.
    """
    trees = {path: ast.parse(source) for path, source in sources.items()}
    functions = {path: dict(_functions(tree)) for path, tree in trees.items()}
    kept = {path: set(executed.get(path, ())) for path in trees}
    named: dict[str, list[tuple[str, str, _Function]]] = {}
    for path, known in functions.items():
        for full, function in known.items():
            for name in _called_as(full):
                named.setdefault(name, []).append((path, full, function))
    todo: list[ast.AST] = list(trees.values())
    called: set[str] = set()
    while todo:
        new = _called(todo.pop()) - called
        called |= new
        for path, full, function in (one for name in new for one in named.get(name, ())):
            if full not in kept[path]:
                kept[path].add(full)
                todo += function.body
    return {path: sorted(names) for path, names in kept.items()}


def _called_as(full: str) -> Iterator[str]:
    """By which names a function may be called; a call of a class runs its constructor."""
    owner, _, last = full.rpartition(".")
    yield last
    if owner and last in ("__init__", "__new__"):
        yield owner.rpartition(".")[2]


def _called(node: ast.AST) -> set[str]:
    """Names that are called below `node`, bodies of functions left out."""
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, _Function):
            todo += [*one.decorator_list, one.args]
            continue
        if isinstance(one, ast.Call):
            name = getattr(one.func, "attr", None) or getattr(one.func, "id", None)
            if name is not None:
                found.add(name)
        todo += ast.iter_child_nodes(one)
    return found
