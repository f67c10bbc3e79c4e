"""The socket by which workers join a run: other programs of the user may connect to it as well."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import pytest_containers as pc
from pytest_containers.engines.native import broker as brokers
from pytest_containers.engines.native.broker import NativeBroker
from pytest_containers.runtime.wire.channel import encode


@pytest.fixture
def broker(engine: pc.Engine) -> Iterator[NativeBroker]:
    broker = NativeBroker(lambda: engine)
    yield broker
    broker.close()


def say(broker: NativeBroker, data: bytes) -> bytes:
    """Send something, and return the answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(f"\0{broker.address}")
        sock.sendall(data)
        return sock.recv(1000)


@pytest.mark.parametrize(
    "data",
    [
        encode({}, 0, b""),
        encode({"op": "StartRun", "id": 0}, 0, b""),
        encode({"op": "JoinRun", "id": 0, "label": 3}, 0, b""),
        encode({"op": "JoinRun", "id": 0, "label": "", "more": 1}, 0, b""),
        b"",
    ],
    ids=["empty", "another operation", "a wrong type", "an unknown field", "silence"],
)
def test_workers_join_after_other_programs(
    broker: NativeBroker, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(brokers, "_PATIENCE_S", 0.1)
    assert say(broker, data) == b""
    client = brokers.connect(broker.address)
    try:
        assert client.facts.runner
    finally:
        client.close()
