"""From an operation that has arrived to its handler, and from there to the answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from pytest_containers.runtime.wire.channel import Channel, Frame
from pytest_containers.runtime.wire.defects import context, defect, report
from pytest_containers.runtime.wire.faults import Fault, FaultError, from_os_error, not_encodable
from pytest_containers.runtime.wire.message import (
    TOLD,
    Message,
    Operation,
    close_all,
    pack,
    pack_request,
    unpack,
)
from pytest_containers.runtime.wire.operations.run import RunFacts
from pytest_containers.runtime.wire.tasks import Future, Task, run_task

_A = TypeVar("_A", bound=Message | None)
_O = TypeVar("_O", bound=Operation[Any])
_S = TypeVar("_S")


class Later:
    """The result of a handler that will answer later, by its `Call`."""


LATER = Later()


class Sender(Protocol):
    """A way to send frames: a `Channel` or a `Peer`. The caller keeps the descriptors."""

    def send(self, body: dict[str, Any], fds: Sequence[int] = (), blob: bytes = b"") -> None:
        """Send one frame."""


class Call(Generic[_A]):
    """A request that waits for its answer.

    Args:
        sender: Sends the answer.
        number: Of the request; `TOLD` for one that nobody waits for, which is not answered.
        name: Of the operation.
        fields: As they came.

    Attributes:
        id: Number of the request, or `TOLD`.
        name: Of the operation.
        traced: True if steps are written to a file (`trace`).
    """

    __slots__ = ("_sender", "id", "name")
    traced = False

    def __init__(self, sender: Sender, number: int, name: str, fields: Mapping[str, Any]) -> None:
        self._sender = sender
        self.id: int = number
        self.name: str = name

    def answer(self, answer: Message | None) -> None:
        """Answer; the caller keeps the descriptors in it."""
        if self.id == TOLD:
            return
        if answer is None:
            self._sender.send({"id": self.id, "ok": None})
        else:
            fields, fds, blob = pack(answer)
            self._sender.send({"id": self.id, "ok": fields}, fds, blob)

    def refuse(self, reason: Fault) -> None:
        """Answer with an error."""
        if self.id != TOLD:
            self._sender.send({"id": self.id, "error": reason})

    def step(self, label: str) -> None:
        """Note that a step of the work is done (`trace`)."""

    def broken(self, error: Exception) -> None:
        """Report a defect, and refuse the request with it; an earlier answer stands."""
        report(self.name, error)
        self.refuse(defect(self.name, error))


new_call: Callable[[Sender, int, str, Mapping[str, Any]], Call[Any]] = Call
"""Makes the `Call` of a request."""

_Answer = Message | Later | None
Handler = Callable[[_S, _O, Call[Any]], "_Answer | Coroutine[Future[Any], None, _Answer]"]


def greeting(sender: Sender) -> Call[RunFacts]:
    """The request of a test process for the facts of the run: its first, with number 0."""
    return new_call(sender, 0, "StartRun", {})


class Dispatcher(Generic[_S]):
    """The operations that a process serves on one link.

    Handlers are functions ``(server, operation, call)``, ``async`` or not. They return the answer,
    or `LATER` if they have given it to `call`, and own the descriptors of the operation. A
    `FaultError` or `OSError` that they raise becomes the answer; any other exception is a defect.

    Args:
        doing: Says what an operation that failed was about: ``"{} on the host"``.
    """

    def __init__(self, doing: str = "{}") -> None:
        self._doing = doing
        self._handlers: dict[str, tuple[type[Operation[Any]], Handler[_S, Any]]] = {}

    def handles(self, kind: type[_O]) -> Callable[[Handler[_S, _O]], Handler[_S, _O]]:
        """Decorate the handler of an operation."""

        def register(handler: Handler[_S, _O]) -> Handler[_S, _O]:
            self._handlers[kind.__name__] = (kind, handler)
            return handler

        return register

    @property
    def handlers(self) -> dict[type[Operation[Any]], Handler[_S, Any]]:
        """The handlers by operation."""
        return dict(self._handlers.values())

    def fail_in(self, names: Sequence[str]) -> None:
        """Let operations fail by a defect, to try what happens then: see `StartRun.fail_in`."""
        for name in names:
            process, _, operation = name.partition("/")
            if process == context.process and operation in self._handlers:
                self._handlers[operation] = (self._handlers[operation][0], fail)

    def dispatch(
        self, server: _S, sender: Sender, frame: Frame, tasks: dict[int, Task] | None = None
    ) -> None:
        """Have the operation in `frame` handled, and answered by `sender`.

        Args:
            server: Passed to the handler.
            sender: The way back.
            frame: The request.
            tasks: Gets the task of a handler that waits, by the number of its request, until it
                has ended. Cancel it there, and there is no answer.
        """
        body = frame.body
        name, number = body.pop("op", None), body.pop("id", TOLD)
        call = new_call(sender, number, name, body)
        context.owner = call
        try:
            if not isinstance(name, str) or name not in self._handlers:
                raise FaultError(
                    "ContainersError",
                    f"the {context.process} has no operation {name!r}",
                    operation=str(name),
                )
            kind, handler = self._handlers[name]
            operation = unpack(kind, body, frame.blob, frame.fds)
        except FaultError as error:
            close_all(frame.fds)
            call.refuse(error.fault)
            return
        try:
            answer = handler(server, operation, call)
        except Exception as error:  # noqa: BLE001 - one request's defect is not the others' end
            self._refuse(call, error)
        else:
            if answer is None or isinstance(answer, Message):
                call.answer(answer)
            elif not isinstance(answer, Later):
                self._run(answer, call, {} if tasks is None else tasks)

    def _run(
        self,
        work: Coroutine[Future[Any], None, _Answer],
        call: Call[Any],
        tasks: dict[int, Task],
    ) -> None:
        task = run_task(self._answer(work, call))
        if not task.ended.done:
            tasks[call.id] = task
            task.ended.when_done(lambda: tasks.pop(call.id, None))

    async def _answer(self, work: Coroutine[Future[Any], None, _Answer], call: Call[Any]) -> None:
        try:
            answer = await work
        except Exception as error:  # noqa: BLE001 - one request's defect is not the others' end
            self._refuse(call, error)
        else:
            if not isinstance(answer, Later):
                call.answer(answer)

    def _refuse(self, call: Call[Any], error: Exception) -> None:
        if isinstance(error, FaultError):
            call.refuse(error.fault)
        elif isinstance(error, OSError):
            call.refuse(from_os_error("StartError", self._doing.format(call.name), error))
        elif isinstance(error, UnicodeEncodeError):
            call.refuse(not_encodable(error))
        else:
            call.broken(error)


def fail_at_start(fail_in: Sequence[str]) -> None:
    """Fail by a defect if the start of this process is to have one: see `StartRun.fail_in`."""
    if f"{context.process}/start" in fail_in:
        fail()


def fail(*args: object) -> NoReturn:
    """Stand in for a function that has a defect."""
    raise KeyError("injected")


def send_operation(channel: Channel, operation: Operation[Any]) -> None:
    """Send an operation that is not answered; the caller keeps its descriptors.

    Raises:
        ChannelClosed: The other side is gone.
    """
    channel.send(*pack_request(operation, TOLD))


def receive_operation(channel: Channel, kind: type[_O]) -> _O:
    """Wait for a request of one kind.

    Raises:
        ChannelClosed: The other side is gone.
        FaultError: Something else came.
    """
    frame = channel.receive()
    name = frame.body.pop("op", None)
    frame.body.pop("id", None)
    if name != kind.__name__:
        close_all(frame.fds)
        raise FaultError("ContainersError", f"{name!r} came where {kind.__name__} was expected")
    return unpack(kind, frame.body, frame.blob, frame.fds)
