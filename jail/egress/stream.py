"""Questions and answers on one connection: each behind its length, several at once (RFC 7766)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from jail.egress.question import MAX_QUERY_BYTES

IDLE_S: Final = 10.0
"""for the next question to come, and for an answer to be taken"""
MAX_PIPELINED: Final = 16
"""questions of one connection that are being answered; the next one waits unread"""

Answer = Callable[[bytes], Awaitable[bytes | None]]


class _Hung(Exception):
    """The other side has gone, or takes its time."""


async def serve_stream(answer: Answer, stream: trio.abc.Stream) -> None:
    """Until the other side has no more questions or is idle; closes the stream."""
    async with stream:
        conversation = _Conversation(answer, stream)
        try:
            async with trio.open_nursery() as nursery:
                await conversation.read_questions(nursery)
        except* _Hung:
            pass


class _Conversation:
    """Answers go out as they come in, whole ones."""

    def __init__(self, answer: Answer, stream: trio.abc.Stream) -> None:
        self._answer, self._stream = answer, stream
        self._sending = trio.Lock()
        self._places = trio.Semaphore(MAX_PIPELINED)
        self._is_broken = False
        self._read = b""

    async def read_questions(self, nursery: trio.Nursery) -> None:
        while (packet := await self._receive_question()) is not None:
            await self._places.acquire()
            nursery.start_soon(self._serve, packet)

    async def _serve(self, packet: bytes) -> None:
        try:
            reply = await self._answer(packet)
            if reply is None:
                raise _Hung
            await self._send(reply)
        finally:
            self._places.release()

    async def _send(self, reply: bytes) -> None:
        """Whole: behind a part of one, another could not be told from its rest."""
        async with self._sending:
            if self._is_broken:
                return
            self._is_broken = True
            try:
                with trio.fail_after(IDLE_S):
                    await self._stream.send_all(len(reply).to_bytes(2, "big") + reply)
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise _Hung from None
            self._is_broken = False

    async def _receive_question(self) -> bytes | None:
        """None at the end, wherever it comes."""
        try:
            with trio.fail_after(IDLE_S):
                head = await self._receive(2)
                size = int.from_bytes(head or b"", "big")
                return await self._receive(size) if 0 < size <= MAX_QUERY_BYTES else None
        except trio.TooSlowError:
            return None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Hung from None

    async def _receive(self, size: int) -> bytes | None:
        while len(self._read) < size:
            more = await self._stream.receive_some(65536)
            if not more:
                return None
            self._read += more
        data, self._read = self._read[:size], self._read[size:]
        return data
