"""A name server on loopback that tests make say what they like, over UDP and TCP."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio
from dns.message import Message
from dns.name import Name
from dns.rdatatype import RdataType
from dns.rrset import RRset

from jail.egress.upstream import Upstream

Said = Message | bytes | None
"""bytes go out as they are; None is silence"""


@dataclass
class NameServer:
    """Who answers, and what it was asked: (name, type, transport)."""

    say: Callable[[Message, str], list[Said]]
    address: Upstream = ("127.0.0.1", 0)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)

    def find(self, packet: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(packet)
        asked = query.question[0]
        self.packets.append(packet)
        self.asked.append(
            (asked.name.to_text(True), dns.rdatatype.to_text(asked.rdtype), transport)
        )
        said = self.say(query, transport)
        return [make_wire(each) for each in said if each is not None]

    async def serve(self, stream: trio.SocketStream) -> None:
        """One question of a connection."""
        async with stream:
            size = int.from_bytes(await stream.receive_some(2), "big")
            with suppress(trio.BrokenResourceError):
                for reply in self.find(await stream.receive_some(size), "tcp"):
                    await stream.send_all(len(reply).to_bytes(2, "big") + reply)


def make_wire(said: Message | bytes) -> bytes:
    return said if isinstance(said, bytes) else said.to_wire(max_size=65535)


def make_zone(**names: str) -> Callable[[Message, str], list[Said]]:
    """Answers out of zone text: ``www_example_org="A 192.0.2.1; TXT hello"``; with the aliases
    that lead there, as name servers do. ``300 A 192.0.2.1`` has a lifetime.
    """
    records: dict[tuple[Name, int], RRset] = {}
    for name, text in names.items():
        for line in filter(None, map(str.strip, text.split(";"))):
            ttl, kind, data = (line if line[0].isdigit() else f"300 {line}").split(None, 2)
            new = dns.rrset.from_text(name.replace("_", ".") + ".", int(ttl), "IN", kind, data)
            known = records.setdefault((new.name, new.rdtype), new)
            known.add(new[0], new.ttl)

    def say(query: Message, transport: str) -> list[Said]:
        reply = dns.message.make_response(query, recursion_available=True)
        name, kind = query.question[0].name, query.question[0].rdtype
        reply.answer = list(follow(records, name, kind))
        if name not in {owner for owner, _ in records}:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return [reply]

    return say


def follow(records: dict[tuple[Name, int], RRset], name: Name, kind: int) -> list[RRset]:
    if (found := records.get((name, kind))) is not None:
        return [found]
    alias = records.get((name, RdataType.CNAME))
    return [alias, *follow(records, alias[0].target, kind)] if alias is not None else []


def answer_with(*records: str) -> Callable[[Message, str], list[Said]]:
    """These lines (``NAME TTL A DATA``), whatever was asked; nothing is checked or put in order."""

    def say(query: Message, transport: str) -> list[Said]:
        reply = dns.message.make_response(query, recursion_available=True)
        for line in records:
            owner, ttl, kind, data = line.split(None, 3)
            reply.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        return [reply]

    return say


@asynccontextmanager
async def open_name_server(
    say: Callable[[Message, str], list[Said]],
    serve_stream: Callable[[trio.SocketStream], Awaitable[None]] | None = None,
    host: str = "127.0.0.1",
) -> AsyncGenerator[NameServer, None]:
    """Listens on one port of loopback until the block ends."""
    server = NameServer(say)
    listener, sock = await open_sockets(host)
    server.address = (host, listener.socket.getsockname()[1])
    with sock:
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(serve_datagrams, server, sock)
            nursery.start_soon(trio.serve_listeners, serve_stream or server.serve, [listener])
            yield server
            nursery.cancel_scope.cancel()


async def open_sockets(host: str) -> tuple[trio.SocketListener, trio.socket.SocketType]:
    """Of one port; one that is free for TCP may be another's for UDP."""
    while True:
        [listener] = await trio.open_tcp_listeners(0, host=host)
        sock = trio.socket.socket(listener.socket.family, socket.SOCK_DGRAM)
        try:
            await sock.bind(listener.socket.getsockname())
        except OSError as error:
            sock.close()
            await listener.aclose()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return listener, sock


async def serve_datagrams(server: NameServer, sock: trio.socket.SocketType) -> None:
    while True:
        packet, source = await sock.recvfrom(65535)
        server.sources.add(source[1])
        for reply in server.find(packet, "udp"):
            await sock.sendto(reply, source)
