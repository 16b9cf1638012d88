"""A small resolver whose answers the tests write, one query at a time."""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from tests.network.place import ZONE, Record, Reply

MAX_CHAIN: Final = 12
UDP_BYTES: Final = 512


class Zone:
    """What each name says, and who asked. ``script`` holds what tests have written instead."""

    def __init__(self) -> None:
        self.script: dict[str, list[Reply]] = {}
        self.asked: list[dict[str, Any]] = []

    def forget(self) -> None:
        self.script.clear()
        self.asked.clear()

    async def answer(self, packet: bytes, server: str, protocol: str) -> bytes | None:
        """The bytes to send back, if any. A hostile resolver is one whose tests want it so."""
        query = dns.message.from_wire(packet)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append({"name": name, "type": kind, "server": server, "protocol": protocol})
        reply = self._find_reply(name)
        await trio.sleep(reply.get("delay_s", 0))
        response = self._make_response(query, name, kind, reply)
        return _spoil(response, reply.get("lie"), protocol, query)

    def _find_reply(self, name: str) -> Reply:
        """The next one of those written for that name; the last one stays."""
        written = self.script.get(name)
        if written:
            return written.pop(0) if len(written) > 1 else written[0]
        return {"records": ZONE[name]} if name in ZONE else {"rcode": "NXDOMAIN"}

    def _make_response(
        self, query: dns.message.Message, name: str, kind: str, reply: Reply
    ) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        response.set_rcode(dns.rcode.from_text(reply.get("rcode", "NOERROR")))
        records = reply.get("records", [])
        for _ in range(MAX_CHAIN):
            _add(response, name, [each for each in records if each[0] in (kind, "CNAME")])
            following = [data for type_, _, data in records if type_ == "CNAME" and kind != "CNAME"]
            if not following:
                break
            name = following[0].rstrip(".")
            records = self._find_reply(name).get("records", [])
        for owner, record in reply.get("besides", []):
            _add(response, owner, [record])
        return response


def _add(response: dns.message.Message, name: str, records: list[Record]) -> None:
    for type_, ttl_s, data in records:
        text = f"{data.rstrip('.')}." if type_ == "CNAME" else data
        added = dns.rrset.from_text(f"{name}.", ttl_s, "IN", type_, text)
        response.answer.append(added)


def _spoil(
    response: dns.message.Message, lie: str | None, protocol: str, query: dns.message.Message
) -> bytes | None:
    """The answer as bytes, with what a lying or broken resolver does to them."""
    if lie == "silence":
        return None
    if lie == "garbage":
        return struct.pack(">H", response.id) + b"\xff" * 40
    if lie == "other id":
        response.id ^= 1
    if lie == "other question":
        response.question = [dns.rrset.from_text("liar.test.", 0, "IN", "A")]
    if lie == "truncated" and protocol == "udp":
        response.answer.clear()
        response.flags |= dns.flags.TC
    limit = max(query.payload, UDP_BYTES) if protocol == "udp" else 65535
    wire = response.to_wire(max_size=65535)
    if len(wire) > limit:
        response.answer.clear()
        response.flags |= dns.flags.TC
        wire = response.to_wire(max_size=65535)
    if lie == "endless name":  # a pointer to itself
        wire = wire[:12] + b"\xc0\x0c" + wire[12:]
    return wire


async def serve_datagrams(zone: Zone, socket: trio.socket.SocketType, server: str) -> None:
    """Each query for itself, so that a slow answer keeps nobody waiting."""
    async with trio.open_nursery() as nursery:
        while True:
            packet, peer = await socket.recvfrom(65535)
            nursery.start_soon(_answer_datagram, zone, socket, server, packet, peer)


async def _answer_datagram(
    zone: Zone, socket: trio.socket.SocketType, server: str, packet: bytes, peer: Any
) -> None:
    answer = await zone.answer(packet, server, "udp")
    if answer is not None:
        await socket.sendto(answer, peer)


async def serve_stream(zone: Zone, stream: trio.SocketStream, server: str) -> None:
    """Query after query, each with its length before it."""
    while True:
        head = await read_exactly(stream, 2)
        packet = await read_exactly(stream, int.from_bytes(head, "big"))
        answer = await zone.answer(packet, server, "tcp")
        if answer is None:
            await trio.sleep(math.inf)
        else:
            await stream.send_all(struct.pack(">H", len(answer)) + answer)


async def read_exactly(stream: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise trio.BrokenResourceError("the peer is gone")
        data += more
    return data
