"""Messages of the network helper, encoded by pyroute2.

``python docs/generate.py`` writes this, so that no run waits for pyroute2.
"""

from __future__ import annotations

Form = tuple[bytes, tuple[tuple[int, tuple[int, ...]], ...]]
"""A message, and for each value that is another each time its size and its places."""

# fmt: off
FORMS: dict[str, Form] = {
    "('link', 16, 1541, {'index': 'number', 'flags': 1, 'change': 1}, [['IFLA_IFNAME', 'name of 6'], ['IFLA_ADDRESS', 'mac'], ['IFLA_LINKINFO', {'attrs': [['IFLA_INFO_KIND', 'bridge'], ['IFLA_INFO_DATA', {'attrs': [['IFLA_BR_MCAST_SNOOPING', 0]]}]]}]])":
        (bytes.fromhex("54000000100005060000000000000000000000000101010101000000010000000b00030001010101010100000a00010001010101010100001c0012000b00010062726964676500000c0002000500170000000000"), ((4, (20,)), (6, (36,)), (6, (48,)))),
    "('route', 24, 1541, {'family': 2, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 253, 'type': 1, 'flags': 0}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip4'], ['RTA_PREFSRC', 'ip4']])":
        (bytes.fromhex("3400000018000506000000000000000002010000fe04fd0100000000080004000101010108000100010101010800070001010101"), ((1, (17,)), (4, (32,)), (4, (40,)), (4, (48,)))),
    "('route', 25, 5, {'family': 2, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 253, 'type': 1, 'flags': 0}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip4'], ['RTA_PREFSRC', 'ip4']])":
        (bytes.fromhex("3400000019000500000000000000000002010000fe04fd0100000000080004000101010108000100010101010800070001010101"), ((1, (17,)), (4, (32,)), (4, (40,)), (4, (48,)))),
    "('address', 20, 1541, {'family': 10, 'prefixlen': 'length', 'index': 'number', 'flags': 2}, [['IFA_ADDRESS', 'ip6'], ['IFA_FLAGS', 2]])":
        (bytes.fromhex("340000001400050600000000000000000a0102000101010114000100010101010101010101010101010101010800080002000000"), ((1, (17,)), (4, (20,)), (16, (28,)))),
    "('link', 16, 1541, {'index': 'number'}, [['IFLA_IFNAME', 'name of 6'], ['IFLA_LINKINFO', {'attrs': [['IFLA_INFO_KIND', 'veth'], ['IFLA_INFO_DATA', {'attrs': [['VETH_INFO_PEER', {'index': 'number', 'attrs': [['IFLA_IFNAME', 'name of 4'], ['IFLA_NET_NS_FD', 'number']]}]]}]]}]])":
        (bytes.fromhex("68000000100005060000000000000000000000000101010100000000000000000b00030001010101010100003c0012000900010076657468000000002c000200280001000000000001010101000000000000000009000300010101010000000008001c0001010101"), ((4, (20,)), (6, (36,)), (4, (72,)), (4, (88,)), (4, (100,)))),
    "('link', 16, 5, {'index': 'number', 'flags': 1, 'change': 1}, [])":
        (bytes.fromhex("2000000010000500000000000000000000000000010101010100000001000000"), ((4, (20,)),)),
    "('link', 16, 5, {'index': 'number'}, [['IFLA_MASTER', 'number']])":
        (bytes.fromhex("280000001000050000000000000000000000000001010101000000000000000008000a0001010101"), ((4, (20,)), (4, (36,)))),
    "('link', 18, 1, {'index': 'number'}, [])":
        (bytes.fromhex("2000000012000100000000000000000000000000010101010000000000000000"), ((4, (20,)),)),
    "('link', 16, 5, {'index': 'number'}, [['IFLA_ADDRESS', 'mac']])":
        (bytes.fromhex("2c000000100005000000000000000000000000000101010100000000000000000a0001000101010101010000"), ((4, (20,)), (6, (36,)))),
    "('address', 20, 1541, {'family': 2, 'prefixlen': 'length', 'index': 'number'}, [['IFA_ADDRESS', 'ip4'], ['IFA_LOCAL', 'ip4']])":
        (bytes.fromhex("28000000140005060000000000000000020100000101010108000100010101010800020001010101"), ((1, (17,)), (4, (20,)), (4, (28,)), (4, (36,)))),
    "('route', 24, 1541, {'family': 2, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 253, 'type': 1, 'flags': 0}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip4']])":
        (bytes.fromhex("2c00000018000506000000000000000002010000fe04fd010000000008000400010101010800010001010101"), ((1, (17,)), (4, (32,)), (4, (40,)))),
    "('route', 24, 1541, {'family': 2, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 0, 'type': 1, 'flags': 0}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip4'], ['RTA_GATEWAY', 'ip4']])":
        (bytes.fromhex("3400000018000506000000000000000002010000fe04000100000000080004000101010108000100010101010800050001010101"), ((1, (17,)), (4, (32,)), (4, (40,)), (4, (48,)))),
    "('address', 20, 1541, {'family': 10, 'prefixlen': 'length', 'index': 'number', 'flags': 2}, [['IFA_ADDRESS', 'ip6'], ['IFA_FLAGS', 2], ['IFA_CACHEINFO', {'ifa_preferred': 0, 'ifa_valid': 4294967295}]])":
        (bytes.fromhex("480000001400050600000000000000000a01020001010101140001000101010101010101010101010101010108000800020000001400060000000000ffffffff0000000000000000"), ((1, (17,)), (4, (20,)), (16, (28,)))),
    "('route', 24, 1541, {'family': 10, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 0, 'type': 1, 'flags': 0}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip6'], ['RTA_GATEWAY', 'ip6']])":
        (bytes.fromhex("4c0000001800050600000000000000000a010000fe04000100000000080004000101010114000100010101010101010101010101010101011400050001010101010101010101010101010101"), ((1, (17,)), (4, (32,)), (16, (40,)), (16, (60,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 200], ['FRA_IIFNAME', 'name of 6'], ['FRA_DST', 'ip4']])":
        (bytes.fromhex("3800000020000506000000000000000002010100fe0000010000000008000600c80000000b00030001010101010100000800010001010101"), ((1, (18,)), (1, (17,)), (6, (40,)), (4, (52,)))),
    "('rule', 33, 5, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 200], ['FRA_IIFNAME', 'name of 6'], ['FRA_DST', 'ip4']])":
        (bytes.fromhex("3800000021000500000000000000000002010100fe0000010000000008000600c80000000b00030001010101010100000800010001010101"), ((1, (18,)), (1, (17,)), (6, (40,)), (4, (52,)))),
    "('rule', 32, 1541, {'family': 10, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 200], ['FRA_IIFNAME', 'name of 6'], ['FRA_DST', 'ip6']])":
        (bytes.fromhex("440000002000050600000000000000000a010100fe0000010000000008000600c80000000b00030001010101010100001400010001010101010101010101010101010101"), ((1, (18,)), (1, (17,)), (6, (40,)), (16, (52,)))),
    "('rule', 33, 5, {'family': 10, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 200], ['FRA_IIFNAME', 'name of 6'], ['FRA_DST', 'ip6']])":
        (bytes.fromhex("440000002100050000000000000000000a010100fe0000010000000008000600c80000000b00030001010101010100001400010001010101010101010101010101010101"), ((1, (18,)), (1, (17,)), (6, (40,)), (16, (52,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 100], ['FRA_IIFNAME', 'name of 2']])":
        (bytes.fromhex("2c00000020000506000000000000000002010100fe0000010000000008000600640000000700030001010000"), ((1, (18,)), (1, (17,)), (2, (40,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 0, 'action': 8}, [['FRA_PRIORITY', 400], ['FRA_DST', 'ip4']])":
        (bytes.fromhex("2c00000020000506000000000000000002010100000000080000000008000600900100000800010001010101"), ((1, (18,)), (1, (17,)), (4, (40,)))),
    "('rule', 32, 1541, {'family': 10, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 100], ['FRA_IIFNAME', 'name of 2']])":
        (bytes.fromhex("2c0000002000050600000000000000000a010100fe0000010000000008000600640000000700030001010000"), ((1, (18,)), (1, (17,)), (2, (40,)))),
    "('rule', 32, 1541, {'family': 10, 'src_len': 'length', 'dst_len': 'length', 'table': 0, 'action': 8}, [['FRA_PRIORITY', 400], ['FRA_DST', 'ip6']])":
        (bytes.fromhex("380000002000050600000000000000000a010100000000080000000008000600900100001400010001010101010101010101010101010101"), ((1, (18,)), (1, (17,)), (16, (40,)))),
    "('address', 21, 5, {'family': 2, 'prefixlen': 'length', 'index': 'number'}, [['IFA_ADDRESS', 'ip4'], ['IFA_LOCAL', 'ip4']])":
        (bytes.fromhex("28000000150005000000000000000000020100000101010108000100010101010800020001010101"), ((1, (17,)), (4, (20,)), (4, (28,)), (4, (36,)))),
    "('link', 17, 5, {'index': 'number'}, [])":
        (bytes.fromhex("2000000011000500000000000000000000000000010101010000000000000000"), ((4, (20,)),)),
    "('link', 16, 1541, {'index': 'number'}, [['IFLA_IFNAME', 'name of 10'], ['IFLA_LINKINFO', {'attrs': [['IFLA_INFO_KIND', 'veth'], ['IFLA_INFO_DATA', {'attrs': [['VETH_INFO_PEER', {'index': 'number', 'attrs': [['IFLA_IFNAME', 'name of 5'], ['IFLA_NET_NS_FD', 'number']]}]]}]]}]])":
        (bytes.fromhex("6c000000100005060000000000000000000000000101010100000000000000000f0003000101010101010101010100003c0012000900010076657468000000002c00020028000100000000000101010100000000000000000a000300010101010100000008001c0001010101"), ((4, (20,)), (10, (36,)), (4, (76,)), (5, (92,)), (4, (104,)))),
    "('link', 19, 5, {'index': 'number'}, [['IFLA_AF_SPEC', {'attrs': [['AF_INET6', {'attrs': [['IFLA_INET6_ADDR_GEN_MODE', 1]]}]]}]])":
        (bytes.fromhex("300000001300050000000000000000000000000001010101000000000000000010001a000c000a000500080001000000"), ((4, (20,)),)),
    "('route', 24, 1541, {'family': 2, 'dst_len': 'length', 'table': 254, 'proto': 4, 'scope': 0, 'type': 1, 'flags': 4}, [['RTA_OIF', 'number'], ['RTA_DST', 'ip4'], ['RTA_GATEWAY', 'ip4'], ['RTA_PREFSRC', 'ip4']])":
        (bytes.fromhex("3c00000018000506000000000000000002010000fe040001040000000800040001010101080001000101010108000500010101010800070001010101"), ((1, (17,)), (4, (32,)), (4, (40,)), (4, (48,)), (4, (56,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 100], ['FRA_IIFNAME', 'name of 5']])":
        (bytes.fromhex("3000000020000506000000000000000002010100fe0000010000000008000600640000000a0003000101010101000000"), ((1, (18,)), (1, (17,)), (5, (40,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 300], ['FRA_DST', 'ip4'], ['FRA_IP_PROTO', 6], ['FRA_DPORT_RANGE', 'ports']])":
        (bytes.fromhex("3c00000020000506000000000000000002010100fe00000100000000080006002c010000080001000101010105001600060000000800180001010101"), ((1, (18,)), (1, (17,)), (4, (40,)), (4, (56,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 300], ['FRA_DST', 'ip4'], ['FRA_IP_PROTO', 17], ['FRA_DPORT_RANGE', 'ports']])":
        (bytes.fromhex("3c00000020000506000000000000000002010100fe00000100000000080006002c010000080001000101010105001600110000000800180001010101"), ((1, (18,)), (1, (17,)), (4, (40,)), (4, (56,)))),
    "('rule', 32, 1541, {'family': 2, 'src_len': 'length', 'dst_len': 'length', 'table': 254, 'action': 1}, [['FRA_PRIORITY', 300], ['FRA_DST', 'ip4'], ['FRA_IP_PROTO', 1]])":
        (bytes.fromhex("3400000020000506000000000000000002010100fe00000100000000080006002c01000008000100010101010500160001000000"), ((1, (18,)), (1, (17,)), (4, (40,)))),
}
# fmt: on
"""By what messages of one form have in common (`messages.shape_of`)."""
