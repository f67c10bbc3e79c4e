"""Netlink frames, and the kernel's own explanations, with the real kernel."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from pytest_containers.linux.netlink import (
    HEADER,
    NETLINK_SOCK_DIAG,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NetlinkSocket,
    attributes,
)

_RTM_NEWLINK, _RTM_GETLINK = 16, 18


def get_link(index: int, flags: int = NLM_F_REQUEST | NLM_F_ACK) -> bytes:
    body = bytes(4) + index.to_bytes(4, sys.byteorder) + bytes(8)
    return HEADER.pack(HEADER.size + len(body), _RTM_GETLINK, flags, 0, 0) + body


def test_a_dump_yields_every_link() -> None:
    body = bytes(16)
    header = HEADER.pack(HEADER.size + 16, _RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
    before = {name for _, name in socket.if_nameindex()}
    with NetlinkSocket() as sock:
        names = {
            attributes(message, 16)[3].rstrip(b"\0").decode()
            for message in sock.dump(header + body, "list links")
        }
    # Those of other test runs come and go meanwhile.
    assert names >= before & {name for _, name in socket.if_nameindex()} >= {"lo"}


def test_one_thing_is_asked_for() -> None:
    with NetlinkSocket() as sock:
        body = sock.ask(get_link(1, NLM_F_REQUEST), "look at loopback")
        assert attributes(body, 16)[3] == b"lo\0"
        with pytest.raises(OSError, match="look at nothing") as caught:
            sock.ask(get_link(2**30, NLM_F_REQUEST), "look at nothing")
    assert caught.value.errno == errno.ENODEV


def test_answers_are_counted() -> None:
    with NetlinkSocket() as sock:
        sock.request(get_link(1) * 3, "one", "two", "three")
        sock.request(get_link(1), "again")


def test_the_first_failure_is_told_after_all_were_tried() -> None:
    with NetlinkSocket() as sock:
        with pytest.raises(OSError, match="look at nothing") as caught:
            sock.request(
                get_link(1) + get_link(2**30) + get_link(2**29), "look", "look at nothing", "no"
            )
        assert caught.value.errno == errno.ENODEV
        sock.request(get_link(1), "the socket is as good as before")


def test_the_kernel_explains_itself() -> None:
    header = HEADER.pack(HEADER.size + 4, _RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 0, 0)
    with (
        NetlinkSocket() as sock,
        pytest.raises(OSError, match="make a link") as caught,
    ):
        sock.request(header + bytes(4), "make a link")
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)


def test_a_refused_dump_is_an_error() -> None:
    header = HEADER.pack(HEADER.size + 4, 99, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
    with NetlinkSocket(NETLINK_SOCK_DIAG) as sock, pytest.raises(OSError, match="list sockets"):
        list(sock.dump(header + bytes(4), "list sockets"))


def test_the_descriptor_is_closed_and_not_inherited() -> None:
    with NetlinkSocket() as sock:
        fd = sock._sock.fileno()
        assert not os.get_inheritable(fd)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("tail", [b"", b"\x01", b"\x00\x00\x00\x00", b"\x08\x00\x02\x00ab"])
def test_damaged_attributes_end_the_list(tail: bytes) -> None:
    body = b"HEAD" + b"\x05\x00\x01\x80x\0\0\0" + tail
    assert attributes(body, 4)[1] == b"x"
