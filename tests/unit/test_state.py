"""What a seed is known by, and what it was seen to use."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.model.errors import SpecError
from pytest_containers.state import facts, python_source
from pytest_containers.state.seeds import UNSHARED, apply_script, scripts_in, seeds_of
from pytest_containers.state.trace import READ_EVENT, UsageTrace, recording

CODE = """
import os
LIMIT = 3

def used(x):
    return x + LIMIT

def unused(x):
    return x - LIMIT

class Model:
    name = "column"

    def save(self):
        return 1

def make():
    return [1]

ROWS = make()

def test_it():
    assert used(1)
"""


def digest_of(code: str, *kept: str, without_tests: bool = True) -> str:
    source = textwrap.dedent(code).encode()
    functions = python_source.kept_functions({"f": source}, {"f": set(kept)})["f"]
    return python_source.digest(source, functions, without_tests=without_tests)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x - LIMIT", "return x - LIMIT - 1"),
        ("return 1", "return 2"),
        ("assert used(1)", "assert used(2)"),
        ("def test_it", "def test_another"),
        ("LIMIT = 3\n", "LIMIT = 3  # rows\n\n\n"),
    ],
)
def test_what_cannot_have_mattered_changes_nothing(old: str, new: str) -> None:
    assert old in CODE
    assert digest_of(CODE.replace(old, new), "used") == digest_of(CODE, "used")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x + LIMIT", "return x + LIMIT + 1"),
        ("LIMIT = 3", "LIMIT = 4"),
        ('name = "column"', 'name = "other"'),
        ("return [1]", "return [2]"),
        ("def unused(x)", "def unused(x, y=1)"),
    ],
)
def test_what_may_have_mattered_changes_it(old: str, new: str) -> None:
    assert old in CODE
    assert digest_of(CODE.replace(old, new), "used") != digest_of(CODE, "used")


def test_functions_called_at_import_count_in_whatever_file_they_are() -> None:
    files = {
        "helper": b"def rows():\n    return more()\ndef more():\n    return 1\ndef other(): pass\n"
        b"class Row:\n    def __init__(self): self.x = 1\n    def save(self): pass\n",
        "user": b"from helper import rows, Row\nROWS = rows()\nONE = Row()\n",
    }
    kept = python_source.kept_functions(files, {})
    assert kept == {"helper": ["Row.__init__", "more", "rows"], "user": []}


@pytest.mark.parametrize(
    "use",
    [
        "ROWS = list(map(make, [1]))",
        "@make\ndef other(): pass",
        "TABLE = {'a': make}",
        "@helper.make\nclass Other: pass",
        "def other(x=make): pass",
        "class Row(metaclass=make): pass",
    ],
)
def test_functions_used_at_import_without_a_call_count(use: str) -> None:
    code = f"def make(x):\n    return 1\n{use}\n"
    assert digest_of(code) != digest_of(code.replace("return 1", "return 2"))


@pytest.mark.parametrize(
    ("hook", "use"),
    [
        ("__init_subclass__", ""),
        ("__set_name__", ""),
        ("__post_init__", "ONE = Base()"),
        ("__call__", "ONE = list(map(Base(), [1]))"),
        ("__iter__", "ALL = list(Base())"),
    ],
)
def test_what_python_calls_at_import_counts(hook: str, use: str) -> None:
    code = f"class Base:\n    def {hook}(self):\n        return 1\n{use}\n"
    assert digest_of(code) != digest_of(code.replace("return 1", "return 2"))
    plain = code.replace(hook, "save")
    assert digest_of(plain) == digest_of(plain.replace("return 1", "return 2"))


@pytest.mark.parametrize(
    "use",
    [
        "db = Postgres.fixture(seed=load)",
        "db = Postgres.fixture(seed=[load, 'a.sql'])",
        "pytestmark = pytest.mark.containers_seed('db', load)",
    ],
)
def test_another_seed_of_the_same_file_does_not_count(use: str) -> None:
    code = f"def load(db):\n    return 1\n{use}\n"
    assert digest_of(code) == digest_of(code.replace("return 1", "return 2"))


def test_variables_that_code_reads_at_import() -> None:
    code = b"""
import os
from os import environ, getenv
A = os.environ.get("A")
B = environ["B"]
C = os.getenv("C", "1") or getenv("D")
if "E" in os.environ: pass
os.environ["F"] = os.environ[A]
def called(): return os.environ["G"]
def other(): return os.environ["H"]
def default(x=os.environ["I"]): pass
ONE = called()
"""
    read, written = python_source.variables(code, ["called"])
    assert (sorted(read), sorted(written)) == (["A", "B", "C", "D", "E", "G", "I"], ["F"])


@given(st.sampled_from(["used", "unused", "Model.save", "make"]), st.integers(0, 5))
def test_a_body_counts_exactly_when_it_is_kept(name: str, number: int) -> None:
    leaf = name.rpartition(".")[2]
    body = {
        "used": "return x + LIMIT",
        "unused": "return x - LIMIT",
        "save": "return 1",
        "make": "return [1]",
    }[leaf]
    changed = CODE.replace(body, f"return 'changed {number}'")
    same = python_source.digest(CODE.encode(), []) == python_source.digest(changed.encode(), [])
    differs = python_source.digest(CODE.encode(), [name]) != python_source.digest(
        changed.encode(), [name]
    )
    assert same and differs


# ---------------------------------------------------------------------- seeds


def first(db):
    db.append(1)


def another():
    def first(db):
        db.append(2)

    return first


def closing_over(value):
    def seed(db):
        db.append(value)

    return seed


def test_two_seeds_of_one_name_are_different() -> None:
    (one,), (two,) = seeds_of(first, Path()), seeds_of(another(), Path())
    assert one.title == two.title == "first"
    assert one.identity != two.identity


def test_arguments_and_closures_are_part_of_a_seed() -> None:
    def identity(value: object) -> str:
        return seeds_of(value, Path())[0].identity

    assert identity(functools.partial(first, n=1)) != identity(functools.partial(first, n=2))
    assert identity(closing_over(1)) != identity(closing_over(2))
    assert identity(closing_over({"b": 1, "a": 2})) == identity(closing_over({"a": 2, "b": 1}))
    assert identity(first) == identity(first)


@dataclasses.dataclass
class Cfg:
    rows: int
    extra: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    rows: int


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


class Plain:
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __call__(self, db: object) -> None: ...


def nested(depth: int, leaf: object) -> object:
    return leaf if depth == 0 else [nested(depth - 1, leaf)]


def local_class(rows: int) -> type:
    class Local:
        def __call__(self, db: object) -> int:
            return rows

    return Local


def cached(rows: int) -> Callable[..., int]:
    @functools.lru_cache
    def inner(db: object) -> int:
        return rows

    return inner


def identity_of(value: object) -> str:
    return seeds_of(value, Path())[0].identity


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Cfg(1), Cfg(2)),
        (Cfg(1, Cfg(1)), Cfg(1, Cfg(2))),
        (Slotted(1), Slotted(2)),
        (Size.SMALL, Size.LARGE),
        (Plain(1), Plain(2)),
        (datetime.date(2024, 1, 1), datetime.date(2025, 1, 1)),
        (decimal.Decimal(1), decimal.Decimal(2)),
        (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
        (collections.deque([1]), collections.deque([2])),
        (re.compile("a"), re.compile("b")),
        (Path("a"), Path("b")),
        (1, True),
        (1, "1"),
        ([1], (1,)),
        ([["a"], "b"], [["a", "b"]]),
        (nested(40, 1), nested(40, 2)),
        (lambda: 1, lambda: 2),
        (functools.partial(first, 1), functools.partial(first, 2)),
        (local_class(1), local_class(2)),
        (local_class(1)(), local_class(2)()),
        (cached(1), cached(2)),
        (Plain(1).__call__, Plain(2).__call__),
        ([].append, [1].append),
        (frozenset({"a"}), frozenset({"b"})),
    ],
)
def test_what_a_seed_holds_is_told_apart_by_value(left: object, right: object) -> None:
    assert identity_of(closing_over(left)) != identity_of(closing_over(right))
    assert identity_of(closing_over(left)) == identity_of(closing_over(left))
    partial = functools.partial(first, day=left)
    assert identity_of(partial) != identity_of(functools.partial(first, day=right))


VALUES = [
    "Cfg(1, [{'a'}])", "Slotted(1)", "Size.SMALL", "Plain(1)", "datetime.date(2024, 1, 1)",
    "collections.OrderedDict(a=1)", "cached(1)", "local_class(1)", "local_class(1)()",
    "{'a', 'b', 'c'}", "nested(40, 1)", "re.compile('a')", "lambda: 1",
]  # fmt: skip


@pytest.fixture(scope="module")
def elsewhere() -> list[list[str]]:
    """Of each of the values its identities in two other processes."""
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom test_state import *\n" + "".join(
        f"print(identity_of(closing_over({value})).replace('\\n', ' '))\n" for value in VALUES
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)], text=True, check=True,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed,
                                         "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]  # fmt: skip
    assert [len(output) for output in outputs] == [len(VALUES)] * 2
    return [list(identities) for identities in zip(*outputs, strict=True)]


@pytest.mark.parametrize("value", VALUES)
def test_equal_values_are_equal_in_another_process(elsewhere: list[list[str]], value: str) -> None:
    first, second = elsewhere[VALUES.index(value)]
    assert first == second and UNSHARED not in first


def test_two_lambdas_of_one_line() -> None:
    left, right = (lambda db: db.append(1)), (lambda db: db.append(2))
    assert identity_of(left) != identity_of(right)


def test_where_a_seed_stands_does_not_matter() -> None:
    def made(source: str) -> str:
        names: dict[str, Any] = {}
        exec(compile(source, "<seed>", "exec"), names)
        return identity_of(names["seed"])

    code = "def seed(db):\n    db.append([1, {2, 3}])\n"
    assert made(code) == made(f"\n# a comment\n\n{code}")
    assert made(code) != made(code.replace("3", "4"))


def test_what_cannot_be_known_by_value_is_equal_to_itself_only() -> None:
    one, two = threading.Lock(), threading.Lock()
    assert identity_of(closing_over(one)) == identity_of(closing_over(one))
    assert identity_of(closing_over(one)) != identity_of(closing_over(two))
    assert f"{UNSHARED} _thread.lock" in identity_of(closing_over([one]))
    counter = itertools.count()
    before = identity_of(closing_over(counter))
    next(counter)
    assert identity_of(closing_over(counter)) == before


def test_values_that_contain_themselves() -> None:
    left: list[object] = [1]
    left.append(left)
    right: list[object] = [2]
    right.append(right)
    assert identity_of(closing_over(left)) != identity_of(closing_over(right))
    deep: object = None
    for _ in range(100_000):
        deep = [deep]
    assert UNSHARED in identity_of(closing_over(deep))
    wide: object = 1
    for _ in range(60):  # 2 ** 60 paths lead through it
        wide = [wide, wide]
    assert UNSHARED not in identity_of(closing_over(wide))


def test_scripts_of_one_name_in_two_directories(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "more").mkdir(parents=True)
        (tmp_path / name / "one.sql").write_text("")
        (tmp_path / name / "more/one.sql").write_text("")
    for seed in ("one.sql", "more"):
        (one,), (two,) = seeds_of(seed, tmp_path / "a"), seeds_of(seed, tmp_path / "b")
        assert one.title == two.title
        assert one.identity != two.identity


def test_an_asynchronous_seed_runs_to_its_end() -> None:
    async def load(db: list[int]) -> None:
        await asyncio.sleep(0)
        db.append(1)

    done: list[int] = []
    for value in (load, lambda db: load(db), functools.partial(load)):
        seeds_of(value, Path())[0].apply(done)
    assert done == [1, 1, 1]

    async def inside() -> None:
        with pytest.raises(SpecError, match="cannot be awaited where an event loop runs already"):
            seeds_of(load, Path())[0].apply(done)

    asyncio.run(inside())


def test_a_generator_is_no_seed() -> None:
    def load(db: list[int]) -> Iterator[None]:
        db.append(1)
        yield

    async def later(db: list[int]) -> AsyncIterator[None]:
        db.append(1)
        yield

    done: list[int] = []
    for value in (load, later):
        with pytest.raises(SpecError, match="is a generator, and nothing of it has run"):
            seeds_of(value, Path())[0].apply(done)
    assert done == []


def test_a_list_is_one_step_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("")
    assert [seed.title for seed in seeds_of([first, "a.sql", None], tmp_path)] == ["first", "a.sql"]


def test_scripts_of_a_directory_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["2_b.sql", "10_c.sql", "1_a.sql", "1_a.down.sql", "readme.md", "V3__d.sql.gz"]
    for name in names:
        (tmp_path / name).write_text("")
    ordered = [path.name for path in scripts_in(tmp_path)]
    assert ordered == ["1_a.sql", "2_b.sql", "10_c.sql", "V3__d.sql.gz"]


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (3, "must be a callable"),
        ("none.sql", "none.sql does not exist; relative paths start from"),
        ("notes.txt", "is not a script"),
        ("empty", "the directory has no scripts"),
    ],
)
def test_seeds_that_cannot_be(tmp_path: Path, seed: object, message: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=message):
        seeds_of(seed, tmp_path)


def test_an_input_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="inputs: there is nothing at"):
        facts.Inputs(["x/*.sql"], tmp_path)


# ---------------------------------------------------------------------- trace

PROBE = """
import json, os, sys
from pathlib import Path
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
import early, unrelated
from pytest_containers.state import facts
from pytest_containers.state.trace import UsageTrace, recording
trace = UsageTrace(root)
inputs = facts.Inputs([], root)
with recording(trace):
    early.work(root)
print(json.dumps(facts.gather(trace, inputs, root, None)))
"""
FILES = {
    "early.py": """
import os
import subprocess
from pathlib import Path

VALUES = [1, 2]

def work(root):
    import lately
    lately.work()
    (root / "data.txt").read_text()
    Path(root, "made.txt").write_text("x")
    Path(root, "made.txt").read_text()
    sorted(os.listdir(root / "migrations"))
    os.environ.get("SEEN"), os.environ.get("UNSET")
    os.environ["WRITTEN"] = "x"
    os.environ["WRITTEN"]
    subprocess.run(["cat", str(root / "named.txt")], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ})

def unused():
    return 1
""",
    "lately.py": "def work():\n    return 1\n",
    "unrelated.py": "def view():\n    return 1\n",
    "data.txt": "data",
    "named.txt": "named",
    "migrations/1.sql": "one",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def traced(root: Path, **env: str) -> dict:
    import json

    result = subprocess.run(
        [sys.executable, "-c", PROBE, str(root)], capture_output=True, text=True, check=True,
        env={**os.environ, "SEEN": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env},
    )  # fmt: skip
    return json.loads(result.stdout)


def test_what_is_used_is_seen(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = traced(project)
    assert set(record["files"]) == {
        "early.py",
        "lately.py",
        "unrelated.py",
        "data.txt",
        "named.txt",
    }
    assert record["files"]["early.py"]["kept"] == ["work"]
    assert record["files"]["unrelated.py"]["kept"] == []
    assert set(record["folders"]) == {"migrations"}
    assert set(record["variables"]) == {"SEEN", "UNSET"}
    assert record["variables"]["UNSET"] is None
    monkeypatch.setenv("SEEN", "1")
    assert facts.change(record, project) is None


@pytest.mark.parametrize(
    ("name", "contents", "change"),
    [
        ("data.txt", "other", "data.txt has changed"),
        ("data.txt", None, "data.txt is gone"),
        ("named.txt", "other", "named.txt has changed"),
        ("migrations/2.sql", "two", "directory migrations has other files"),
        ("migrations/.hidden", "", None),
        ("early.py", FILES["early.py"].replace("[1, 2]", "[1, 3]"), "early.py has changed"),
        ("early.py", FILES["early.py"].replace("return 1", "return 2"), None),
        ("lately.py", "def work():\n    return 2\n", "lately.py has changed"),
        ("unrelated.py", "def view():\n    return 2\n", None),
        ("unrelated.py", "import os\ndef view():\n    return 1\n", "unrelated.py has changed"),
        ("new.py", "x = 1", None),
    ],
)
def test_what_changes_is_told(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    contents: str | None,
    change: str | None,
) -> None:
    monkeypatch.setenv("SEEN", "1")
    record = traced(project)
    if contents is None:
        (project / name).unlink()
    else:
        (project / name).write_text(contents)
    assert facts.change(record, project) == change


def test_variables_and_packages(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = traced(project)
    monkeypatch.setenv("SEEN", "2")
    assert facts.change(record, project) == "environment variable SEEN has changed"
    monkeypatch.setenv("SEEN", "1")
    monkeypatch.setenv("UNSET", "1")
    assert facts.change(record, project) == "environment variable UNSET has changed"
    monkeypatch.delenv("UNSET")
    record["packages"]["filelock"] = "0.1"
    assert facts.change(record, project).startswith("package filelock is ")


def test_values_of_variables_are_not_kept(project: Path) -> None:
    import json

    secret = "very-secret-value"
    assert secret not in json.dumps(traced(project, SEEN=secret))


def test_another_checkout_with_the_same_files(project: Path, tmp_path: Path) -> None:
    import shutil

    record = traced(project)
    other = tmp_path / "other"
    shutil.copytree(project, other)
    os.environ["SEEN"] = "1"
    try:
        assert facts.change(record, other) is None
        (other / "data.txt").write_text("other")
        assert facts.change(record, other) == "data.txt has changed"
    finally:
        del os.environ["SEEN"]


def test_a_file_that_is_changed_while_it_is_used_is_never_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1")
    trace = UsageTrace(tmp_path)
    began = 0
    with recording(trace):
        path.read_text()
    record = facts.gather(trace, facts.Inputs([], tmp_path), tmp_path, None)
    record["files"] = {"a.txt": record["files"]["a.txt"]}
    facts.distrust_later_than(record, began, tmp_path)
    assert facts.change(record, tmp_path) == "a.txt has changed"


def test_processes_of_ours_tell_what_they_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "file").write_text("")
    trace = UsageTrace(tmp_path)
    with recording(trace):
        sys.audit(READ_EVENT, str(tmp_path / "tree"))
        sys.audit(READ_EVENT, str(tmp_path / "file"))
    assert trace.folders == {str(tmp_path / "tree")}
    assert trace.files == {str(tmp_path / "file")}


def used_by(root: Path, function: Callable[[], object], **options: Any) -> dict[str, Any]:
    trace = UsageTrace(root, **options)
    with recording(trace):
        function()
    record = facts.gather(trace, facts.Inputs([], root), root, None)
    loaded = set(facts.gather(UsageTrace(root), facts.Inputs([], root), root, None)["files"])
    return {**record, "files": {k: v for k, v in record["files"].items() if k not in loaded}}


def test_scripts_that_were_named_count_wherever_they_are(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for path in (root / ".data/in.sh", tmp_path / "shared/out.sh"):
        path.parent.mkdir(parents=True)
        path.write_text("one")
        record = used_by(root, lambda path=path: apply_script(Runner(), path))
        assert facts.change(record, root) is None
        path.write_text("other")
        assert "has changed" in str(facts.change(record, root))


class Runner:
    def run_script(self, path: Path) -> None:
        path.read_bytes()


def test_a_hidden_file_counts_unless_it_is_a_tools_own(tmp_path: Path) -> None:
    names = [".env", ".config/a.toml", ".git/HEAD", ".venv/x", ".pytest_cache/x", ".coverage.1"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    record = used_by(tmp_path, lambda: [(tmp_path / name).read_text() for name in names])
    assert set(record["files"]) == {".env", ".config/a.toml"}


def test_the_store_is_no_part_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a").write_text("1")
    record = used_by(tmp_path, (tmp_path / "store/a").read_text, outside=[tmp_path / "store"])
    assert record["files"] == {}


def test_a_project_below_the_prefix_of_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /usr/src/app is, with Debian's Python, whose prefix is /usr."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "src/app/lib/site-packages")])
    root = tmp_path / "src/app"
    (root / "lib/site-packages").mkdir(parents=True)
    for name in ("a.txt", "lib/site-packages/b.txt"):
        (root / name).write_text("1")
    record = used_by(
        root, lambda: [(root / n).read_text() for n in ("a.txt", "lib/site-packages/b.txt")]
    )
    assert set(record["files"]) == {"a.txt"}


def test_a_file_that_was_not_there(tmp_path: Path) -> None:
    def seed() -> None:
        with suppress(FileNotFoundError):
            (tmp_path / "local.txt").read_text()
        with suppress(FileNotFoundError):
            os.listdir(tmp_path / "more")
        with suppress(FileNotFoundError):
            (tmp_path / "cache.txt").read_text()
        (tmp_path / "cache.txt").write_text("its own")
        (tmp_path / "new.txt").open("w+").close()

    record = used_by(tmp_path, seed)
    assert record["absent"] == ["local.txt", "more"]
    assert facts.change(record, tmp_path) is None
    (tmp_path / "local.txt").write_text("")
    assert facts.change(record, tmp_path) == "local.txt exists now"


def test_a_file_that_the_seed_uses_up(tmp_path: Path) -> None:
    (tmp_path / "once.txt").write_text("1")

    def seed() -> None:
        (tmp_path / "once.txt").read_text()
        (tmp_path / "once.txt").unlink()

    record = used_by(tmp_path, seed)
    assert facts.change(record, tmp_path) is None
    (tmp_path / "once.txt").write_text("2")
    assert facts.change(record, tmp_path) == "once.txt exists now"


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_module_whose_file_is_not_what_it_was(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "vanishing.py"
    path.write_text("def run(): pass\n")
    module = types.ModuleType("vanishing")
    module.__file__ = str(path)
    sys.modules["vanishing"] = module
    try:
        path.unlink() if damage == "gone" else path.write_text("def (")
        record = facts.gather(UsageTrace(tmp_path), facts.Inputs([], tmp_path), tmp_path, None)
    finally:
        del sys.modules["vanishing"]
    path.write_text("def run(): pass\n")
    assert "vanishing.py" in str(facts.change(record, tmp_path))


def test_variables_read_at_import(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN", "1")
    source = FILES["unrelated.py"] + "import os\nSIZE = os.environ.get('SIZE', '1')\n"
    (project / "unrelated.py").write_text(source)
    record = traced(project)
    assert facts.change(record, project) is None
    monkeypatch.setenv("SIZE", "2")
    assert facts.change(record, project) == "environment variable SIZE has changed"


def test_a_dangling_link_in_an_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to("nowhere")
    inputs = facts.Inputs(["in"], tmp_path)
    record = facts.gather(UsageTrace(tmp_path), inputs, tmp_path, None)
    assert facts.change(record | {"files": {}}, tmp_path) is None


@pytest.mark.parametrize("pattern", ["sql", "sql/*.sql", "**/*.sql"])
def test_inputs_are_all_that_a_pattern_matches(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql/a.sql").write_text("1")
    inputs = facts.Inputs([pattern], tmp_path)
    record = facts.gather(UsageTrace(tmp_path), inputs, tmp_path, None) | {"files": {}}
    assert facts.change(record, tmp_path) is None
    os.utime(tmp_path / "sql/a.sql", (1, 1))
    assert facts.change(record, tmp_path) is None
    (tmp_path / "sql/b.sql").write_text("2")
    assert facts.change(record, tmp_path) == f"input {pattern} has changed"


def test_facts_of_another_machine_are_compared_by_content(tmp_path: Path) -> None:
    (tmp_path / "schema").write_text("one")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").write_text("1")
    declared = facts.Inputs(["schema", "data"], tmp_path)
    inputs = facts.declared(declared, tmp_path)
    there = json.loads(json.dumps(inputs))
    assert facts.adopt(there, tmp_path, declared) == inputs
    status = (tmp_path / "schema").stat()
    (tmp_path / "schema").write_text("two")  # of equal size, at an equal time
    os.utime(tmp_path / "schema", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert facts.adopt(there, tmp_path, declared) is None
    # The patterns of others are not looked for: "/**" takes all files of the machine.
    assert facts.adopt(inputs, tmp_path, facts.Inputs(["schema"], tmp_path)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"files": []}, {"files": {"a": {}}}, {"files": {"a\0": {"sha256": ""}}}, {"absent": [1]},
        {"inputs": {"a": {"sha256": 1}}}, {"variables": {"A": 1}}, {"more": {}},
        {"files": {"a": {"sha256": "", "tree": "", "kept": 1, "without_tests": True}}},
        {"files": {"/dev/zero": {"sha256": ""}}}, {"files": {"../dev/zero": {"sha256": ""}}},
        {"files": {"//./proc/kcore": {"sha256": ""}}}, {"folders": {"/proc/self/fd": ""}},
    ],
)  # fmt: skip
def test_what_is_no_fact_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    declared = facts.Inputs([], tmp_path)
    whole = facts.declared(declared, tmp_path)
    assert facts.adopt(whole, tmp_path, declared) == whole
    with pytest.raises(ValueError, match="malformed"):
        facts.adopt({**whole, **change}, tmp_path, declared)
