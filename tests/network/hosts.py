"""Everybody on the tests' internet: all servers at all addresses, and what they saw."""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from tests.network import place, plain, web
from tests.network.zone import Zone, serve_datagrams, serve_stream

IPV6_V6ONLY: Final = 26
BACKLOG: Final = 512
MAX_SEEN: Final = 10_000

Serve = Callable[[trio.SocketStream, dict[str, Any]], Awaitable[None]]


class Hosts:
    """The servers. ``seen`` is every connection, datagram and request, in order."""

    def __init__(self, folder: Path) -> None:
        self.zone = Zone()
        self.seen: list[dict[str, Any]] = []
        self._files = folder / "files"
        self._names = web.Names(folder)

    def obey(self, order: dict[str, Any]) -> Any:
        """What a test wants done, or to know."""
        match order["do"]:
            case "script":
                self.zone.script[order["name"]] = order["replies"]
            case "forget":
                self.zone.forget()
                self.seen.clear()
            case "seen":
                return self.seen
            case "asked":
                return self.zone.asked
        return None

    async def start(self, nursery: trio.Nursery) -> None:
        """Returns when all of them listen."""
        plain_ones: dict[int, Serve] = {
            place.BANNER: lambda stream, _: plain.serve_banner(stream),
            place.ECHO: lambda stream, _: plain.serve_echo(stream),
            place.DIGEST: lambda stream, _: plain.serve_digest(stream),
            place.SOURCE: lambda stream, _: plain.serve_source(stream),
            place.RESET: lambda stream, _: plain.serve_reset(stream),
            place.HTTP: self._serve_http,
            place.HTTPS: self._serve_https,
        }
        for address in place.SERVERS:
            for port, serve in plain_ones.items():
                nursery.start_soon(self._serve_tcp, listen(address, port), serve)
            for port, answer in ((place.ECHO, plain.serve_udp_echo), (443, plain.serve_quic)):
                bound = bind(address, port)
                nursery.start_soon(answer, bound, functools.partial(self._note_udp, address, port))
        for address in place.DNS_SERVERS:
            nursery.start_soon(serve_datagrams, self.zone, bind(address, 53), address)
            nursery.start_soon(self._serve_tcp, listen(address, 53), self._serve_dns)

    async def _serve_tcp(self, listener: trio.SocketListener, serve: Serve) -> None:
        await trio.serve_listeners(functools.partial(self._serve_one, serve), [listener])

    async def _serve_one(self, serve: Serve, stream: trio.SocketStream) -> None:
        """A client may break off whenever it likes."""
        with suppress(OSError, *web.BROKEN):
            address, port = stream.socket.getsockname()[:2]
            where = {"protocol": "tcp", "address": address, "port": port}
            self._note(where)
            await serve(stream, where)

    async def _serve_http(self, stream: trio.SocketStream, where: dict[str, Any]) -> None:
        await web.serve_requests(stream, where, self._note, self._files)

    async def _serve_https(self, stream: trio.SocketStream, where: dict[str, Any]) -> None:
        await web.serve_tls(self._names, stream, where, self._note, self._files)

    async def _serve_dns(self, stream: trio.SocketStream, where: dict[str, Any]) -> None:
        await serve_stream(self.zone, stream, where["address"])

    def _note_udp(self, address: str, port: int) -> None:
        self._note({"protocol": "udp", "address": address, "port": port})

    def _note(self, event: dict[str, Any]) -> None:
        if len(self.seen) < MAX_SEEN:
            self.seen.append(dict(event))


def bind(address: str, port: int) -> trio.socket.SocketType:
    bound = make_socket(address, socket.SOCK_DGRAM)
    bound.bind((address, port))
    return trio.socket.from_stdlib_socket(bound)


def listen(address: str, port: int) -> trio.SocketListener:
    bound = make_socket(address, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address, port))
    bound.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def make_socket(address: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.setblocking(False)
    return made
