"""The trio side of the agent. What comes from it is hostile: checked, bounded, and in order."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from jail.agent import wire
from jail.errors import HostError, JailBroken, ProtocolError, TransferError


class Call:
    """Something that was asked: a run (several answers) or a file request (one)."""

    def __init__(self) -> None:
        self._ready = trio.Event()
        self._answers: deque[tuple[Any, list[int]]] = deque()
        self._started = False
        self.broken: Exception | None = None

    def take_start(self) -> bool:
        """True the first time: a run starts once."""
        first, self._started = not self._started, True
        return first

    def put(self, message: Any, fds: list[int]) -> None:
        self._answers.append((message, fds))
        self._ready.set()

    def fail(self, error: Exception) -> None:
        self.broken = error
        self._ready.set()

    async def get(self) -> tuple[Any, list[int]]:
        """The next answer; raises what broke the session. Answers that came before it count."""
        await self._ready.wait()
        if not self._answers:
            assert self.broken is not None
            raise self.broken
        answer = self._answers.popleft()
        if not self._answers and self.broken is None:
            self._ready = trio.Event()
        return answer

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        for _, fds in self._answers:
            for fd in fds:
                os.close(fd)
        self._answers.clear()


class Session:
    """One jail's connection. Owns the socket; :meth:`read` is the task that hands answers out."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._sock = trio.socket.from_stdlib_socket(ours)
        self._send_lock = trio.Lock()
        self._buffer = wire.FrameBuffer(wire.FACTS)
        self._next = 0
        self._ready = Call()
        self._setup: Call | None = self._ready
        self._runs: dict[int, Call] = {}
        self._requests: dict[int, Call] = {}
        self.broken: Exception | None = None

    async def send_setup(self, plan: dict[str, Any]) -> None:
        await self._send(wire.Setup(wire.PROTOCOL_VERSION, plan))

    async def wait_ready(self) -> tuple[int, int]:
        """The fds of the jail's /proc and scratch filesystem; HostError when init gave up."""
        message, fds = await self._ready.get()
        if isinstance(message, wire.SetupFailed):
            raise make_setup_error(message)
        if message.version != wire.PROTOCOL_VERSION:
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"the agent speaks version {message.version}")
        return fds[0], fds[1]

    @contextmanager
    def open_run(self) -> Iterator[tuple[int, Call]]:
        """A run number and where its answers come in."""
        self._raise_if_broken()
        self._next += 1
        number, call = self._next, Call()
        self._runs[number] = call
        try:
            yield number, call
        finally:
            self._runs.pop(number, None)
            call.close()

    async def ask(self, kind: Any, *fields: Any) -> tuple[Any, list[int]]:
        """One file request; TransferError with the agent's words where it failed."""
        self._raise_if_broken()
        self._next += 1
        number, call = self._next, Call()
        self._requests[number] = call
        try:
            await self._send(kind(number, *fields))
            answer, fds = await call.get()
        finally:
            self._requests.pop(number, None)
            call.close()
        if isinstance(answer, wire.Failed):
            raise TransferError(answer.detail[:1000], errno=answer.errno)
        return answer, fds

    async def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """One request without an answer of its own."""
        self._raise_if_broken()
        await self._send(message, fds)

    async def _send(self, message: Any, fds: Sequence[int] = ()) -> None:
        frame = wire.pack_frame(message)
        rights = []
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
        try:
            async with self._send_lock:
                sent = await self._sock.sendmsg([frame], rights)
                while sent < len(frame):
                    sent += await self._sock.send(memoryview(frame)[sent:])
        except OSError as error:
            raise self.broken or JailBroken("the jail's agent has gone") from error

    async def read(self) -> None:
        """Until the agent hangs up or says something no agent says."""
        try:
            while True:
                data, ancillary, flags, _ = await self._sock.recvmsg(
                    wire.RECEIVE_BYTES, wire.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                if not data:
                    raise JailBroken("the jail's agent has gone")
                self._buffer.feed(data, ancillary, flags)
                while (taken := self._buffer.take()) is not None:
                    self._hand_out(*taken)
        except wire.WireError as error:
            self._break(ProtocolError(f"from inside the jail: {error}"))
        except OSError:
            self._break(JailBroken("the jail's agent has gone"))
        except JailBroken as error:
            self._break(error)

    def _hand_out(self, message: Any, fds: list[int]) -> None:
        call = self._find_call(message)
        if call is not None:
            call.put(message, fds)
            return
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"from inside the jail: {type(message).__name__} that nobody asked for")

    def _find_call(self, message: Any) -> Call | None:
        """An answer is taken once: the second of a kind finds nobody."""
        if isinstance(message, wire.Ready | wire.SetupFailed):
            setup, self._setup = self._setup, None
            return setup
        if isinstance(message, wire.Exited | wire.NotStarted):
            return self._runs.pop(message.run, None)
        if isinstance(message, wire.Started | wire.StartedTerminal):
            call = self._runs.get(message.run)
            return call if call is not None and call.take_start() else None
        return self._requests.pop(message.request, None)

    def _break(self, error: Exception) -> None:
        self.broken = error
        for call in (self._ready, *self._runs.values(), *self._requests.values()):
            call.fail(error)

    def _raise_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    def close(self) -> None:
        self._sock.close()
        self._buffer.close()
        self._ready.close()
        self._break(self.broken or JailBroken("the jail is closed"))


def make_setup_error(message: wire.SetupFailed) -> HostError:
    """Init's report in our words."""
    step, detail = message.step[:200], message.detail[:1000]
    said = detail or os.strerror(message.errno)
    return HostError(f"{step}: {said}", step=step, errno=message.errno or None)
