"""The trio side of the agent. What comes from it is hostile: checked, bounded, and in order."""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import trio

from jail.agent import wire
from jail.answer import Built, Call, Ear, GateFds, Inside, Nobody, Receiver, read_setup
from jail.errors import HostError, JailBroken, ProtocolError, SpecError, TransferError

SEND_GRACE_S = 2.0
AGENT_GONE = "the jail's agent has gone"
IN_FLIGHT_REMEDY = (
    "Some process of yours has sent as many file descriptors as it may have open, and nobody has "
    "received them: unix(7). Jails with ids of their own (userns auto) have a budget of their own."
)


class Sender(Protocol):
    """Who wants to know how far a request has come."""

    def on_wait(self) -> None:
        """The agent is slow to read: it may take long."""

    def on_send(self) -> None:
        """The first byte is about to go: from here on there will be an answer."""


ANSWERS = {
    wire.OpenFile: wire.Opened,
    wire.ListDir: wire.Listed,
    wire.MakeDir: wire.Done,
    wire.MakeLink: wire.Done,
}


class Session:
    """One jail's connection. Owns the socket; :meth:`read` is the task that hands answers out."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._raw = ours
        self._sock = trio.socket.from_stdlib_socket(ours)
        self._send_lock = trio.Lock()
        self._buffer = wire.FrameBuffer(wire.FACTS)
        self._next = 0
        self._ready = Call(wire.Ready, wire.SetupFailed)
        self._setup: Call | Built | None = self._ready
        self.ear = Ear()
        self._expected_ear: Ear | None = None
        self.gate = GateFds()
        self._expected_gate: GateFds | None = None
        self._runs: dict[int, Receiver] = {}
        self._requests: dict[int, Call | Nobody] = {}
        self.broken: Exception | None = None
        self._has_broken = trio.Event()
        self.on_break: Callable[[], None] | None = None
        """called when the jail has to end: something inside breaks the protocol or reads nothing"""
        self.tell_end: Callable[[], str] = lambda: AGENT_GONE
        """asked when the agent has hung up: why"""

    async def send_frame(self, frame: bytes) -> None:
        """A whole frame that was packed before."""
        await self._send_packed(frame)

    async def wait_ready(self) -> Inside:
        """What Ready brings; HostError or SpecError when init gave up."""
        return read_setup(*await self._ready.get())

    def expect_ready(self, on_ready: Callable[[Inside], None], on_fail: Callable[[], None]) -> None:
        """Instead of waiting: that goes to ``on_ready``; if init gives up, the session breaks.

        Requests may be sent at once; the agent reads them when it is ready.
        """
        built = Built(on_ready, on_fail)
        if self._setup is not None:
            self._setup = built
        elif (answer := self._ready.take()) is not None:
            built.receive(*answer)
        else:
            on_fail()

    def expect_listener(self) -> None:
        """One is to come behind Ready; it goes to :attr:`ear`."""
        self._expected_ear = self.ear

    def expect_gate(self) -> None:
        """The sockets of a network that leads to us are to come behind Ready: :attr:`gate`."""
        self._expected_gate = self.gate

    @contextmanager
    def open_run(self, receiver: Receiver) -> Iterator[int]:
        """A run number, whose answers go to ``receiver``."""
        self._raise_if_broken()
        self._next += 1
        number = self._next
        self._runs[number] = receiver
        try:
            yield number
        finally:
            self._runs.pop(number, None)

    async def ask(self, kind: Any, *fields: Any) -> tuple[Any, list[int]]:
        """One file request; TransferError with the agent's words where it failed."""
        self._raise_if_broken()
        self._next += 1
        number, call = self._next, Call(ANSWERS[kind], wire.Failed)
        self._requests[number] = call
        try:
            await self._send(kind(number, *fields))
            answer, fds = await call.get()
        finally:
            if number in self._requests:  # cancelled; the agent will answer all the same
                self._requests[number] = Nobody(call.kinds)
            call.close()
        if isinstance(answer, wire.Failed):
            raise TransferError(answer.detail[:1000], errno=answer.errno)
        return answer, fds

    async def send(
        self,
        message: Any,
        fds: Sequence[int] = (),
        sender: Sender | None = None,
    ) -> None:
        """One request without an answer of its own."""
        self._raise_if_broken()
        await self._send_packed(wire.pack_frame(message), fds, sender)

    async def _send(self, message: Any) -> None:
        await self._send_packed(wire.pack_frame(message))

    async def _send_packed(
        self,
        packed: bytes,
        fds: Sequence[int] = (),
        sender: Sender | None = None,
    ) -> None:
        """At once where the socket takes it, which spares a round of the scheduler."""
        frame = memoryview(packed)
        rights = []
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
        try:
            if not self._send_lock.locked():
                if sender is not None:
                    sender.on_send()
                with suppress(BlockingIOError):
                    frame = frame[self._raw.sendmsg([frame], rights) :]
                    rights = []
            if frame:
                if sender is not None:
                    sender.on_wait()
                await self._send_rest(frame, rights, sender)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                raise HostError.at_step("descriptors", error.errno, IN_FLIGHT_REMEDY) from error
            # What it said before it went lies in the socket, and is the reason.
            with trio.move_on_after(SEND_GRACE_S):
                await self._has_broken.wait()
            raise self.broken or JailBroken(AGENT_GONE) from error

    async def _send_rest(
        self, frame: memoryview, rights: list[tuple[int, int, bytes]], sender: Sender | None
    ) -> None:
        async with self._send_lock:
            if sender is not None:
                sender.on_send()
            try:
                while frame:
                    frame = frame[await self._sock.sendmsg([frame], rights) :]
                    rights = []
            finally:
                if frame:
                    await self._send_tail(frame, rights)

    async def _send_tail(self, frame: memoryview, rights: list[tuple[int, int, bytes]]) -> None:
        """Half a frame can't be taken back: cancelled, the rest goes out, or the jail ends."""
        with trio.move_on_after(SEND_GRACE_S, shield=True):
            while frame:
                frame = frame[await self._sock.sendmsg([frame], rights) :]
                rights = []
        if frame:
            self._break(JailBroken("the jail's agent takes no more requests"), kill=True)

    async def read(self) -> None:
        """Until the agent hangs up or says something no agent says."""
        try:
            while True:
                data, ancillary, flags, _ = await self._sock.recvmsg(
                    wire.RECEIVE_BYTES, wire.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
                if not data:
                    raise JailBroken(self.tell_end())
                self._buffer.feed(data, ancillary, flags)
                while (taken := self._buffer.take()) is not None:
                    self._hand_out(*taken)
        except wire.TruncatedError:
            # What it brought is lost, perhaps the listener that programs wait for.
            self._break(HostError.at_step("descriptors", errno.EMFILE), kill=True)
        except wire.WireError as error:
            self._break(ProtocolError(f"from inside the jail: {error}"))
        except OSError:
            self._break(JailBroken(self.tell_end()))
        except (JailBroken, HostError, SpecError) as error:
            self._break(error)

    def _hand_out(self, message: Any, fds: list[int]) -> None:
        receiver = self._find_receiver(message)
        if receiver is not None:
            try:
                receiver.receive(message, fds)
            except (ProtocolError, HostError, SpecError, OSError) as error:
                # It may have been taken off the list of those who are told.
                receiver.fail(error)
                raise
            return
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"from inside the jail: {type(message).__name__} that nobody asked for")

    def _find_receiver(self, message: Any) -> Receiver | None:
        """What ends a run or answers a request is taken once: the second of a kind finds nobody."""
        if isinstance(message, wire.Ready | wire.SetupFailed):
            setup, self._setup = self._setup, None
            return setup
        if isinstance(self._setup, Built):
            return None  # nobody has an answer before the jail is built
        if isinstance(message, wire.Exited | wire.NotStarted):
            return self._runs.pop(message.run, None)
        if isinstance(message, wire.Listening) and message.run == 0:
            ear, self._expected_ear = self._expected_ear, None
            return ear
        if isinstance(message, wire.Gated):
            gate, self._expected_gate = self._expected_gate, None
            return gate
        if isinstance(message, wire.Started | wire.StartedTerminal | wire.Listening | wire.Refused):
            return self._runs.get(message.run)
        call = self._requests.get(message.request)
        if call is None or type(message) not in call.kinds:
            return None
        return self._requests.pop(message.request)

    def accuse(self, what: str) -> ProtocolError:
        """What an answer turned out to be, that no honest agent gives: the jail is killed."""
        error = ProtocolError(f"from inside the jail: {what}")
        if self.broken is None:
            self._break(error)
        return error

    def give_up(self, error: Exception) -> None:
        """What the jail relies on has failed: it ends, and all in it, for that reason."""
        self._break(error, kill=True)

    def _break(self, error: Exception, kill: bool = False) -> None:
        self.broken = self.broken or error
        self._has_broken.set()
        if (kill or isinstance(error, ProtocolError)) and self.on_break is not None:
            self.on_break()
        setup = (self._setup,) if self._setup else ()
        for call in (*setup, self._ready, *self._runs.values(), *self._requests.values()):
            call.fail(error)

    def _raise_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    def close(self) -> None:
        self._sock.close()
        self._buffer.close()
        self._ready.close()
        self.ear.close()
        self.gate.close()
        self._break(self.broken or JailBroken("the jail is closed"))
