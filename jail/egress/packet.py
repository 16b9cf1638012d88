"""Packets in and out of a jail's network: held SYNs, and what we answer them with. Pure: bytes.

What comes in was made by the kernel: nobody inside has a raw socket. It is checked all the same.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from jail.network.special import Address

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TTL: Final = 64
_PAYLOAD: Final = 9
"""NFULA_PAYLOAD, linux/netfilter/nfnetlink_log.h"""
_PACKET: Final = 4 << 8
"""NFULNL_MSG_PACKET of NFNL_SUBSYS_ULOG"""


class Place(NamedTuple):
    """An address and a port."""

    address: Address
    port: int


class Flow(NamedTuple):
    """Who speaks to whom: the program's own end first."""

    source: Place
    target: Place


class Syn(NamedTuple):
    """A connection that somebody asks for; ``segment`` is its TCP head."""

    flow: Flow
    segment: bytes

    @property
    def sequence(self) -> int:
        return int(struct.unpack_from(">I", self.segment, 4)[0])


def read_log(data: bytes) -> list[bytes]:
    """The packets in a message of nfnetlink_log."""
    packets = []
    at = 0
    while at + 20 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if size < 20:
            break
        if kind == _PACKET:
            packets += _read_payloads(data[at + 20 : at + size])
        at += size + 3 & ~3
    return packets


def _read_payloads(data: bytes) -> list[bytes]:
    found = []
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        if kind & 0x3FFF == _PAYLOAD:
            found.append(data[at + 4 : at + size])
        at += size + 3 & ~3
    return found


def parse_syn(packet: bytes) -> Syn | None:
    """None for what is none, or has something between its heads."""
    if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == TCP:
        at = (packet[0] & 15) * 4
        ends: tuple[Address, Address] = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    elif len(packet) >= 40 and packet[0] >> 4 == 6 and packet[6] == TCP:
        at = 40
        ends = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    else:
        return None
    segment = packet[at:]
    if at < 20 or len(segment) < 20:
        return None
    size = (segment[12] >> 4) * 4
    if not 20 <= size <= len(segment) or segment[13] & (_SYN | _ACK | _RST) != _SYN:
        return None
    source_port, target_port = struct.unpack_from(">HH", segment)
    flow = Flow(Place(ends[0], source_port), Place(ends[1], target_port))
    return Syn(flow, segment[:size])


def make_syn(syn: Syn) -> bytes:
    """The same once more: without data, and with the checksum that lo leaves out."""
    segment = bytearray(syn.segment)
    segment[16:18] = b"\0\0"
    return _make_packet(syn.flow.source.address, syn.flow.target.address, TCP, segment, 16)


def make_reset(syn: Syn) -> bytes:
    """connect(2) fails with ECONNREFUSED: RFC 9293, 3.10.7.1."""
    flow, answered = syn.flow, syn.sequence + 1 & 0xFFFFFFFF
    head = bytearray(
        struct.pack(
            ">HHIIBBHHH",
            flow.target.port,
            flow.source.port,
            0,
            answered,
            5 << 4,
            _RST | _ACK,
            0,
            0,
            0,
        )
    )
    return _make_packet(flow.target.address, flow.source.address, TCP, head, 16)


def make_datagram(flow: Flow, payload: bytes) -> bytes:
    """From the target back to the program."""
    head = struct.pack(">HHHH", flow.target.port, flow.source.port, 8 + len(payload), 0)
    datagram = bytearray(head + payload)
    return _make_packet(flow.target.address, flow.source.address, UDP, datagram, 6)


def make_unreachable(flow: Flow, protocol: int, start: bytes, reason: str) -> bytes:
    """What the program hears of an error on the way: RFC 792, RFC 4443.

    ``start`` is how its packet began behind the IP head, at least eight bytes of it; ``reason``
    is ``port``, ``host`` or ``net``.
    """
    source, target = flow.source.address, flow.target.address
    about = _make_head(source, target, protocol, len(start)) + start
    if isinstance(source, IPv4Address):
        code = {"net": 0, "host": 1, "port": 3}[reason]
        body = bytearray(struct.pack(">BBHI", 3, code, 0, 0) + about)
        return _make_packet(target, source, ICMP, body, 2)
    code = {"net": 0, "host": 3, "port": 4}[reason]
    body = bytearray(struct.pack(">BBHI", 1, code, 0, 0) + about)
    return _make_packet(target, source, ICMPV6, body, 2)


def make_udp_start(flow: Flow, size: int) -> bytes:
    """The head of a datagram of ``size`` bytes, as an error tells of it."""
    return struct.pack(">HHHH", flow.source.port, flow.target.port, 8 + size, 0)


def _make_packet(
    source: Address, target: Address, protocol: int, body: bytearray, checksum_at: int
) -> bytes:
    """``body`` with its checksum, behind an IP head; the kernel adds the head's own: raw(7)."""
    pseudo = b""
    if protocol != ICMP:
        pseudo = source.packed + target.packed + struct.pack(">II", len(body), protocol)
    total = _sum(pseudo + body) or 0xFFFF
    body[checksum_at : checksum_at + 2] = struct.pack(">H", total)
    return _make_head(source, target, protocol, len(body)) + body


def _make_head(source: Address, target: Address, protocol: int, size: int) -> bytes:
    if isinstance(source, IPv4Address):
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, _TTL, protocol, 0)
        head += source.packed + target.packed
        return head[:10] + struct.pack(">H", _sum(head)) + head[12:]
    return struct.pack(">IHBB", 6 << 28, size, protocol, _TTL) + source.packed + target.packed


def _sum(data: bytes | bytearray) -> int:
    """The Internet checksum: RFC 1071. A sum in ones' complement is a remainder of 0xFFFF."""
    total = int.from_bytes(bytes(data) + bytes(len(data) % 2), "big")
    return ~(total % 0xFFFF or 0xFFFF) & 0xFFFF if total else 0xFFFF
