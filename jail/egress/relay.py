"""The bytes of one connection, both ways, as fast as the slower side takes them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

CHUNK_BYTES: Final = 512 * 1024
MIN_CHUNK_BYTES: Final = 16 * 1024
ALL_CHUNKS_BYTES: Final = 8 * 1024 * 1024
"""what all connections of a jail hold together, about, where none of their readers reads"""
TURN_CHUNKS: Final = 4
"""what one direction moves before the others have their turn"""
_LINGER_NOT: Final = struct.pack("ii", 1, 0)

Filter = Callable[[bytes], bytes]


def find_chunk_bytes(relays: int) -> int:
    """What one of so many takes at once: nobody else waits long, or pays for what isn't read."""
    return max(MIN_CHUNK_BYTES, min(CHUNK_BYTES, ALL_CHUNKS_BYTES // max(relays, 1)))


class Relay:
    """Owns both sockets. ``inside`` is the program's connection, ``outside`` ours to its target.

    ``count_relays`` tells how many there are in this jail.
    """

    def __init__(
        self,
        inside: socket.socket,
        outside: socket.socket,
        on_sent: Callable[[int], None],
        on_received: Callable[[int], None],
        count_relays: Callable[[], int] = lambda: 1,
    ) -> None:
        self._count_relays = count_relays
        self._inside, self._outside = inside, outside
        self._on_sent, self._on_received = on_sent, on_received
        self.inspect: Filter | None = None
        """what the program says goes through this, until it is taken away; it may raise"""
        self.tell: Filter | None = None
        """is shown what the program is told, meanwhile; gives what the program said before, and may
        go on now"""
        self._turn = trio.Lock()
        """whoever has it says something to the target"""
        self.end: Callable[[], bytes] | None = None
        """what is left when the program says no more"""
        self.said_all = trio.Event()
        """all that the program has sent is on its way"""

    async def run(self) -> None:
        """Until both sides have ended. A side that breaks off has the other broken off."""
        try:
            with suppress(OSError):  # one may be gone again
                # Whoever wanted to wait for more has waited: what comes goes on at once.
                self._inside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._outside.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, nursery.cancel_scope)
                nursery.start_soon(self._receive, nursery.cancel_scope)
        except BaseException:
            if not self.said_all.is_set():
                self.break_off()  # an end in the middle must not look like one
            raise
        finally:
            self.said_all.set()
            self._inside.close()
            self._outside.close()

    async def _send(self, scope: trio.CancelScope) -> None:
        try:
            await self._pump(self._inside, self._outside, self._on_sent, is_sending=True)
        except OSError:
            self._break_off(scope)
        self.said_all.set()

    async def _receive(self, scope: trio.CancelScope) -> None:
        try:
            await self._pump(self._outside, self._inside, self._on_received, is_sending=False)
        except OSError:
            self._break_off(scope)

    def _break_off(self, scope: trio.CancelScope) -> None:
        self.break_off()
        scope.cancel()

    def break_off(self) -> None:
        """Both are reset when they are closed: socket(7), SO_LINGER."""
        for sock in (self._inside, self._outside):
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)

    async def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        count: Callable[[int], None],
        is_sending: bool,
    ) -> None:
        buffer = _get_buffer()
        turn = 0
        while True:
            chunk_bytes = find_chunk_bytes(self._count_relays())
            try:
                size = source.recv_into(buffer, chunk_bytes)
            except BlockingIOError:
                turn = 0
                await trio.lowlevel.wait_readable(source)
                continue
            if size == 0:
                await self._finish(sink, is_sending)
                return
            data: memoryview | bytes = buffer[:size]
            if is_sending and self.inspect is not None:
                data = self.inspect(bytes(data))
            elif not is_sending and self.tell is not None:
                held = self.tell(bytes(data))
                self._on_sent(len(held))
                await self._say(held)
            count(len(data))
            if is_sending and (self.tell is not None or self._turn.locked()):
                await self._say(data)
            else:
                await _send_all(sink, data)
            turn += size
            if turn >= TURN_CHUNKS * chunk_bytes:
                turn = 0
                await trio.lowlevel.checkpoint()

    async def _say(self, data: memoryview | bytes) -> None:
        """To the target, while there are two who may: in the order of what they have."""
        if data:
            async with self._turn:
                await _send_all(self._outside, data)

    async def _finish(self, sink: socket.socket, is_sending: bool) -> None:
        """The other side is told that nothing more will come: shutdown(2)."""
        if is_sending and self.end is not None:
            await self._say(self.end())
        sink.shutdown(socket.SHUT_WR)


async def _send_all(sink: socket.socket, data: memoryview | bytes) -> None:
    """What the socket doesn't take at once is copied: the buffer is everybody's."""
    try:
        sent = sink.send(data) if data else 0
    except BlockingIOError:
        sent = 0
    rest = memoryview(bytes(data[sent:]))
    while rest:
        await trio.lowlevel.wait_writable(sink)
        with suppress(BlockingIOError):
            rest = rest[sink.send(rest) :]


_LOCAL: Final = threading.local()


def _get_buffer() -> memoryview:
    """One for all relays of a thread: nobody holds it while he waits."""
    buffer: memoryview | None = getattr(_LOCAL, "buffer", None)
    if buffer is None:
        buffer = _LOCAL.buffer = memoryview(bytearray(CHUNK_BYTES))
    return buffer
