"""What init tells the kernel to make a network namespace that leads to us alone. Pure: bytes.

Messages of rtnetlink(7) and of nfnetlink (linux/netfilter/nf_tables.h). All are the same for
every jail: who may be reached is not decided here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

ADDRESS4: Final = IPv4Address("10.0.2.100")
ADDRESS6: Final = IPv6Address("fd00:6a::100")
"""the jail's own, on lo"""
GATE_PORT: Final = 1
"""of our sockets inside; below 1024, so that no program takes it"""
MARK: Final = 0x6A61696C
LOG_GROUP: Final = 1
SYN_RATE: Final = 4000
SYN_BURST: Final = 1000
SNAP_BYTES: Final = 160
"""the longest heads of IP and TCP"""

_LOOPBACK_INDEX: Final = 1
_SEGMENT_BYTES: Final = 1460
"""what a program says it takes at once, as on any Ethernet: by lo's own 64 KiB a small window would
stay shut until a timer opens it; larger ones still go as one: RTAX_ADVMSS, GSO"""
_TABLE: Final = b"jail\0"
_CHAIN: Final = b"out\0"

# linux/netlink.h, rtnetlink.h
_REQUEST, _ACK, _CREATE, _APPEND, _EXCL = 1, 4, 0x400, 0x800, 0x200
_NESTED: Final = 0x8000
_NEWADDR, _NEWROUTE = 20, 24
_AF_INET, _AF_INET6 = 2, 10
_IFA_F_NODAD: Final = 2
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 254, 4, 254, 2
# linux/netfilter/nfnetlink.h, nf_tables.h
_SUBSYS_ULOG, _SUBSYS_NFTABLES = 4, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0, 3, 6
_INET: Final = 1
_PREROUTING, _MANGLE = 0, -150
_DROP, _ACCEPT = 0, 1
_VERDICT, _REG1, _REG_ADDRESS, _REG_PORT = 0, 1, 2, 3
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_MARK, _META_NFPROTO, _META_L4PROTO = 3, 15, 16
_TCP, _UDP = b"\x06", b"\x11"
_V4, _V6 = b"\x02", b"\x0a"
_SYN, _SYN_ACK = b"\x02", b"\x12"


def make_routes(ipv6: bool) -> tuple[bytes, ...]:
    """Every address is a local one: whatever is sent stays on lo, and nothing has a way out."""
    messages = [
        _make_address(_AF_INET, ADDRESS4.packed),
        _make_route(_AF_INET, ADDRESS4.packed),
    ]
    if ipv6:
        messages.append(_make_address(_AF_INET6, ADDRESS6.packed))
        messages.append(_make_route(_AF_INET6, ADDRESS6.packed))
    return tuple(messages)


def make_ruleset() -> tuple[bytes, ...]:
    """One batch: what is for the jail itself passes, what is for elsewhere comes to us."""
    rules = (
        (*_is_to(b"\x7f", 16), _verdict(_ACCEPT)),
        (*_is_to(ADDRESS4.packed, 16), _verdict(_ACCEPT)),
        (*_is_to(IPv6Address("::1").packed, 24), _verdict(_ACCEPT)),
        (*_is_to(ADDRESS6.packed, 24), _verdict(_ACCEPT)),
        # The mark is ours: SO_MARK needs CAP_NET_ADMIN or CAP_NET_RAW, socket(7).
        (*_is_syn(), *_has_mark(), *_is_version(_V4), *_give_to_us(_AF_INET)),
        (*_is_syn(), *_has_mark(), *_is_version(_V6), *_give_to_us(_AF_INET6)),
        (*_has_mark(), _verdict(_ACCEPT)),
        (*_is_syn(), _limit(), _verdict(_DROP)),
        (*_is_syn(), _log(), _verdict(_DROP)),
        (*_is_protocol(_TCP), _verdict(_ACCEPT)),
        (*_is_protocol(_UDP), *_is_version(_V4), *_give_to_us(_AF_INET)),
        (*_is_protocol(_UDP), *_is_version(_V6), *_give_to_us(_AF_INET6)),
        (_reject(),),
    )
    return (
        _nft_batch(_BATCH_BEGIN),
        _nft(_NEWTABLE, _attr(1, _TABLE)),
        _nft(_NEWCHAIN, _make_chain()),
        *(_nft(_NEWRULE, _make_rule(each)) for each in rules),
        _nft_batch(_BATCH_END),
    )


def make_log_settings() -> tuple[bytes, ...]:
    """For the socket that held SYNs come to: whole heads, and each at once."""
    copy_packet = struct.pack(">IBx", SNAP_BYTES, 2)
    return tuple(
        _ulog(attr)
        for attr in (
            _attr(1, b"\x01"),  # NFULNL_CFG_CMD_BIND
            _attr(2, copy_packet),
            _attr(5, struct.pack(">I", 1)),  # NFULA_CFG_QTHRESH
        )
    )


# -- rtnetlink ------------------------------------------------------------------------------------


def _make_address(family: int, address: bytes) -> bytes:
    # Tentative until a worker of the kernel comes by, it couldn't be the route's source yet.
    flags = _IFA_F_NODAD if family == _AF_INET6 else 0
    head = struct.pack("=BBBBI", family, len(address) * 8, flags, _RT_SCOPE_HOST, _LOOPBACK_INDEX)
    body = head + _attr(1, address) + _attr(2, address)
    return _message(_NEWADDR, _REQUEST | _ACK | _CREATE | _EXCL, body)


def _make_route(family: int, source: bytes) -> bytes:
    head = struct.pack(
        "=BBBBBBBBI",
        *(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0),
    )
    metrics = _nest(8, _attr(8, struct.pack("=I", _SEGMENT_BYTES)))
    body = head + _attr(4, struct.pack("=I", _LOOPBACK_INDEX)) + _attr(7, source) + metrics
    return _message(_NEWROUTE, _REQUEST | _ACK | _CREATE | _EXCL, body)


# -- nf_tables ------------------------------------------------------------------------------------


def _make_chain() -> bytes:
    hook = _attr(1, _be32(_PREROUTING)) + _attr(2, struct.pack(">i", _MANGLE))
    return (
        _attr(1, _TABLE)
        + _attr(3, _CHAIN)
        + _nest(4, hook)
        + _attr(5, _be32(_DROP))
        + _attr(7, b"filter\0")
    )


def _make_rule(expressions: Sequence[bytes]) -> bytes:
    elements = b"".join(_nest(1, each) for each in expressions)
    return _attr(1, _TABLE) + _attr(2, _CHAIN) + _nest(4, elements)


def _is_to(prefix: bytes, offset: int) -> tuple[bytes, ...]:
    """The head's destination begins with this; 16 is where IPv4 has it, 24 IPv6."""
    version = _V4 if offset == 16 else _V6
    return (*_is_version(version), _payload(_NETWORK_HEADER, offset, len(prefix)), _is(prefix))


def _is_version(version: bytes) -> tuple[bytes, ...]:
    return _meta(_META_NFPROTO), _is(version)


def _is_protocol(number: bytes) -> tuple[bytes, ...]:
    return _meta(_META_L4PROTO), _is(number)


def _is_syn() -> tuple[bytes, ...]:
    """The first of a connection: SYN without ACK."""
    return (
        *_is_protocol(_TCP),
        _payload(_TRANSPORT_HEADER, 13, 1),
        _expression(
            "bitwise",
            _attr(1, _be32(_REG1)),
            _attr(2, _be32(_REG1)),
            _attr(3, _be32(1)),
            _nest(4, _attr(1, _SYN_ACK)),
            _nest(5, _attr(1, b"\0")),
        ),
        _is(_SYN),
    )


def _has_mark() -> tuple[bytes, ...]:
    return _meta(_META_MARK), _is(struct.pack("=I", MARK))


def _give_to_us(family: int) -> tuple[bytes, ...]:
    address = IPv4Address("127.0.0.1") if family == _AF_INET else IPv6Address("::1")
    return (
        _load(_REG_ADDRESS if family == _AF_INET else _REG1, address.packed),
        _load(_REG_PORT, struct.pack(">H", GATE_PORT)),
        _expression(
            "tproxy",
            _attr(1, _be32(family)),
            _attr(2, _be32(_REG_ADDRESS if family == _AF_INET else _REG1)),
            _attr(3, _be32(_REG_PORT)),
        ),
        _verdict(_ACCEPT),
    )


def _payload(base: int, offset: int, size: int) -> bytes:
    numbers = (_REG1, base, offset, size)
    return _expression("payload", *(_attr(n, _be32(v)) for n, v in enumerate(numbers, 1)))


def _meta(key: int) -> bytes:
    return _expression("meta", _attr(1, _be32(_REG1)), _attr(2, _be32(key)))


def _is(value: bytes) -> bytes:
    return _expression("cmp", _attr(1, _be32(_REG1)), _attr(2, _be32(0)), _nest(3, _attr(1, value)))


def _load(register: int, value: bytes) -> bytes:
    return _expression("immediate", _attr(1, _be32(register)), _nest(2, _attr(1, value)))


def _verdict(code: int) -> bytes:
    verdict = _nest(2, _attr(1, _be32(code)))
    return _expression("immediate", _attr(1, _be32(_VERDICT)), _nest(2, verdict))


def _limit() -> bytes:
    """Those above the rate: the program's kernel sends them again in a second."""
    return _expression(
        "limit",
        _attr(1, struct.pack(">Q", SYN_RATE)),
        _attr(2, struct.pack(">Q", 1)),
        _attr(3, _be32(SYN_BURST)),
        _attr(4, _be32(0)),
        _attr(5, _be32(1)),
    )


def _log() -> bytes:
    return _expression("log", _attr(1, struct.pack(">H", LOG_GROUP)), _attr(3, _be32(SNAP_BYTES)))


def _reject() -> bytes:
    return _expression("reject", _attr(1, _be32(2)), _attr(2, b"\x01"))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _attr(1, name.encode() + b"\0") + _nest(2, b"".join(attributes))


# -- netlink --------------------------------------------------------------------------------------


def _nft(kind: int, body: bytes) -> bytes:
    head = struct.pack(">BBH", _INET, 0, 0)
    flags = _REQUEST | _ACK | _CREATE | _APPEND
    return _message(_SUBSYS_NFTABLES << 8 | kind, flags, head + body)


def _nft_batch(kind: int) -> bytes:
    return _message(kind, _REQUEST, struct.pack(">BBH", 0, 0, _SUBSYS_NFTABLES))


def _ulog(body: bytes) -> bytes:
    head = struct.pack(">BBH", 0, 0, LOG_GROUP)
    return _message(_SUBSYS_ULOG << 8 | 1, _REQUEST | _ACK, head + body)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _attr(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attr(kind | _NESTED, value)


def _be32(value: int) -> bytes:
    return struct.pack(">I", value)
