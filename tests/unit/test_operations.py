"""Every operation of the wire: a handler, types that survive the journey, a page that is current."""

import copy
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import pytest_containers
from pytest_containers.model import errors
from pytest_containers.runtime.launcher.server import OPERATIONS as LAUNCHER
from pytest_containers.runtime.network.helper import OPERATIONS as NETWORK_HELPER
from pytest_containers.runtime.network.networks import REPORTS
from pytest_containers.runtime.supervisor import handlers as handlers  # they register
from pytest_containers.runtime.supervisor.session import OPERATIONS as SUPERVISOR
from pytest_containers.runtime.supervisor.tools import FROM_LAUNCHER
from pytest_containers.runtime.wire import operations
from pytest_containers.runtime.wire.channel import Channel
from pytest_containers.runtime.wire.dispatch import (
    Dispatcher,
    Later,
    receive_operation,
    send_operation,
)
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.message import (
    Blob,
    Descriptor,
    Descriptors,
    Message,
    Operation,
    hints,
    name_of,
    pack,
    unpack,
)
from pytest_containers.runtime.wire.operations.job import Job, argument_type

sys.path.append(str(Path(__file__).parents[2] / "docs"))

DISPATCHERS: list[Dispatcher[Any]] = [SUPERVISOR, FROM_LAUNCHER, LAUNCHER, NETWORK_HELPER, REPORTS]
ONCE = {
    "StartRun",
    "JoinRun",
    "Go",
    "SetUpNetworks",
}  # the first frames of processes, which no loop serves
JOB_PACKAGES = ["runtime.jobs", "images.jobs", "builder.jobs"]


def messages() -> list[type[Message]]:
    """All messages of the wire."""
    found = []
    for module in pkgutil.iter_modules(operations.__path__, f"{operations.__name__}."):
        loaded = importlib.import_module(module.name)
        found += [
            value
            for value in vars(loaded).values()
            if isinstance(value, type)
            and issubclass(value, Message)
            and value.__module__ == module.name
        ]
    return found


MESSAGES = messages()
OPERATIONS: list[type[Operation[Any]]] = [kind for kind in MESSAGES if issubclass(kind, Operation)]


def jobs() -> Iterator[tuple[str, Job[Any, Any]]]:
    for package in JOB_PACKAGES:
        module = importlib.import_module(f"{pytest_containers.__name__}.{package}")
        for name, value in vars(module).items():
            if isinstance(value, Job):
                yield name, value


JOBS = dict(jobs())


def sample(hint: Any) -> Any:
    """A value of a field's type."""
    if hint in (Descriptor, Descriptors, Blob):
        return {Descriptor: 5, Descriptors: [6, 7], Blob: b"\0blob"}[hint]
    if isinstance(hint, types.UnionType):
        return sample(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return get_args(hint)[-1]
    if get_origin(hint) is Sequence:
        return [sample(get_args(hint)[0])]
    if get_origin(hint) is Mapping:
        return {"name": sample(get_args(hint)[1])}
    if hint is Any:
        return {"any": [1, None, "x"]}
    if issubclass(hint, Message):
        return message_of(hint)
    return {str: "text", int: 3, float: 1.5, bool: True}[hint]


def message_of(kind: type[Message]) -> Message:
    return kind(**{name: sample(hint) for name, hint in hints(kind).items()})


def sent(message: Message) -> tuple[dict[str, Any], Sequence[int], bytes]:
    """The fields, descriptors and blob of a message as they arrive."""
    left, right = Channel.pair()
    fields, fds, blob = pack(message)
    left.send({"ok": fields}, (), blob)
    frame = right.receive()
    left.close()
    right.close()
    arrived: dict[str, Any] = frame.body["ok"]
    return arrived, fds, frame.blob


def test_every_operation_has_a_handler() -> None:
    handled = {kind for dispatcher in DISPATCHERS for kind in dispatcher.handlers}
    assert handled == {kind for kind in OPERATIONS if kind.__name__ not in ONCE}


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_handlers_return_what_is_answered(dispatcher: Dispatcher[Any]) -> None:
    for kind, handler in dispatcher.handlers.items():
        module = sys.modules[handler.__module__]
        hints_of = get_type_hints(handler, vars(module))
        returned = hints_of["return"]
        allowed = {kind.last or kind.answer, kind.answer, Later}
        assert set(get_args(returned) or [returned]) <= allowed, handler
        assert kind in hints_of.values(), handler


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_survives_the_journey(kind: type[Message]) -> None:
    message = message_of(kind)
    fields, fds, blob = sent(message)
    arrived = unpack(kind, fields, blob, fds)
    assert arrived == message
    assert type(arrived) is kind


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_defaults_are_not_sent_and_are_there_on_arrival(kind: type[Message]) -> None:
    needed = {name: sample(hint) for name, hint in hints(kind).items() if not hasattr(kind, name)}
    message = kind(**needed)
    fields, fds, blob = sent(message)
    arrived = unpack(kind, fields, blob, fds)
    assert arrived == message
    for name in hints(kind).keys() - needed.keys():
        value = getattr(arrived, name)
        assert value == getattr(kind, name) or list(value) == []


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_odd_fields_are_refused_by_name(kind: type[Message]) -> None:
    fields, fds, blob = sent(message_of(kind))

    def refused(fields: dict[str, Any]) -> str:
        with pytest.raises(FaultError) as caught:
            unpack(kind, copy.deepcopy(fields), blob, fds)
        return str(caught.value)

    surplus = refused({**fields, "surplus": 1})
    assert surplus == f"{kind.__name__}: field 'surplus' is not one of its fields"
    for name, hint in hints(kind).items():
        if name not in fields:
            continue
        if not hasattr(kind, name):
            rest = {key: value for key, value in fields.items() if key != name}
            assert refused(rest) == f"{kind.__name__}: field {name!r} is missing"
        if hint is not Any:
            odd = refused({**fields, name: object()})
            assert odd.startswith(f"{kind.__name__}: field {name!r} must be {name_of(hint)}")
    with pytest.raises(FaultError, match=f"{kind.__name__}: must be an object"):
        unpack(kind, [], blob, fds)


def test_descriptors_are_counted() -> None:
    adopt = operations.session.Adopt
    with pytest.raises(FaultError, match="Adopt: field 'pidfd' is missing: it came without"):
        unpack(adopt, {"label": ""}, b"", [5])
    with pytest.raises(FaultError, match="Adopt: came with 3 descriptors instead of 2"):
        unpack(adopt, {"label": ""}, b"", [5, 6, 7])


def test_messages_do_not_change() -> None:
    wait = operations.containers.WaitExit(container="c1")
    with pytest.raises(AttributeError, match="WaitExit.container cannot be set"):
        wait.container = "c2"  # type: ignore[misc]
    assert repr(wait) == "WaitExit(container='c1')"
    assert wait != operations.containers.WaitExit(container="c2")
    assert wait != operations.containers.Pause(container="c1")


def test_only_the_operation_that_is_waited_for_is_taken() -> None:
    left, right = Channel.pair()
    send_operation(left, operations.inside.Go())
    assert receive_operation(right, operations.inside.Go) == operations.inside.Go()
    send_operation(left, operations.containers.WaitExit(container="c1"))
    with pytest.raises(FaultError, match="'WaitExit' came where Go was expected"):
        receive_operation(right, operations.inside.Go)
    left.close()
    right.close()


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_is_described(kind: type[Message]) -> None:
    assert inspect.getdoc(kind)
    assert not {"op", "id"} & hints(kind).keys() or not issubclass(kind, Operation)


@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.__name__)
def test_errors_of_operations_exist(kind: type[Operation[Any]]) -> None:
    for name in kind.raises:
        assert issubclass(getattr(errors, name), errors.ContainersError)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_resolves(name: str) -> None:
    job = JOBS[name]
    function = getattr(importlib.import_module(job.module), job.name)
    expected = job.args if issubclass(job.args, Message) else None
    assert argument_type(function) is expected
    assert list(inspect.signature(function).parameters)[:2] == ["args", "fds"]


def test_every_job_is_a_constant() -> None:
    """No function is named by a string elsewhere."""
    root = Path(pytest_containers.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        for job in JOBS.values():
            assert f'"{job.function}"' not in text, path


def test_the_page_of_the_docs_is_current() -> None:
    import wire_page

    assert wire_page.PAGE.read_text() == wire_page.render(), (
        "docs/reference/wire.md is stale: run python docs/wire_page.py"
    )
