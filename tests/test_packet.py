"""Packets: what is built is right to the last bit, and nothing that comes in is believed."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.egress.packet import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Flow,
    Place,
    Syn,
    make_datagram,
    make_reset,
    make_syn,
    make_udp_start,
    make_unreachable,
    parse_syn,
    read_log,
)

pytestmark = pytest.mark.beside

PORTS = st.integers(0, 0xFFFF)
PACKET, PAYLOAD, MARK = 0x0400, 9, 2
"""NFULNL_MSG_PACKET, NFULA_PAYLOAD, NFULA_MARK"""


def flows(version: Literal[4, 6]) -> st.SearchStrategy[Flow]:
    places = st.builds(Place, st.ip_addresses(v=version), PORTS)
    return st.builds(Flow, places, places)


FLOWS = st.one_of(flows(4), flows(6))
OPTIONS = st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))


@st.composite
def syns(draw: st.DrawFn) -> Syn:
    """As a kernel makes them."""
    flow, options = draw(FLOWS), draw(OPTIONS)
    head = struct.pack(
        ">HHIIBBHHH",
        *(flow.source.port, flow.target.port, draw(st.integers(0, 0xFFFFFFFF)), 0),
        *((5 + len(options) // 4) << 4, draw(st.sampled_from((0x02, 0xC2))), draw(PORTS), 0, 0),
    )
    return Syn(flow, head + options)


def sum_naively(data: bytes) -> int:
    """RFC 1071, word by word; what is right sums up to all ones."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def open_packet(packet: bytes) -> tuple[Any, Any, int, bytes]:
    """Source, target, protocol and body, if all checksums are right."""
    if packet[0] == 0x45:
        assert struct.unpack_from(">H", packet, 2) == (len(packet),)
        source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        assert packet[8] > 0  # TTL
        return source, target, packet[9], packet[20:]
    assert packet[0] == 0x60
    assert struct.unpack_from(">H", packet, 4) == (len(packet) - 40,)
    assert packet[7] > 0
    return IPv6Address(packet[8:24]), IPv6Address(packet[24:40]), packet[6], packet[40:]


def is_whole(packet: bytes) -> bool:
    """The checksum of what is behind the IP head, with the pseudo head where there is one."""
    source, target, protocol, body = open_packet(packet)
    pseudo = source.packed + target.packed + struct.pack(">II", len(body), protocol)
    return sum_naively(body if protocol == ICMP else pseudo + body) == 0xFFFF


@given(syns())
def test_a_syn_is_made_again_as_it_was(syn: Syn) -> None:
    packet = make_syn(syn)
    again = parse_syn(packet)
    assert again is not None and is_whole(packet)
    assert (again.flow, again.sequence) == (syn.flow, syn.sequence)
    assert without_checksum(again.segment) == without_checksum(syn.segment)


def without_checksum(segment: bytes) -> bytes:
    return segment[:16] + segment[18:]


@given(syns(), st.binary(max_size=100))
def test_data_behind_a_syn_is_left_for_the_second_time(syn: Syn, data: bytes) -> None:
    """As if it had got lost: RFC 7413, 4.2."""
    again = parse_syn(make_syn(syn) + data)
    assert again is not None
    assert len(again.segment) == len(syn.segment)


@given(syns(), st.binary(min_size=4, max_size=4))
def test_options_of_ip_are_not_made_again(syn: Syn, options: bytes) -> None:
    packet = make_syn(syn)
    if syn.flow.source.address.version == 4:
        packet = b"\x46" + packet[1:20] + options + packet[20:]
        again = parse_syn(packet)
        assert again is not None and again.flow == syn.flow
        assert make_syn(again)[0] == 0x45


@given(syns())
def test_a_reset_is_of_that_connection(syn: Syn) -> None:
    packet = make_reset(syn)
    source, target, protocol, head = open_packet(packet)
    assert is_whole(packet) and protocol == TCP
    assert (source, target) == (syn.flow.target.address, syn.flow.source.address)
    ports, answered, flags = head[:4], struct.unpack_from(">I", head, 8)[0], head[13]
    assert struct.unpack(">HH", ports) == (syn.flow.target.port, syn.flow.source.port)
    assert answered == (syn.sequence + 1) % 2**32
    assert flags == 0x14  # RST, ACK
    assert parse_syn(packet) is None


@given(FLOWS, st.binary(max_size=2000))
def test_a_datagram_comes_from_its_target(flow: Flow, payload: bytes) -> None:
    packet = make_datagram(flow, payload)
    source, target, protocol, datagram = open_packet(packet)
    assert is_whole(packet) and protocol == UDP
    assert (source, target) == (flow.target.address, flow.source.address)
    assert struct.unpack_from(">HHH", datagram) == (
        *(flow.target.port, flow.source.port),
        len(payload) + 8,
    )
    assert datagram[8:] == payload


@given(FLOWS)
def test_no_datagram_is_without_a_checksum(flow: Flow) -> None:
    """Zero would say that it has none: RFC 768. Two bytes of payload let every sum come up."""
    bare = make_datagram(flow, b"\0\0")
    (sent,) = struct.unpack_from(">H", open_packet(bare)[3], 6)
    packet = make_datagram(flow, struct.pack(">H", sent))
    assert open_packet(packet)[3][6:8] == b"\xff\xff" and is_whole(packet)


@given(FLOWS, st.sampled_from([("net", 0, 0), ("host", 1, 3), ("port", 3, 4)]), st.data())
def test_an_error_tells_of_the_packet_that_it_is_about(
    flow: Flow, reason: tuple[str, int, int], data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from((TCP, UDP)))
    start = make_udp_start(flow, data.draw(st.integers(0, 60000)))
    packet = make_unreachable(flow, protocol, start, reason[0])
    source, target, kind, body = open_packet(packet)
    assert is_whole(packet)
    assert (source, target) == (flow.target.address, flow.source.address)
    version = flow.source.address.version
    assert (kind, *body[:2]) == {4: (ICMP, 3, reason[1]), 6: (ICMPV6, 1, reason[2])}[version]
    about = open_packet(body[8:])
    assert about == (flow.source.address, flow.target.address, protocol, start)
    if version == 4:
        assert sum_naively(body[8:28]) == 0xFFFF


# -- what comes in ---------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_be_looked_at(data: bytes) -> None:
    for first in (b"", b"\x45", b"\x4f", b"\x40", b"\x60"):
        syn = parse_syn(first + data)
        assert syn is None or make_syn(syn)
    read_log(data)


@given(syns(), st.data())
def test_half_a_syn_is_none(syn: Syn, data: st.DataObject) -> None:
    packet = make_syn(syn)
    assert parse_syn(packet[: data.draw(st.integers(0, len(packet) - 1))]) is None


@given(syns(), st.sampled_from((0x00, 0x01, 0x04, 0x06, 0x10, 0x12, 0x14)))
def test_what_is_no_first_packet_is_none(syn: Syn, flags: int) -> None:
    packet = bytearray(make_syn(syn))
    packet[len(packet) - len(syn.segment) + 13] = flags
    assert parse_syn(bytes(packet)) is None


@given(FLOWS, st.binary(max_size=60))
def test_another_protocol_is_none(flow: Flow, payload: bytes) -> None:
    assert parse_syn(make_datagram(flow, payload)) is None


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, *attributes: bytes) -> bytes:
    body = bytes(4) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@given(st.lists(st.binary(min_size=1, max_size=99), max_size=5))
def test_every_packet_of_a_log_is_read(packets: list[bytes]) -> None:
    mark = attribute(MARK, b"jail")
    log = b"".join(message(PACKET, mark, attribute(PAYLOAD, each)) for each in packets)
    assert read_log(log) == packets


def test_other_messages_and_senseless_lengths_are_no_packets() -> None:
    assert read_log(message(0x0401, attribute(PAYLOAD, b"x"))) == []
    assert read_log(message(PACKET, struct.pack("=HH", 3, PAYLOAD))) == []
    assert read_log(struct.pack("=IHHII", 0, PACKET, 0, 0, 0) + bytes(40)) == []
    assert read_log(struct.pack("=IHHII", errno.E2BIG, PACKET, 0, 0, 0)) == []


def test_a_known_packet() -> None:
    """By hand: RFC 1071's way over 10.0.2.100:4000 → 203.0.113.10:80."""
    flow = Flow(Place(ip_address("10.0.2.100"), 4000), Place(ip_address("203.0.113.10"), 80))
    packet = make_datagram(flow, b"hello")
    assert packet[20:] == bytes.fromhex("00500fa0000d") + packet[26:28] + b"hello"
    assert packet[12:20] == bytes((203, 0, 113, 10, 10, 0, 2, 100))
    assert is_whole(packet)
