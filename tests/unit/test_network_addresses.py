"""Address arithmetic, templates, and what a network numbers."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_containers.runtime.network.addresses import (
    BLOCK_SIZE,
    FIRST_NETWORK,
    FIRST_PREFIX,
    GATEWAY_LOW,
    HOST_LOW,
    LAST_NETWORK,
    LAST_PREFIX,
    Pool,
    RunAddresses,
    block_addresses,
    block_start,
    free_prefixes,
    mac_text,
)
from pytest_containers.runtime.network.messages import Template
from pytest_containers.runtime.network.templates import bridge_name, no_mark

networks = st.integers(FIRST_NETWORK, LAST_NETWORK)


def number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def test_addresses_of_a_run() -> None:
    run = RunAddresses(77, bytes.fromhex("0102030405"))
    assert run.prefix == "10.77.0.0/16"
    assert run.prefix6 == "fd01:203:405::/48"
    assert run.ip4(GATEWAY_LOW) == "10.77.0.1"
    assert run.ip4(HOST_LOW) == "10.77.255.254"
    assert run.ip6(3, 0xC1) == "fd01:203:405:3::c1"
    assert mac_text(run.mac(0x1234)) == "02:70:63:4d:12:34"
    assert run.mac(1) != run.mac(1, near=True)


@pytest.mark.parametrize(("octet", "global_id"), [(256, bytes(5)), (-1, bytes(5)), (1, bytes(4))])
def test_what_is_no_prefix(octet: int, global_id: bytes) -> None:
    with pytest.raises(ValueError, match="no run prefix"):
        RunAddresses(octet, global_id)


@given(networks, networks)
def test_blocks_are_apart_and_spare_gateway_and_host(one: int, other: int) -> None:
    ours = set(block_addresses(one))
    assert len(ours) == BLOCK_SIZE - 2
    assert not ours & {GATEWAY_LOW, HOST_LOW, block_start(one)}
    assert one == other or not ours & set(block_addresses(other))


@given(networks)
def test_names_of_bridges_have_one_length(network: int) -> None:
    assert len(bridge_name(network)) == len("p#####")


@given(st.binary(min_size=5, max_size=5))
def test_a_random_number_holds_no_mark(value: bytes) -> None:
    assert len(no_mark(value)) == 5
    assert b"\xa5" not in no_mark(value)


def test_a_pool_gives_fresh_numbers_before_used_ones() -> None:
    pool = Pool([1, 2, 3])
    first = pool.take()
    pool.add([first])
    assert [pool.take() for _ in range(3)] == [2, 3, 1]
    with pytest.raises(LookupError):
        pool.take()


def test_every_prefix_is_free_on_an_empty_host() -> None:
    found = list(free_prefixes([(0, 0)], 5))
    assert sorted(found) == list(range(FIRST_PREFIX, LAST_PREFIX + 1))
    assert found[0] == FIRST_PREFIX + 5


@pytest.mark.parametrize(
    ("address", "length"), [("10.100.0.0", 16), ("10.100.3.7", 32), ("10.100.128.0", 17)]
)
def test_what_the_host_uses_is_left_alone(address: str, length: int) -> None:
    found = list(free_prefixes([(number(address), length)], 0))
    assert 100 not in found
    assert len(found) == LAST_PREFIX - FIRST_PREFIX


def test_a_host_that_routes_all_of_ten_elsewhere() -> None:
    """A company's network: something must be taken, but not what has a route of its own."""
    taken = [(number("10.0.0.0"), 8), (number("10.96.0.0"), 11)]
    found = list(free_prefixes(taken, 0))
    assert not set(range(96, 128)) & set(found)
    assert set(range(128, 256)) <= set(found)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=6))
def test_nothing_free_overlaps_anything_specific(taken: list[tuple[int, int]]) -> None:
    prefixes = [ipaddress.ip_network((address, length), strict=False) for address, length in taken]
    specific = [prefix for prefix in prefixes if prefix.prefixlen > 8]
    for octet in free_prefixes(taken, 0):
        ours = ipaddress.ip_network(f"10.{octet}.0.0/16")
        assert not any(ours.overlaps(prefix) for prefix in specific)


def test_a_template_fills_every_place() -> None:
    template = Template(b"aaXXbbXXccYY", x=b"XX", y=b"YY")
    assert template.fill(x=b"12", y=b"34") == b"aa12bb12cc34"
    assert template.fill(x=b"56", y=b"78") == b"aa56bb56cc78"


def test_a_template_without_its_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for y"):
        Template(b"aaXX", x=b"XX", y=b"YY")
