"""Messages of the network helper: those that were encoded ahead, and pyroute2's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_containers.runtime.network import codecs
from pytest_containers.runtime.network.encoded import FORMS
from pytest_containers.runtime.network.messages import AF_INET, AF_INET6, Encoder

IP4 = st.ip_addresses(v=4).map(str)
IP6 = st.ip_addresses(v=6).map(str)
INDEX = st.integers(0, 2**31 - 1)
LENGTH4, LENGTH6 = st.integers(1, 32), st.integers(1, 128)
MAC = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))
LINK = st.text("abcxyz0123456789", min_size=6, max_size=6)
FLAG = st.booleans()
Ask = Callable[[Encoder], bytes]


def none() -> codecs.Codecs:
    raise AssertionError("pyroute2 was loaded")


AHEAD = Encoder(none)
PYROUTE2 = Encoder(lambda: codecs.load(sys.path), {})


@st.composite
def asked(draw: Any) -> Ask:
    """Whatever the factory and the link to the host ask for, with any values."""
    index, ip4, ip6 = draw(INDEX), draw(IP4), draw(IP6)
    length4, length6, link = draw(LENGTH4), draw(LENGTH6), draw(LINK)
    allow, delete = draw(FLAG), draw(FLAG)
    first, last = sorted(draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535))))
    gateway, mac, other = draw(IP4), draw(MAC), draw(INDEX)
    return draw(
        st.sampled_from(
            [
                lambda e: e.set_up(index),
                lambda e: e.get_link(index),
                lambda e: e.delete_link(index),
                lambda e: e.silence_ipv6(index),
                lambda e: e.set_address(index, mac),
                lambda e: e.set_master(index, other),
                lambda e: e.bridge(link, mac, index),
                lambda e: e.veth(link, index, ("eth0", 2), other),
                lambda e: e.veth(f"pc{link}00", 0, ("host0", 0), other),
                lambda e: e.address(ip4, length4, index, delete=delete),
                lambda e: e.address(ip6, length6, index, deprecated=allow),
                lambda e: e.route(ip4, length4, index),
                lambda e: e.route(ip4, length4, index, gateway=gateway),
                lambda e: e.route(ip4, length4, index, source=gateway, delete=delete),
                lambda e: e.route(ip4, length4, index, gateway=gateway, onlink=True, source=ip4),
                lambda e: e.route(ip6, length6, index, gateway=ip6),
                lambda e: e.rule(AF_INET, 100, allow=True, iif="lo"),
                lambda e: e.rule(AF_INET6, 100, allow=True, iif="lo"),
                lambda e: e.rule(AF_INET, 100, allow=True, iif="host0"),
                lambda e: e.rule(
                    AF_INET, 200, allow=True, iif=link, destination=(ip4, length4), delete=delete
                ),
                lambda e: e.rule(
                    AF_INET6, 200, allow=True, iif=link, destination=(ip6, length6), delete=delete
                ),
                lambda e: e.rule(AF_INET, 400, allow=False, destination=(ip4, length4)),
                lambda e: e.rule(AF_INET6, 400, allow=False, destination=(ip6, length6)),
                lambda e: e.rule(
                    AF_INET, 300, allow=True, destination=(ip4, 32), ip_protocol=6,
                    destination_ports=(first, last),
                ),
                lambda e: e.rule(
                    AF_INET, 300, allow=True, destination=(ip4, 32), ip_protocol=17,
                    destination_ports=(first, last),
                ),
                lambda e: e.rule(AF_INET, 300, allow=True, destination=(ip4, 32), ip_protocol=1),
            ]
        )
    )  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(asked())
def test_what_was_encoded_ahead_is_what_pyroute2_encodes(ask: Ask) -> None:
    assert ask(AHEAD) == ask(PYROUTE2)


def test_pyroute2_encodes_what_was_not_foreseen() -> None:
    unforeseen: Ask = lambda e: e.rule(AF_INET, 7, allow=True, source=("10.0.0.0", 8))  # noqa: E731
    with pytest.raises(AssertionError, match="pyroute2 was loaded"):
        unforeseen(AHEAD)
    assert unforeseen(Encoder(lambda: codecs.load(sys.path))) == unforeseen(PYROUTE2)


def test_places_do_not_overlap() -> None:
    for message, places in FORMS.values():
        taken = [
            offset + step for size, offsets in places for offset in offsets for step in range(size)
        ]
        assert len(taken) == len(set(taken))
        assert max(taken, default=0) < len(message)
