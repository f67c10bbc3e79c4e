"""The rtnetlink messages that a run's networks are made of (rtnetlink(7)).

pyroute2 encodes; that costs it about 0.5 ms a message, more than the kernel needs for most of
them. So what is sent for every network or container is encoded once, with marks where numbers
and addresses go, and filled in afterwards (0.003 ms): a `Template`.
"""

from __future__ import annotations

from typing import Any

from pytest_containers.linux.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST
from pytest_containers.runtime.network.codecs import Codecs

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE = 32, 33

AF_INET, AF_INET6 = 2, 10

_SET = NLM_F_REQUEST | NLM_F_ACK
_NEW = _SET | NLM_F_CREATE | NLM_F_EXCL
_IFF_UP = 1
_IFA_F_NODAD = 2
_TABLE_MAIN = 254
_PROTO_STATIC = 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_TYPE_UNICAST, _RULE_TO_TABLE, _RULE_PROHIBIT = 1, 1, 8
_ADDR_GEN_MODE_NONE = 1


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
        """The message with `values` in their places; each as long as its mark was."""
        filled = bytearray(self._message)
        for name, offset in self._offsets:
            value = values[name]
            filled[offset : offset + len(value)] = value
        return bytes(filled)


class Encoder:
    """Typed functions for the messages, one per kind; each returns encoded bytes."""

    def __init__(self, codecs: Codecs) -> None:
        self._codecs = codecs

    def veth(self, name: str, index: int, peer: tuple[str, int], peer_netns_fd: int) -> bytes:
        """A veth pair, down: this end here, the peer in another namespace.

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
        return _encode(self._codecs.link, RTM_NEWLINK, _NEW, {"index": index}, attributes)

    def bridge(self, name: str, mac: str, index: int) -> bytes:
        """A bridge, up. Its address is fixed: else it changes as ports come and go."""
        # Snooping would only add timers and reports to a network of a few containers.
        data = {"attrs": [["IFLA_BR_MCAST_SNOOPING", 0]]}
        attributes = [["IFLA_IFNAME", name], ["IFLA_ADDRESS", mac], _link_info("bridge", data)]
        fields = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
        return _encode(self._codecs.link, RTM_NEWLINK, _NEW, fields, attributes)

    def set_up(self, index: int) -> bytes:
        """Bring a link up."""
        fields = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
        return _encode(self._codecs.link, RTM_NEWLINK, _SET, fields, [])

    def get_link(self, index: int) -> bytes:
        """Ask for a link."""
        return _encode(self._codecs.link, RTM_GETLINK, NLM_F_REQUEST, {"index": index}, [])

    def set_address(self, index: int, mac: str) -> bytes:
        """Give a link a hardware address."""
        attributes = [["IFLA_ADDRESS", mac]]
        return _encode(self._codecs.link, RTM_NEWLINK, _SET, {"index": index}, attributes)

    def set_master(self, index: int, master: int) -> bytes:
        """Make a link a port of the bridge `master`; of none: 0."""
        attributes = [["IFLA_MASTER", master]]
        return _encode(self._codecs.link, RTM_NEWLINK, _SET, {"index": index}, attributes)

    def silence_ipv6(self, index: int) -> bytes:
        """Keep a link that is still down from ever getting a link-local address."""
        mode = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE]]}
        attributes = [["IFLA_AF_SPEC", {"attrs": [["AF_INET6", mode]]}]]
        return _encode(self._codecs.link, RTM_SETLINK, _SET, {"index": index}, attributes)

    def delete_link(self, index: int) -> bytes:
        """Delete a link (of a veth pair: both ends)."""
        return _encode(self._codecs.link, RTM_DELLINK, _SET, {"index": index}, [])

    def address(self, ip: str, prefix_len: int, index: int, *, delete: bool = False) -> bytes:
        """Give a link an address (IPv6: usable at once, without duplicate detection)."""
        family = _family(ip)
        fields = {"family": family, "prefixlen": prefix_len, "index": index}
        attributes: list[Any] = [["IFA_ADDRESS", ip], ["IFA_LOCAL", ip]]
        if family == AF_INET6:
            attributes = [["IFA_ADDRESS", ip], ["IFA_FLAGS", _IFA_F_NODAD]]
            fields["flags"] = _IFA_F_NODAD
        kind = RTM_DELADDR if delete else RTM_NEWADDR
        return _encode(self._codecs.address, kind, _SET if delete else _NEW, fields, attributes)

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
        return _encode(self._codecs.route, kind, _SET if delete else _NEW, fields, attributes)

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
        return _encode(self._codecs.rule, kind, _SET if delete else _NEW, fields, attributes)


def _link_info(kind: str, data: dict[str, Any]) -> list[Any]:
    return ["IFLA_LINKINFO", {"attrs": [["IFLA_INFO_KIND", kind], ["IFLA_INFO_DATA", data]]}]


def _family(ip: str) -> int:
    return AF_INET6 if ":" in ip else AF_INET


def _encode(
    codec: Any, kind: int, flags: int, fields: dict[str, int], attributes: list[Any]
) -> bytes:
    message = codec()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)
