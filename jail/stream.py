"""The program's pipes: private ones, read and written by the supervisor alone, and counted."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from jail.errors import blame_host

CHUNK_BYTES = 64 * 1024
MAX_PIPE_BYTES = 1024 * 1024  # /proc/sys/fs/pipe-max-size, pipe(7)


class OutputStream(trio.abc.ReceiveStream):
    """What a program writes, up to the output limit.

    Owns its fd. Past the limit the bytes are dropped, ``truncated`` is set and the run is ended:
    however fast the flood, no more than the limit is ever held.
    """

    def __init__(self, fd: int, limit: int | None, on_excess: Callable[[], None]) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        self._stream: trio.lowlevel.FdStream | None = None
        """made when somebody waits: a short program's output is there when it is looked for"""
        self._limit = limit
        self._on_excess = on_excess
        self.total_bytes = 0
        self.truncated = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio's; b"" is the end, also where a terminal's other side has gone (EIO)."""
        while True:
            try:
                data = bytes(await self._open().receive_some(max_bytes or CHUNK_BYTES))
            except trio.BrokenResourceError:
                return b""
            kept = self._count(data)
            if kept or not data:
                return kept

    def receive_now(self) -> bytes | None:
        """What is there, without waiting; None where there is nothing (more)."""
        try:
            data = os.read(self._fd, CHUNK_BYTES)
        except OSError:
            return None
        return self._count(data) if data else None

    def _count(self, data: bytes) -> bytes:
        before, self.total_bytes = self.total_bytes, self.total_bytes + len(data)
        if self._limit is None or self.total_bytes <= self._limit:
            return data
        if not self.truncated:
            self.truncated = True
            self._on_excess()
        return data[: max(0, self._limit - before)]

    def _open(self) -> trio.lowlevel.FdStream:
        if self._fd < 0:
            raise trio.ClosedResourceError("the stream is closed")
        if self._stream is None:
            self._stream = trio.lowlevel.FdStream(self._fd)
        return self._stream

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class Collector:
    """Reads one stream to its end into memory."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._parts: list[bytes] = []

    async def run(self) -> None:
        while data := await self._stream.receive_some():
            self._parts.append(data)

    def drain(self) -> None:
        """What is left in the pipe when nobody waits for more; no more than a pipe can hold."""
        for _ in range(MAX_PIPE_BYTES // CHUNK_BYTES):
            data = self._stream.receive_now()
            if data is None:
                return
            self._parts.append(data)

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)


async def feed(fd: int, data: bytes) -> None:
    """Write it all and close; a program that doesn't read its input has every right to."""
    async with trio.lowlevel.FdStream(fd) as stream:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            return


def fill(fd: int, data: bytes) -> bytes:
    """Write what a pipe takes without waiting, and give the rest.

    Where its user has filled many others, a new one holds no more than two pages: pipe(7),
    ``pipe-user-pages-soft``. That user is a program of ours, too, where it has our id.
    """
    os.set_blocking(fd, False)
    try:
        return data[os.write(fd, data) :]
    except BlockingIOError:
        return data


def open_pipe() -> tuple[int, int]:
    """(read end, write end), both close-on-exec. HostError when there are none left.

    A program of another id opens ``/dev/stdout``, too, which asks for a right to the pipe itself.
    Nobody has a way to it but who has the descriptor.
    """
    with blame_host("pipe"):
        reader, writer = os.pipe2(os.O_CLOEXEC)
    os.fchmod(writer, 0o666)
    return reader, writer
