"""What of a Python file can have mattered to code that ran.

A function that did not run cannot have mattered: its body is left out of the digest, so a view or
a test may be edited without a database being seeded anew. What runs when the file is imported
counts whole, and so does every function whose name is used there (in any of the files), since it
may have been called, by `map` or as a decorator, and its result may be data by now.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_OF_CLASSES = (
    "__init_subclass__", "__set_name__", "__class_getitem__", "__prepare__", "__mro_entries__",
    "__getattr__", "__dir__",
)  # fmt: skip
"""What Python calls, where a class is made or a module asked for a name, without naming it."""


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
    used: set[str] = set(_OF_CLASSES)
    new = set(_OF_CLASSES)
    while todo or new:
        for path, full, function in (one for name in new for one in named.get(name, ())):
            if full not in kept[path]:
                kept[path].add(full)
                todo += function.body
        new = _used(todo.pop()) - used if todo else set()
        used |= new
    return {path: sorted(names) for path, names in kept.items()}


def _called_as(full: str) -> Iterator[str]:
    """By which names a function may be called; what has the class may call what has no name."""
    owner, _, last = full.rpartition(".")
    yield last
    if owner and last.startswith("__"):
        yield owner.rpartition(".")[2]


def _used(node: ast.AST) -> set[str]:
    """Names that are read below `node`, bodies of functions left out."""
    found: set[str] = set()
    seeds: set[ast.AST] = set()
    for one in _run(node):
        seeds.update(_seeds(one))
        if one in seeds and isinstance(
            one, ast.Name | ast.Attribute
        ):  # described, to be run later: the trace sees which of them did
            continue
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
            found.add(one.id)
        elif isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Load):
            found.add(one.attr)
    return found


def _seeds(node: ast.AST) -> Iterator[ast.AST]:
    """Functions that a call is given as seeds."""
    if not isinstance(node, ast.Call):
        return
    given = [one.value for one in node.keywords if one.arg == "seed"]
    if _last(node.func) == "containers_seed":
        given += node.args
    for one in given:
        yield from (one.elts if isinstance(one, ast.List | ast.Tuple) else [one])


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what runs with it: not the bodies of functions."""
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, _Function):
            todo += [*one.decorator_list, one.args, *([one.returns] if one.returns else [])]
            continue
        yield one
        todo += ast.iter_child_nodes(one)


def variables(source: bytes, called: Iterable[str]) -> tuple[set[str], set[str]]:
    """Names of environment variables that stand in code which runs at import.

    Args:
        called: Names of the functions that may have been called there.

    Returns:
        Those that are read, and those that the code itself sets.
    """
    tree = ast.parse(source)
    names = frozenset(called)
    bodies = [one for name, function in _functions(tree) if name in names for one in function.body]
    read: set[str] = set()
    written: set[str] = set()
    for node in (one for top in (tree, *bodies) for one in _run(top)):
        name, stored = _variable(node)
        if name is not None:
            (written if stored else read).add(name)
    return read, written


def _variable(node: ast.AST) -> tuple[str | None, bool]:
    """The variable that an expression reads or sets, if it says so in letters."""
    key: ast.expr | None = None
    if isinstance(node, ast.Subscript) and _last(node.value) == "environ":
        key = node.slice
    elif isinstance(node, ast.Call) and node.args:
        of = node.func.value if isinstance(node.func, ast.Attribute) else None
        if _last(node.func) == "getenv" or (of is not None and _last(of) == "environ"):
            key = node.args[0]
    elif isinstance(node, ast.Compare) and _last(node.comparators[0]) == "environ":
        key = node.left
    if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
        return None, False
    return key.value, isinstance(getattr(node, "ctx", None), ast.Store)


def _last(node: ast.AST) -> str | None:
    return getattr(node, "attr", None) or getattr(node, "id", None)
