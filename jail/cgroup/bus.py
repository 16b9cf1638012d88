"""A few questions over D-Bus, by one task: whoever asks reads the answers himself.

Of jeepney only what does no I/O: its own connections need a task beside them, and try for ever
to log in to a bus that has hung up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import trio

from jail.errors import make_line
from jail.place import is_abstract

READ_BYTES: Final = 4096
SHOWN_CHARS: Final = 200
MAX_BYTES: Final = 1024 * 1024
"""of all that one connection is told: more is no answer to us"""


class BusError(Exception):
    """It can't be reached, refuses, or talks nonsense; the text says which."""


@dataclass(frozen=True)
class Target:
    """Who is asked: an object of the one who owns a name on the bus."""

    name: str
    path: str
    interface: str


DAEMON: Final = Target("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class Bus:
    """A connection; made by :func:`open_bus`. What is told unasked waits for its reader."""

    def __init__(self, stream: trio.SocketStream) -> None:
        from jeepney.low_level import Parser

        self._stream = stream
        self._parser = Parser()
        self._serials = count(1)
        self._unread: deque[Any] = deque()
        self._bytes = 0
        self.name = ""
        """our own on it"""

    async def call(
        self, target: Target, method: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        """The answer's body. Nobody is started to give it."""
        from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call

        address = DBusAddress(target.path, target.name, target.interface)
        message = new_method_call(address, method, signature or None, body)
        message.header.flags |= MessageFlag.no_auto_start
        serial = next(self._serials)
        await self._send(message.serialise(serial))
        while True:
            reply = await self._receive()
            if reply.header.fields.get(HeaderFields.reply_serial) != serial:
                self._unread.append(reply)
            elif reply.header.message_type is MessageType.error:
                raise BusError(make_line(_describe_refusal(reply)[:SHOWN_CHARS]))
            else:
                return tuple(reply.body)

    async def receive_signal(self, target: Target, member: str) -> tuple[Any, ...]:
        """The next one's body, of those that a match rule brings."""
        from jeepney import HeaderFields, MessageType

        wanted = {
            HeaderFields.path: target.path,
            HeaderFields.interface: target.interface,
            HeaderFields.member: member,
        }
        while True:
            message = self._unread.popleft() if self._unread else await self._receive()
            if message.header.message_type is not MessageType.signal:
                continue
            if wanted.items() <= message.header.fields.items():
                return tuple(message.body)

    async def log_in(self) -> None:
        """By our uid, which the bus asks the kernel for; then our name."""
        from jeepney.auth import BEGIN, AuthenticationError, Authenticator

        steps = Authenticator(inc_null_byte=False)
        await self._send(b"\0")
        try:
            for text in steps:
                await self._send(text)
                steps.feed(await self._read())
        except AuthenticationError as error:
            raise BusError(f"the bus lets us not in: {error.data[:80]!r}") from error
        await self._send(BEGIN)
        self.name = take(await self.call(DAEMON, "Hello"), str)

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BusError("the bus has hung up") from error

    async def _receive(self) -> Any:
        while True:
            try:
                message = self._parser.get_next_message()
            except Exception as error:  # it takes every byte for what it should be
                raise BusError("the bus talks no D-Bus") from error
            if message is not None:
                return message
            self._parser.add_data(await self._read())

    async def _read(self) -> bytes:
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        self._bytes += len(data)
        if not data:
            raise BusError("the bus has hung up")
        if self._bytes > MAX_BYTES:
            raise BusError(f"the bus tells more than {MAX_BYTES} bytes")
        return bytes(data)


@asynccontextmanager
async def open_bus(socket: str) -> AsyncGenerator[Bus, None]:
    """Logged in. ``socket`` is one of :func:`jail.place.read_buses`; no time is kept here."""
    try:
        stream = await trio.open_unix_socket(socket)
    except OSError as error:
        raise BusError(f"{show_socket(socket)}: {error.strerror or error}") from error
    async with stream:
        bus = Bus(stream)
        await bus.log_in()
        yield bus


def show_socket(socket: str) -> str:
    return f"@{socket[1:]}" if is_abstract(socket) else socket


def take(body: tuple[Any, ...], kind: type[Any], index: int = 0) -> Any:
    """A value of an answer, which is of this kind, or the answer is none."""
    if len(body) <= index or not isinstance(body[index], kind):
        raise BusError("the bus answers something else")
    return body[index]


def _describe_refusal(reply: Any) -> str:
    from jeepney import HeaderFields

    name = str(reply.header.fields.get(HeaderFields.error_name, "")).rpartition(".")[2]
    said = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
    return f"{name}: {said}" if said else name or "refused"
