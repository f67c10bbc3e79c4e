"""The rtnetlink messages that a run's networks are made of (rtnetlink(7)).

pyroute2 encodes. That costs it 45 ms to be imported and about 0.5 ms a message, more than the
kernel needs for most of them. So messages of each form that a run needs were encoded ahead, by
``python docs/generate.py``, and only their numbers and addresses are filled in (`encoded.FORMS`);
pyroute2 itself is imported for a form that is not among them. What is sent for every network or
container is filled in twice: a `Template` has marks for what is another each time (0.003 ms).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_containers.linux.netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    attribute,
)
from pytest_containers.runtime.network.codecs import Codecs
from pytest_containers.runtime.network.encoded import FORMS, Form

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE = 32, 33
RTM_SETNEIGHTBL = 67

AF_INET, AF_INET6 = 2, 10

_SET = NLM_F_REQUEST | NLM_F_ACK
_NEW = _SET | NLM_F_CREATE | NLM_F_EXCL
_IFF_UP = 1
_IFA_F_NODAD, _FOREVER = 2, 0xFFFFFFFF
_TABLE_MAIN = 254
_PROTO_STATIC = 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_TYPE_UNICAST, _RULE_TO_TABLE, _RULE_PROHIBIT = 1, 1, 8
_ADDR_GEN_MODE_NONE = 1
_NDTA_NAME, _NDTA_PARMS, _NDTPA_IFINDEX = 1, 6, 1
# Base of the time in which an answer is believed; between questions, of which there are three;
# before the first question about a neighbour that is no longer believed.
_DOUBTS = ((4, 500), (5, 100), (7, 100))

_NUMBERS = {"index", "IFLA_NET_NS_FD", "IFLA_MASTER", "RTA_OIF"}
_LENGTHS = {"prefixlen", "dst_len", "src_len"}
_ADDRESSES = {
    "IFA_ADDRESS", "IFA_LOCAL", "RTA_DST", "RTA_GATEWAY", "RTA_PREFSRC", "FRA_SRC",
    "FRA_DST",
}  # fmt: skip
_NAMES = {"IFLA_IFNAME", "FRA_IIFNAME"}
_OTHERS = {"IFLA_ADDRESS": "mac", "FRA_DPORT_RANGE": "ports"}

Fields = Mapping[str, Any]
Attributes = Sequence[Any]


class Template:
    """An encoded message with places to fill in.

    Args:
        message: Encoded with the values of `places` in it.
        places: For each name the bytes that stand for it; they must occur in the message.
    """

    def __init__(self, message: bytes, **places: bytes) -> None:
        self._message = message
        self._offsets: list[tuple[str, int]] = []
        for name, mark in places.items():
            offset = message.find(mark)
            if offset < 0:
                raise ValueError(f"the message has no place for {name}")
            while offset >= 0:
                self._offsets.append((name, offset))
                offset = message.find(mark, offset + 1)

    def fill(self, **values: bytes) -> bytes:
        """Return the message with `values` in their places; each is as long as its mark."""
        filled = bytearray(self._message)
        for name, offset in self._offsets:
            value = values[name]
            filled[offset : offset + len(value)] = value
        return bytes(filled)


class Encoder:
    """Typed functions for the messages, one per kind; each returns encoded bytes.

    Args:
        load: Imports pyroute2's codecs.
        forms: Messages that were encoded ahead.
    """

    def __init__(self, load: Callable[[], Codecs], forms: Mapping[str, Form] = FORMS) -> None:
        self._load = load
        self._forms = forms
        self._codecs: Codecs | None = None

    def veth(self, name: str, index: int, peer: tuple[str, int], peer_netns_fd: int) -> bytes:
        """Make a veth pair, down: this end here, the peer in another namespace.

        A peer made there cannot be up at once (ENOTCONN).

        Args:
            name, index: Of this end; 0 lets the kernel choose.
            peer: The same of the other end. Its index counts only if this end's is given.
            peer_netns_fd: Namespace of the other end.
        """
        peer_name, peer_index = peer
        peer_attributes = [["IFLA_IFNAME", peer_name], ["IFLA_NET_NS_FD", peer_netns_fd]]
        data = {"attrs": [["VETH_INFO_PEER", {"index": peer_index, "attrs": peer_attributes}]]}
        attributes = [["IFLA_IFNAME", name], _link_info("veth", data)]
        return self._encode("link", RTM_NEWLINK, _NEW, {"index": index}, attributes)

    def bridge(self, name: str, mac: str, index: int) -> bytes:
        """Make a bridge, up. Its address is fixed, or it would change as ports come and go."""
        # Snooping would only add timers and reports to a network of a few containers.
        data = {"attrs": [["IFLA_BR_MCAST_SNOOPING", 0]]}
        attributes = [["IFLA_IFNAME", name], ["IFLA_ADDRESS", mac], _link_info("bridge", data)]
        fields = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
        return self._encode("link", RTM_NEWLINK, _NEW, fields, attributes)

    def set_up(self, index: int) -> bytes:
        """Bring a link up."""
        fields = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
        return self._encode("link", RTM_NEWLINK, _SET, fields, [])

    def get_link(self, index: int) -> bytes:
        """Ask for a link."""
        return self._encode("link", RTM_GETLINK, NLM_F_REQUEST, {"index": index}, [])

    def set_address(self, index: int, mac: str) -> bytes:
        """Give a link a hardware address."""
        attributes = [["IFLA_ADDRESS", mac]]
        return self._encode("link", RTM_NEWLINK, _SET, {"index": index}, attributes)

    def set_master(self, index: int, master: int) -> bytes:
        """Make a link a port of the bridge `master`; of none: 0."""
        attributes = [["IFLA_MASTER", master]]
        return self._encode("link", RTM_NEWLINK, _SET, {"index": index}, attributes)

    def silence_ipv6(self, index: int) -> bytes:
        """Keep a link that is still down from ever getting a link-local address."""
        mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE]]}
        attributes = [["IFLA_AF_SPEC", {"attrs": [["AF_INET6", mode]]}]]
        return self._encode("link", RTM_SETLINK, _SET, {"index": index}, attributes)

    def delete_link(self, index: int) -> bytes:
        """Delete a link (of a veth pair: both ends)."""
        return self._encode("link", RTM_DELLINK, _SET, {"index": index}, [])

    def address(
        self,
        ip: str,
        prefix_len: int,
        index: int,
        *,
        deprecated: bool = False,
        delete: bool = False,
    ) -> bytes:
        """Give a link an address (IPv6: usable at once, without duplicate detection).

        Args:
            deprecated: Of an IPv6 address: resolvers sort it behind others (RFC 6724, rule 3).
        """
        family = _family(ip)
        fields = {"family": family, "prefixlen": prefix_len, "index": index}
        attributes: list[Any] = [["IFA_ADDRESS", ip], ["IFA_LOCAL", ip]]
        if family == AF_INET6:
            attributes = [["IFA_ADDRESS", ip], ["IFA_FLAGS", _IFA_F_NODAD]]
            fields["flags"] = _IFA_F_NODAD
        if deprecated:
            lifetimes = {"ifa_preferred": 0, "ifa_valid": _FOREVER}
            attributes.append(["IFA_CACHEINFO", lifetimes])
        kind = RTM_DELADDR if delete else RTM_NEWADDR
        return self._encode("address", kind, _SET if delete else _NEW, fields, attributes)

    def doubt_neighbours(self, family: int, index: int) -> bytes:
        """Have a link soon ask again for a neighbour, and soon take silence for an answer.

        A neighbour is another namespace of this machine, which answers in microseconds or is gone.
        The kernel would believe for half a minute that it is there, and ask for 3 s.
        """
        table = b"arp_cache\0" if family == AF_INET else b"ndisc_cache\0"
        parameters = attribute(_NDTPA_IFINDEX, struct.pack("=I", index))
        for kind, milliseconds in _DOUBTS:
            parameters += attribute(kind, struct.pack("=Q", milliseconds))
        body = bytes((family, 0, 0, 0))
        body += attribute(_NDTA_NAME, table) + attribute(_NDTA_PARMS, parameters)
        return HEADER.pack(HEADER.size + len(body), RTM_SETNEIGHTBL, _SET, 0, 0) + body

    def route(
        self,
        destination: str,
        prefix_len: int,
        index: int,
        *,
        gateway: str | None = None,
        onlink: bool = False,
        source: str | None = None,
        delete: bool = False,
    ) -> bytes:
        """A route through the link `index`; it fails if there is one to the same destination.

        Args:
            destination: An address of the prefix, also with `prefix_len` 0.
            gateway: The next hop; without it the destination is on the link itself.
            onlink: The gateway is on the link although no address of the link says so.
            source: The address that the namespace's own packets carry.
        """
        attributes: list[Any] = [["RTA_OIF", index]]
        if prefix_len:
            attributes.append(["RTA_DST", destination])
        if gateway is not None:
            attributes.append(["RTA_GATEWAY", gateway])
        if source is not None:
            attributes.append(["RTA_PREFSRC", source])
        fields = {
            "family": _family(destination),
            "dst_len": prefix_len,
            "table": _TABLE_MAIN,
            "proto": _PROTO_STATIC,
            "scope": _SCOPE_LINK if gateway is None else _SCOPE_UNIVERSE,
            "type": _TYPE_UNICAST,
            "flags": 4 if onlink else 0,
        }
        kind = RTM_DELROUTE if delete else RTM_NEWROUTE
        return self._encode("route", kind, _SET if delete else _NEW, fields, attributes)

    def rule(
        self,
        family: int,
        priority: int,
        *,
        allow: bool,
        iif: str | None = None,
        source: tuple[str, int] | None = None,
        destination: tuple[str, int] | None = None,
        ip_protocol: int | None = None,
        destination_ports: tuple[int, int] | None = None,
        delete: bool = False,
    ) -> bytes:
        """A policy rule: packets that match are routed by the main table, or prohibited."""
        attributes: list[Any] = [["FRA_PRIORITY", priority]]
        if iif is not None:
            attributes.append(["FRA_IIFNAME", iif])
        if source is not None:
            attributes.append(["FRA_SRC", source[0]])
        if destination is not None:
            attributes.append(["FRA_DST", destination[0]])
        if ip_protocol is not None:
            attributes.append(["FRA_IP_PROTO", ip_protocol])
        if destination_ports is not None:
            first, last = destination_ports
            attributes.append(["FRA_DPORT_RANGE", f"{first}:{last}"])
        fields = {
            "family": family,
            "src_len": source[1] if source else 0,
            "dst_len": destination[1] if destination else 0,
            "table": _TABLE_MAIN if allow else 0,
            "action": _RULE_TO_TABLE if allow else _RULE_PROHIBIT,
        }
        kind = RTM_DELRULE if delete else RTM_NEWRULE
        return self._encode("rule", kind, _SET if delete else _NEW, fields, attributes)

    def _encode(
        self,
        codec: str,
        kind: int,
        flags: int,
        fields: Fields,
        attributes: Attributes,
    ) -> bytes:
        shape, values = shape_of(codec, kind, flags, fields, attributes)
        form = self._forms.get(shape)
        if form is None:
            if self._codecs is None:
                self._codecs = self._load()
            return encode(self._codecs, codec, kind, flags, fields, attributes)
        message = bytearray(form[0])
        for value, (size, offsets) in zip(values, form[1], strict=True):
            data = value if isinstance(value, bytes) else value.to_bytes(size, sys.byteorder)
            for offset in offsets:
                message[offset : offset + size] = data
        return bytes(message)


def _link_info(kind: str, data: dict[str, Any]) -> list[Any]:
    return ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind], ["IFLA_INFO_DATA", data]]}]


def _family(ip: str) -> int:
    return AF_INET6 if ":" in ip else AF_INET


def shape_of(
    codec: str, kind: int, flags: int, fields: Fields, attributes: Attributes
) -> tuple[str, list[bytes | int]]:
    """Return what a message has in common with all of its form, and its own values.

    Args:
        codec, kind, flags, fields, attributes: As for `encode`.
    """
    values: list[bytes | int] = []

    def leave_out(leaf: str, value: Any) -> str:
        values.append(_encoded_leaf(leaf, value))
        return leaf

    shape = (codec, kind, flags, *map_values(fields, attributes, leave_out))
    return repr(shape), values


def map_values(
    fields: Fields, attributes: Attributes, change: Callable[[str, Any], Any]
) -> tuple[dict[str, Any], list[Any]]:
    """Return a message with other values in the places of those that differ within a form.

    Args:
        change: Called with the kind of a value, such as ``"ip4"``, and the value.
    """
    return (
        {name: _map_leaf(name, value, change) for name, value in fields.items()},
        [[name, _map_leaf(name, value, change)] for name, value in attributes],
    )


def _map_leaf(name: str, value: Any, change: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, dict):
        fields = {key: inner for key, inner in value.items() if key != "attrs"}
        mapped, attributes = map_values(fields, value.get("attrs", ()), change)
        return {**mapped, "attrs": attributes} if "attrs" in value else mapped
    if name in _NUMBERS:
        return change("number", value)
    if name in _LENGTHS:
        return change("length", value)
    if name in _ADDRESSES:
        return change("ip6" if ":" in value else "ip4", value)
    if name in _NAMES:
        return change(f"name of {len(value)}", value)
    if name in _OTHERS:
        return change(_OTHERS[name], value)
    return value


def _encoded_leaf(leaf: str, value: Any) -> bytes | int:
    if leaf in ("number", "length"):
        return int(value)
    if leaf in ("ip4", "ip6"):
        return socket.inet_pton(_family(value), value)
    if leaf == "mac":
        return bytes.fromhex(value.replace(":", ""))
    if leaf == "ports":
        return struct.pack("=HH", *map(int, value.split(":")))
    return str(value).encode()


def encode(
    codecs: Codecs,
    codec: str,
    kind: int,
    flags: int,
    fields: Fields,
    attributes: Attributes,
) -> bytes:
    """Encode a message with pyroute2.

    Args:
        codecs: Its classes.
        codec: Which of them: ``"link"``, ``"address"``, ``"route"`` or ``"rule"``.
        kind, flags: Of the header.
        fields: Of the structure behind it.
        attributes: As pyroute2 has them: pairs of a name and a value.
    """
    message = getattr(codecs, codec)()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)
