"""Servers without any protocol that somebody could look into, by TCP and UDP."""

from __future__ import annotations

import hashlib
import socket
import struct
from typing import Any

import trio

from tests.network.web import send_pattern

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def serve_banner(stream: trio.SocketStream) -> None:
    """As ssh and smtp: the server speaks first."""
    await stream.send_all(b"SSH-2.0-world\r\n")
    await serve_echo(stream)


async def serve_echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def serve_digest(stream: trio.SocketStream) -> None:
    """Answers only when the client has closed its half."""
    digest, count = hashlib.sha256(), 0
    async for data in stream:
        digest.update(data)
        count += len(data)
    await stream.send_all(f"{count} {digest.hexdigest()}\n".encode())


async def serve_source(stream: trio.SocketStream) -> None:
    """And closes its half; then waits for the client's."""
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some(100)
    await send_pattern(stream, int(line))
    await stream.send_eof()
    async for _ in stream:
        continue


async def serve_reset(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


async def serve_udp_echo(socket: trio.socket.SocketType, note: Any) -> None:
    """Sends back what came, with the peer's address as it was seen."""
    while True:
        data, peer = await socket.recvfrom(65535)
        note()
        await socket.sendto(data, peer)


async def serve_quic(socket: trio.socket.SocketType, note: Any) -> None:
    """The first word of a QUIC server: a Version Negotiation packet (RFC 9000, 17.2.1), which
    has the connection ids of the Initial that it answers, the other way round.
    """
    while True:
        data, peer = await socket.recvfrom(65535)
        note()
        if len(data) < 7 or not data[0] & 0x80:
            continue
        to_length = data[5]
        to, rest = data[6 : 6 + to_length], data[6 + to_length :]
        from_ = rest[1 : 1 + rest[0]]
        ids = bytes([len(from_)]) + from_ + bytes([len(to)]) + to
        await socket.sendto(b"\x80\0\0\0\0" + ids + b"\0\0\0\1", peer)
