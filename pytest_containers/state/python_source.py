"""The parts of a Python file that may have affected code that ran.

The body of a function that did not run is left out of the digest, so that a view or a test can be
edited without seeding the database again. All code that runs during an import counts, and so does
every function whose name is used there (in any of the files): it may have been called by `map` or
as a decorator, and its result may be data now.
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
"""Functions that Python calls implicitly: when it makes a class, or looks up a module attribute."""


def digest(source: bytes, kept: Iterable[str], *, without_tests: bool = False) -> str:
    """Return a digest of the syntax tree of a file, without comments and layout.

    Args:
        kept: Names (``function``, ``Class.method``) of the functions whose bodies count.
        without_tests: Leave out tests and test classes, unless they are in `kept`.

    Raises:
        SyntaxError: The source is not valid Python.
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
    if any(full == name or full.startswith(f"{name}.") for full in kept):
        return False
    if isinstance(node, _Function):
        return name.startswith("test")
    return isinstance(node, ast.ClassDef) and name.startswith("Test")


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Function]]:
    """Iterate over functions and methods, by name; nested functions are part of the outer one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _Function):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def function_names(source: bytes) -> set[str]:
    """Return the names of all functions and methods of a file."""
    return {name for name, _ in _functions(ast.parse(source))}


def kept_functions(
    sources: Mapping[str, bytes], executed: Mapping[str, set[str]]
) -> dict[str, list[str]]:
    """Return the functions of each file whose bodies count.

    Args:
        sources: Python files by path.
        executed: The names of the functions that ran, by path.
    """
    trees = {path: ast.parse(source) for path, source in sources.items()}
    functions = {path: dict(_functions(tree)) for path, tree in trees.items()}
    kept = {path: set(executed.get(path, ())) for path in trees}
    named: dict[str, list[tuple[str, str, _Function]]] = {}
    for path, functions_of_file in functions.items():
        for full, function in functions_of_file.items():
            for name in _called_as(full):
                named.setdefault(name, []).append((path, full, function))
    todo: list[ast.AST] = list(trees.values())
    used: set[str] = set(_OF_CLASSES)
    new = set(_OF_CLASSES)
    while todo or new:
        for path, full, function in (entry for name in new for entry in named.get(name, ())):
            if full not in kept[path]:
                kept[path].add(full)
                todo += function.body
        new = _used(todo.pop()) - used if todo else set()
        used |= new
    return {path: sorted(names) for path, names in kept.items()}


def _called_as(full: str) -> Iterator[str]:
    """Iterate over the names that may call a function: for a special method, also its class."""
    owner, _, last = full.rpartition(".")
    yield last
    if owner and last.startswith("__"):
        yield owner.rpartition(".")[2]


def _used(node: ast.AST) -> set[str]:
    """Return the names that are read below `node`, without the bodies of functions."""
    names: set[str] = set()
    seeds: set[ast.AST] = set()
    for child in _run(node):
        seeds.update(_seeds(child))
        # A seed is only passed here and runs later, where the trace sees it.
        if child in seeds and isinstance(child, ast.Name | ast.Attribute):
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            names.add(child.id)
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            names.add(child.attr)
    return names


def _seeds(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over the seeds among the arguments of a call."""
    if not isinstance(node, ast.Call):
        return
    arguments = [keyword.value for keyword in node.keywords if keyword.arg == "seed"]
    if _last(node.func) == "containers_seed":
        arguments += node.args
    for value in arguments:
        yield from (value.elts if isinstance(value, ast.List | ast.Tuple) else [value])


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over `node` and all nodes that run with it: not the bodies of functions."""
    todo = [node]
    while todo:
        current = todo.pop()
        if isinstance(current, _Function):
            returns = [current.returns] if current.returns else []
            todo += [*current.decorator_list, current.args, *returns]
            continue
        yield current
        todo += ast.iter_child_nodes(current)


def variables(source: bytes, called: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the environment variables that are named in code that runs at import.

    Args:
        called: The names of functions that may have been called there.

    Returns:
        The variables that the code reads, and those that it sets.
    """
    tree = ast.parse(source)
    names = frozenset(called)
    called_functions = [function for name, function in _functions(tree) if name in names]
    bodies = [statement for function in called_functions for statement in function.body]
    read: set[str] = set()
    written: set[str] = set()
    for node in (child for top in (tree, *bodies) for child in _run(top)):
        name, stored = _variable(node)
        if name is not None:
            (written if stored else read).add(name)
    return read, written


def _variable(node: ast.AST) -> tuple[str | None, bool]:
    """Return the variable that an expression names literally, and whether it is set."""
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
