"""Channel, peer and loop: frames, descriptors, order, ends."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_containers.runtime.wire.channel import Channel, ChannelClosed, Frame
from pytest_containers.runtime.wire.dispatch import LATER, Call, Dispatcher, Later
from pytest_containers.runtime.wire.faults import Fault, FaultError
from pytest_containers.runtime.wire.loop import Loop
from pytest_containers.runtime.wire.message import Descriptor, Message, Operation
from pytest_containers.runtime.wire.peer import Peer
from pytest_containers.runtime.wire.tasks import Future, Task, run_task, sleep


def test_frames_with_descriptors_and_blobs() -> None:
    left, right = Channel.pair()
    reader, writer = os.pipe()
    left.send({"n": 1})
    left.send({"n": 2}, [reader, writer], b"blob")
    left.send({"n": 3}, blob=b"x" * 300_00)
    assert right.receive() == Frame({"n": 1}, b"", [])
    second = right.receive()
    assert (second.body, second.blob, len(second.fds)) == ({"n": 2}, b"blob", 2)
    os.write(second.fds[1], b"hi")
    assert os.read(second.fds[0], 10) == b"hi"
    assert len(right.receive().blob) == 30_000
    for fd in (reader, writer, *second.fds):
        assert not os.get_inheritable(fd)
        os.close(fd)
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive()
    right.close()


@pytest.mark.parametrize("count", [250, 251, 300])  # both ends within a limit of 1024
def test_more_descriptors_than_a_message_has_room_for(count: int) -> None:
    left, right = Channel.pair()
    fds = [os.open(f"/proc/self/fd/{left.fileno()}", os.O_PATH) for _ in range(count)]
    left.send({"n": 1}, fds, b"blob")
    left.send({"n": 2}, fds[:1])
    first = right.receive()
    assert (first.body, first.blob) == ({"n": 1}, b"blob")
    second = right.receive()
    assert (second.body, len(second.fds)) == ({"n": 2}, 1)
    assert len(first.fds) == len(set(first.fds)) == count
    for fd in (*fds, *first.fds, *second.fds):
        os.close(fd)
    left.close()
    right.close()


def test_what_is_not_our_protocol_closes() -> None:
    left, right = Channel.pair()
    left.sock.sendall(b"\xff" * 100)
    with pytest.raises(ChannelClosed, match="beyond the limit"):
        right.receive()
    left.close()
    right.close()


class Sum(Message):
    total: int


class Add(Operation[Sum]):
    a: int
    b: int = 0


class Refuse(Operation[None]):
    pass


class Break(Operation[None]):
    pass


class Never(Operation[None]):
    pass


CALCULATOR: Dispatcher[list[str]] = Dispatcher("{} of numbers")


@CALCULATOR.handles(Add)
def _add(log: list[str], op: Add, call: Call[Sum]) -> Sum:
    log.append(call.name)
    return Sum(total=op.a + op.b)


@CALCULATOR.handles(Refuse)
def _refuse(log: list[str], op: Refuse, call: Call[None]) -> None:
    raise FaultError("SpecError", "no")


@CALCULATOR.handles(Break)
def _break(log: list[str], op: Break, call: Call[None]) -> None:
    raise FileNotFoundError(2, "No such file", "/x")


@CALCULATOR.handles(Never)
def _never(log: list[str], op: Never, call: Call[None]) -> Later:
    return LATER


def ask(peer: Peer, operation: Operation[Any], done: Callable[[Any], object]) -> None:
    """Have `done` called with the answer, or the `Fault`."""

    async def work() -> None:
        try:
            answer = await peer.request(operation)
        except FaultError as error:
            answer = error.fault
        done(answer)

    run_task(work())


def test_peers_ask_each_other() -> None:
    loop = Loop()
    left, right = Channel.pair()
    answers: list[object] = []
    log: list[str] = []

    def handle(peer: Peer, frame: Frame) -> None:
        CALCULATOR.dispatch(log, peer, frame)

    one = Peer(loop, left, handle, lambda: answers.append("lost"))
    two = Peer(loop, right, handle, lambda: answers.append("lost"))
    ask(one, Add(a=1, b=2), answers.append)
    ask(two, Add(a=3), answers.append)
    ask(two, Break(), answers.append)

    def refused(result: object) -> None:
        answers.append(result)
        two.close()

    ask(two, Refuse(), refused)
    ask(one, Never(), lambda result: (answers.append(result), loop.stop()))
    loop.run()
    assert Sum(total=3) in answers
    assert Fault("SpecError", "no", {}) in answers
    assert Fault("StartError", "Break of numbers: /x: No such file", {"errno": 2}) in answers
    assert "lost" in answers
    assert log == ["Add", "Add"]
    one.close()


def test_what_is_told_is_not_answered() -> None:
    loop = Loop()
    left, right = Channel.pair()
    log: list[str] = []
    asker = Peer(loop, left, lambda peer, frame: None, loop.stop)
    other = Peer(loop, right, lambda peer, frame: CALCULATOR.dispatch(log, peer, frame), loop.stop)
    for operation in (Add(a=1), Refuse(), Break()):
        asker.tell(operation)
    answers: list[object] = []
    ask(asker, Add(a=2), lambda answer: (answers.append(answer), loop.stop()))
    received: list[Frame] = []
    take = asker._dispatch
    asker._dispatch = lambda frame: (received.append(frame), take(frame))  # type: ignore[method-assign]
    loop.run()
    assert log == ["Add", "Add"]
    assert answers == [Sum(total=2)]
    assert len(received) == 1
    asker.close()
    other.close()


class Relay(Operation[Sum]):
    """Is answered with what another process says."""

    how: str


class Front:
    """A process in the middle: what it does for a request, it does in callbacks."""

    def __init__(self, loop: Loop, back: Peer) -> None:
        self.loop = loop
        self.back = back
        self.fds: list[int] = []


FRONT: Dispatcher[Front] = Dispatcher()


@FRONT.handles(Relay)
def _relay(front: Front, op: Relay, call: Call[Sum]) -> Later:
    def answered(answer: Sum | Fault) -> None:
        if op.how == "answer":
            raise KeyError("in an answer")
        if op.how == "timer":
            front.loop.call_later(0.001, lambda: {}["in a timer"])
        elif op.how == "reader":
            reader, writer = os.pipe()
            front.loop.add_reader(reader, lambda: {}["in a reader"])
            front.fds.append(reader)
            os.close(writer)
        else:
            assert isinstance(answer, Sum)
            call.answer(answer)

    ask(front.back, Add(a=1, b=2), answered)
    return LATER


@pytest.mark.parametrize("how", ["answer", "timer", "reader"])
def test_a_defect_in_a_callback_reaches_the_request_it_worked_for(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop()
    test_end, front_end = Channel.pair()
    to_back, back_end = Channel.pair()
    front = Front(loop, Peer(loop, to_back, lambda *_: None, loop.stop))
    tests = Peer(loop, test_end, lambda *_: None, loop.stop)
    peers = [
        front.back,
        tests,
        Peer(loop, front_end, lambda peer, frame: FRONT.dispatch(front, peer, frame), loop.stop),
        Peer(loop, back_end, lambda peer, frame: CALCULATOR.dispatch([], peer, frame), loop.stop),
    ]
    answers: list[object] = []
    ask(tests, Relay(how=how), lambda answer: (answers.append(answer), loop.stop()))
    loop.run()
    (fault,) = answers
    assert isinstance(fault, Fault)
    assert fault.message.endswith(f"Relay: KeyError: 'in {'an' if how == 'answer' else 'a'} {how}'")
    assert "in _relay.<locals>." in fault.notes[0]
    assert fault.message in capsys.readouterr().err
    loop._stopped = False
    ask(tests, Relay(how="well"), lambda answer: (answers.append(answer), loop.stop()))
    loop.run()
    assert answers[-1] == Sum(total=3)
    if how == "reader":
        assert capsys.readouterr().err.count("in a reader") < 40, "it is given up"
    for peer in peers:
        peer.close()
    for fd in front.fds:
        os.close(fd)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"op": "Add", "a": "1"}, "Add: field 'a' must be int, not '1'"),
        ({"op": "Add", "a": True}, "Add: field 'a' must be int, not True"),
        ({"op": "Add", "b": 1}, "Add: field 'a' is missing"),
        ({"op": "Add", "a": 1, "c": 1}, "Add: field 'c' is not one of its fields"),
        ({"op": "Subtract"}, "the test process has no operation 'Subtract'"),
        ({"op": None}, "the test process has no operation None"),
        ({"op": ["Add"]}, "the test process has no operation ['Add']"),
    ],
)
def test_odd_requests_are_refused_by_name(body: dict[str, object], message: str) -> None:
    left, right = Channel.pair()
    reader, writer = os.pipe()
    left.send({**body, "id": 7})
    CALCULATOR.dispatch([], right, right.receive())
    assert left.receive().body["error"][:2] == ["ContainersError", message]
    left.send({"op": "Add", "id": 8, "a": 1}, [reader])
    frame = right.receive()
    CALCULATOR.dispatch([], right, frame)
    answer = left.receive().body
    assert answer["id"] == 8
    assert answer["error"][1] == "Add: came with 1 descriptors instead of 0"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(frame.fds[0])
    for fd in (reader, writer):
        os.close(fd)
    left.close()
    right.close()


def test_a_peer_that_does_not_read_stops_nobody() -> None:
    loop = Loop()
    left, right = socket.socketpair()
    peer = Peer(loop, Channel(left), lambda *_: None, loop.stop)
    reader, writer = os.pipe()
    for _ in range(100):
        peer.send({"n": 1}, [reader], b"x" * 100_000)
    os.close(reader)
    os.close(writer)
    channel = Channel(right)
    received: list[Frame] = []
    thread = threading.Thread(target=lambda: received.extend(channel.receive() for _ in range(100)))
    thread.start()
    loop.call_later(0.5, loop.stop)
    loop.run()
    thread.join(10)
    assert len(received) == 100
    for frame in received:
        os.close(frame.fds[0])
    peer.close()
    channel.close()


def test_timers_run_in_order_and_can_be_cancelled() -> None:
    loop = Loop()
    seen: list[int] = []
    loop.call_later(0.02, lambda: (seen.append(3), loop.stop()))
    loop.call_later(0.01, lambda: seen.append(2))
    loop.call_later(0, lambda: seen.append(1))
    loop.cancel(loop.call_later(0.005, lambda: seen.append(99)))
    loop.run()
    assert seen == [1, 2, 3]


class Take(Message):
    end: Descriptor


class OpenPipe(Operation[Take]):
    pass


class AddLater(Operation[Sum]):
    a: int


class Fail(Operation[None]):
    pass


class Adder:
    """Answers when `go` is done."""

    def __init__(self) -> None:
        self.go: Future[int] = Future()
        self.tasks: dict[int, Task] = {}
        self.writer = -1


ADDER: Dispatcher[Adder] = Dispatcher("{} of numbers")


@ADDER.handles(OpenPipe)
async def _open_pipe(adder: Adder, op: OpenPipe, call: Call[Take]) -> Later:
    reader, adder.writer = os.pipe()
    call.answer(Take(end=reader))
    os.close(reader)
    return LATER


@ADDER.handles(AddLater)
async def _add_later(adder: Adder, op: AddLater, call: Call[Sum]) -> Sum:
    return Sum(total=op.a + await adder.go)


@ADDER.handles(Fail)
async def _fail(adder: Adder, op: Fail, call: Call[None]) -> None:
    await adder.go
    raise KeyError("lost")


@contextlib.contextmanager
def _serving() -> Iterator[tuple[Loop, Peer, Adder]]:
    loop, adder = Loop(), Adder()
    left, right = Channel.pair()

    def handle(peer: Peer, frame: Frame) -> None:
        ADDER.dispatch(adder, peer, frame, adder.tasks)

    caller = Peer(loop, left, lambda *_: None, loop.stop)
    callee = Peer(loop, right, handle, loop.stop)
    loop.call_later(10, loop.stop)
    yield loop, caller, adder
    caller.close()
    callee.close()


def test_a_defect_in_a_task_is_told_to_its_caller_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _serving() as (loop, caller, adder):
        answers: list[Any] = []

        def answered(answer: Any) -> None:
            answers.append(answer)
            if len(answers) == 3:
                loop.stop()

        ask(caller, Fail(), answered)
        ask(caller, AddLater(a=1), answered)
        ask(caller, Add(a=1), answered)
        loop.call_later(0.01, lambda: adder.go.set(1))
        loop.run()
        assert answers[0].message == "the test process has no operation 'Add'"
        assert answers[1].message == (
            "a defect of pytest-containers in the test process: Fail: KeyError: 'lost'"
        )
        assert answers[2] == Sum(total=2)
        assert adder.tasks == {}
        assert "KeyError: 'lost'" in capsys.readouterr().err


def test_descriptors_of_an_answer_that_nothing_waits_for_are_closed() -> None:
    with _serving() as (loop, caller, adder):

        async def give_up() -> None:
            await caller.request(OpenPipe())

        run_task(give_up()).cancel()
        adder.go.set(1)
        ask(caller, AddLater(a=1), lambda answer: loop.stop())
        loop.run()
        with pytest.raises(BrokenPipeError):
            os.write(adder.writer, b"x")
        os.close(adder.writer)


def test_a_request_that_is_cancelled_is_not_answered() -> None:
    with _serving() as (loop, caller, adder):
        answers: list[Any] = []
        ask(caller, AddLater(a=1), answers.append)
        run_task(_cancel_all(loop, adder))
        loop.run()
        assert answers == []
        assert adder.tasks == {}


async def _cancel_all(loop: Loop, adder: Adder) -> None:
    while not adder.tasks:
        await sleep(loop, 0.001)
    for task in list(adder.tasks.values()):
        task.cancel()
    adder.go.set(1)
    await sleep(loop, 0.01)
    loop.stop()


def test_a_request_to_a_side_that_is_gone_fails_at_once() -> None:
    loop = Loop()
    left, right = Channel.pair()
    peer = Peer(loop, left, lambda *_: None, loop.stop)
    right.close()
    loop.run()
    answer = peer.request(Add(a=1))
    assert answer.done
    with pytest.raises(FaultError, match="the other half of the run is gone"):
        answer.result()


IN_FLIGHT = """
import errno, os, resource, socket, threading, time
from pytest_containers.runtime.wire.channel import Channel
left, right = Channel.pair()
full, sink = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
if os.geteuid() == 0:
    os.setresuid(54321, 54321, 54321)  # root has no limit
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
full.setblocking(False)
refused = None
while refused is None:
    try:
        socket.send_fds(full, [b"x"], [0] * 16)
    except OSError as error:
        refused = error.errno
assert refused == errno.ETOOMANYREFS, refused

def empty():
    time.sleep(0.2)
    sink.close()

threading.Thread(target=empty).start()
left.send({"op": "x"}, [0])
print(len(right.receive().fds))
"""


def test_a_limit_of_descriptors_in_flight_is_waited_for() -> None:
    command = [sys.executable, "-c", IN_FLIGHT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stdout == "1\n", done.stderr
