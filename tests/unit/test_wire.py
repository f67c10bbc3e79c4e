"""Channel, peer and loop: frames, descriptors, order, ends."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from pytest_containers.runtime.channel import Channel, ChannelClosed, Frame
from pytest_containers.runtime.loop import Loop
from pytest_containers.runtime.messages import Fault
from pytest_containers.runtime.peer import Peer


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


def test_what_is_not_our_protocol_closes() -> None:
    left, right = Channel.pair()
    left.sock.sendall(b"\xff" * 100)
    with pytest.raises(ChannelClosed, match="beyond the limit"):
        right.receive()
    left.close()
    right.close()


def test_peers_ask_each_other() -> None:
    loop = Loop()
    left, right = Channel.pair()
    answers: list[object] = []

    def handle(peer: Peer, frame: Frame) -> None:
        if frame.body["op"] == "add":
            peer.answer(frame.body["id"], frame.body["a"] + frame.body["b"])
        elif frame.body["op"] == "nosuch":
            peer.refuse(frame.body["id"], Fault("SpecError", "no", {}))

    one = Peer(loop, left, handle, lambda: answers.append("lost"))
    two = Peer(loop, right, handle, lambda: answers.append("lost"))
    one.request({"op": "add", "a": 1, "b": 2}, lambda frame: answers.append(frame.body["ok"]))  # type: ignore[union-attr]

    def refused(result: Frame | Fault) -> None:
        answers.append(result)
        two.close()

    two.request({"op": "nosuch"}, refused)
    one.request({"op": "never"}, lambda result: (answers.append(result), loop.stop()))
    loop.run()
    assert 3 in answers
    assert Fault("SpecError", "no", {}) in answers
    assert "lost" in answers
    one.close()


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
    loop.call_idle(lambda: seen.append(0))
    loop.run()
    assert sorted(seen) == [0, 1, 2, 3]
    assert [one for one in seen if one] == [1, 2, 3]
