"""Errors: declared fields, messages, pickles, copies, and how they travel between processes."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import pytest_containers as pc
from pytest_containers.model import errors
from pytest_containers.model.errors import ContainersError
from pytest_containers.runtime.wire.client import error_of
from pytest_containers.runtime.wire.faults import Fault

ROOT = Path(pc.__file__).parent
VALUES: dict[str, Any] = {"errno": 13, "exit_code": 3, "timeout_s": 1.5, "status": 404, "port": 80,
                          "line": 1, "column": 2, "returncode": 9, "log_tail": ["last"],
                          "missing": ["redis"], "cmd": ["true"], "stdout": b"\0", "stderr": b""}  # fmt: skip


def all_kinds() -> Iterator[type[ContainersError]]:
    """Every error class, also of modules that only some processes import."""
    classes = [pc.DockerfileError, ContainersError]
    while classes:
        kind = classes.pop()
        if kind.__module__.startswith("pytest_containers.engines."):
            continue  # an engine's own, for what it makes of it
        yield kind
        classes += kind.__subclasses__()


KINDS = sorted(set(all_kinds()), key=lambda kind: kind.__name__)


def filled(kind: type[ContainersError]) -> ContainersError:
    """An error with a value in every field."""
    return kind("one sentence", **{name: VALUES.get(name, name) for name in kind.fields})


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_declared_documented_and_empty_at_first(kind: type[ContainersError]) -> None:
    error = kind("one sentence")
    assert (error.message, str(error), error.args) == ("one sentence",) * 2 + (("one sentence",),)
    assert error.data == {}
    hints = get_type_hints(kind, vars(sys.modules["typing"]))
    for name in kind.fields:
        assert name in hints
        assert getattr(error, name) in (None, ())
    # Python 3.13 takes the indentation off docstrings.
    lines = {
        line.strip().partition(": ")[0]
        for base in kind.__mro__ if base.__module__ == kind.__module__
        for line in (base.__doc__ or "").splitlines()
    }  # fmt: skip
    assert [name for name in kind.fields if name not in lines] == []


@pytest.mark.parametrize("kind", KINDS)
def test_fields_survive_pickling_and_copying(kind: type[ContainersError]) -> None:
    error = filled(kind)
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert (str(again), again.message, again.args) == (str(error), error.message, error.args)
        assert again.data == error.data == {name: getattr(again, name) for name in kind.fields}
        assert again.__notes__ == ["a note"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_fields_do_not_exist(kind: type[ContainersError]) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} has no field 'nosuch'"):
        kind("one sentence", nosuch=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        _ = kind("one sentence").nosuch  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_arrive_from_other_processes(kind: type[ContainersError]) -> None:
    error = filled(kind)
    arrived = error_of(Fault(kind.__name__, error.message, {**error.data, "of_a_newer_run": 1}))
    assert arrived.message == error.message
    if kind is not pc.DockerfileError:  # which no other process of a run raises
        assert (type(arrived), arrived.data) == (kind, error.data)


@pytest.mark.parametrize("kind", KINDS)
def test_tracebacks_name_errors_as_users_import_them(kind: type[ContainersError]) -> None:
    script = f"import pytest_containers as pc; raise pc.{kind.__name__}('one sentence')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"pytest_containers.{kind.__name__}: one sentence"


def test_an_error_is_also_the_built_in_that_fits() -> None:
    with pytest.raises(OSError, match="port 80") as caught:
        raise pc.StartError("port 80: refused", errno=13)
    assert caught.value.errno == 13


def faults() -> Iterator[tuple[str, str, list[str]]]:
    """Every fault that is written out in the code: where, its kind and its fields."""
    for path in sorted(ROOT.rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "ault" in source else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                first = node.args[0] if node.args else None
                if node.func.id in ("FaultError", "Fault", "fault") and isinstance(
                    first, ast.Constant
                ):
                    literal = [key.value for argument in node.args if isinstance(argument, ast.Dict)
                               for key in argument.keys if isinstance(key, ast.Constant)]  # fmt: skip
                    names = [keyword.arg for keyword in node.keywords if keyword.arg]
                    yield f"{path.name}:{node.lineno}", first.value, [*names, *literal]


def test_faults_have_the_fields_of_their_errors() -> None:
    written = list(faults())
    odd = [
        (place, name) for place, kind, names in written for name in names
        # A fault of the kind OSError is a job's own; its caller names the operation.
        if name not in getattr(errors, kind, errors.ContainersError).fields
    ]  # fmt: skip
    assert odd == []
    assert len(written) > 50
