"""Our own standard streams, relayed to and from a program's.

They may be shared with whoever started us (a shell, a pipeline), so they stay blocking: setting
O_NONBLOCK on them would set it for everybody, fcntl(2). Instead nothing is read or written
before the kernel says that it won't block.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Awaitable, Callable, Sequence

import trio

from jail.stream import OutputStream

PIPE_BUF = 4096
"""a pipe that polls as writable takes this much without blocking: pipe(7)"""
FILE_CHUNK_BYTES = 64 * 1024


Sink = Callable[[bytes], Awaitable[None]]


async def relay_output(stream: OutputStream, sinks: Sequence[Sink]) -> None:
    """All that comes, to every sink, until the end."""
    while data := await stream.receive_some():
        for sink in sinks:
            await sink(data)


async def relay_input(fd: int, stream: trio.abc.SendStream) -> None:
    """Until the end of our input, or until the program reads no more of it."""
    wait = trio.lowlevel.wait_readable if is_pollable(fd) else _pass
    try:
        while True:
            await wait(fd)
            data = os.read(fd, FILE_CHUNK_BYTES)
            if not data:
                break
            await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass
    await stream.aclose()


class Writer:
    """One of our own output streams, as a sink. Doesn't own the fd.

    ``on_closed`` is called when its reader has gone; it has to cancel whoever writes.
    """

    def __init__(self, fd: int, on_closed: Callable[[], None]) -> None:
        self._fd = fd
        self._waits = is_pollable(fd)
        self._on_closed = on_closed

    async def write(self, data: bytes) -> None:
        """All of it, or for ever."""
        view = memoryview(data)
        size = PIPE_BUF if self._waits else FILE_CHUNK_BYTES
        while view:
            if self._waits:
                await trio.lowlevel.wait_writable(self._fd)
            try:
                view = view[os.write(self._fd, view[:size]) :]
            except BlockingIOError:
                continue
            except OSError:
                self._on_closed()
                await trio.sleep_forever()

    async def watch(self) -> None:
        """See a pipe's reader go also while nothing is written."""
        if self._waits and stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            await trio.lowlevel.wait_readable(self._fd)
            if has_error(self._fd):
                self._on_closed()


class Buffer:
    """A sink that keeps what it gets, up to ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._parts: list[bytes] = []
        self.overflowed = False

    async def write(self, data: bytes) -> None:
        """Never waits."""
        kept = data[: self._room]
        self._room -= len(kept)
        self.overflowed = self.overflowed or len(kept) < len(data)
        self._parts.append(kept)

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)


def is_pollable(fd: int) -> bool:
    """Regular files and /dev/null are always ready, and epoll(7) refuses them."""
    with select.epoll() as poll:
        try:
            poll.register(fd, select.EPOLLIN)
        except OSError:
            return False
    return True


def has_error(fd: int) -> bool:
    """POLLERR on a pipe's write end: its last reader has gone, poll(2)."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


async def _pass(fd: int) -> None:
    await trio.lowlevel.checkpoint()
