"""The only way out of a jail whose network is filtered. Its parts, and what they ask each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from jail.background import Background
from jail.egress.book import Account, Book, Key, Log
from jail.egress.datagram import Counter, Datagrams
from jail.egress.gate import Gate, Injector, OwnAddresses
from jail.egress.inspector import Inspector, Refused
from jail.egress.netlink import ADDRESS4, ADDRESS6
from jail.egress.opened import Opened
from jail.egress.packet import Flow
from jail.egress.relay import Relay
from jail.egress.resolver import Query, Resolver
from jail.egress.share import Share
from jail.egress.upstream import Upstream
from jail.network.rule import DNS_PORT, AllowList, Decision, Transport, format_place
from jail.network.special import find_special

SETTLE_S: Final = 0.5
"""what a program has sent before it ended is on its way by then, or its target is slow"""
DRAIN_S: Final = 2.0


@dataclass(frozen=True)
class Permit:
    """What a connection was allowed by, and where it is counted."""

    decision: Decision
    account: Account


class Egress:
    """Owns what init hands over: :meth:`attach`. Its tasks end with ``background``; then it must be
    closed.

    ``hosts`` are names and addresses that nobody has to be asked for; ``own`` is the jail's name.
    """

    driver = "filtered"

    def __init__(
        self,
        allowed: AllowList,
        upstreams: Sequence[Upstream],
        hosts: Iterable[tuple[str, str]],
        own: str,
        background: Background,
        share: Share,
    ) -> None:
        self._share = share
        self._allowed, self._background = allowed, background
        self._opened = Opened()
        self._resolver = Resolver(
            allowed,
            upstreams,
            self._opened,
            self._note_query,
            hosts,
            [(own.lower(), str(address)) for address in (ADDRESS4, ADDRESS6)],
        )
        self._own = OwnAddresses()
        self._logs: list[Log] = []
        self._book = Book(lambda: self._logs)
        self._relays: dict[Relay, Account] = {}
        self._streams = 0
        self._is_closed = False
        self._gate: Gate | None = None
        self._datagrams: Datagrams | None = None
        self._injector: Injector | None = None

    @contextmanager
    def follow(self, log: Log) -> Iterator[None]:
        """What is tried meanwhile is written there."""
        self._logs.append(log)
        try:
            yield
        finally:
            self._logs.remove(log)

    def attach(self, fds: list[int]) -> None:
        """The sockets in the order of :func:`jail.zygote.gate.open_gate`, sent by an init that has
        run nothing yet.
        """
        if self._is_closed:
            for fd in fds:
                os.close(fd)
            return
        socks = [socket.socket(fileno=fd) for fd in fds]
        for sock in socks:
            sock.setblocking(False)
        tcp4, tcp6, udp4, udp6, raw4, raw6, log = socks
        start_soon = self._background.start_soon
        self._injector = injector = Injector(raw4, raw6)
        share = self._share
        gate = Gate(
            log, (tcp4, tcp6), injector, self._permit, self._carry, start_soon, share.pending
        )
        udp = (udp4, udp6)
        datagrams = Datagrams(
            udp, injector, self._permit_datagrams, self._resolve, start_soon, share.flows
        )
        self._gate, self._datagrams = gate, datagrams
        start_soon(gate.hold)
        for listener in (tcp4, tcp6):
            start_soon(gate.accept, listener)
        for sock in (udp4, udp6):
            start_soon(datagrams.take, sock)

    async def settle(self, log: Log) -> None:
        """Until what was tried is written there, and what was sent is on its way."""
        self._take_now()
        await self._wait_said(SETTLE_S, log)

    async def drain(self) -> None:
        """What was sent before the jail's end arrives, where it is taken in time."""
        self._take_now()
        with trio.CancelScope(shield=True):
            await self._wait_said(DRAIN_S)

    def _take_now(self) -> None:
        if self._gate is not None and self._datagrams is not None:
            self._gate.take_now()
            self._datagrams.take_now()

    async def _wait_said(self, most_s: float, log: Log | None = None) -> None:
        with trio.move_on_after(most_s):
            for relay, account in list(self._relays.items()):
                if log is None or account.is_of(log):
                    await relay.said_all.wait()

    # -- what is asked of it ----------------------------------------------------------------------

    def _permit(self, flow: Flow) -> Permit | None:
        decision, account = self._decide(flow, "tcp")
        if decision.allowed and len(self._relays) >= self._share.relays:
            account.refuse(decision.name, f"{self._share.relays} connections are open already", "")
            return None
        return Permit(decision, account) if decision.allowed else None

    def _permit_datagrams(self, flow: Flow) -> Counter | None:
        decision, account = self._decide(flow, "udp")

        def count(sent_bytes: int, received_bytes: int) -> None:
            account.move(self._logs)  # a flow may go on under the next run: it is a port, no more
            account.add(sent_bytes, received_bytes)

        return count if decision.allowed else None

    def _decide(self, flow: Flow, transport: Transport) -> tuple[Decision, Account]:
        address, port = flow.target
        is_own = find_special(address) != "loopback" and self._own.has(flow.target)
        names = self._opened.find(address, trio.current_time())
        decision = self._allowed.decide_address(address, port, transport, names, is_own)
        key = Key(
            transport,
            decision.allowed,
            decision.name,
            str(address),
            port,
            decision.reason,
            decision.remedy,
        )
        return decision, self._book.note(key)

    def _note_query(self, query: Query) -> None:
        remedy = "" if query.allowed else query.remedy
        reason = query.failure or query.reason
        key = Key("dns", query.allowed, query.name, "", DNS_PORT, reason, remedy)
        self._book.note(key)

    async def _resolve(self, question: bytes) -> bytes | None:
        return await self._resolver.answer(question, over_tcp=False)

    def _carry(
        self,
        flow: Flow,
        inside: socket.socket,
        outside: socket.socket | None,
        permit: Permit | None,
    ) -> None:
        if outside is None or permit is None:
            self._serve_resolver(inside)
            return
        account = permit.account
        relay = Relay(
            inside,
            outside,
            on_sent=lambda size: account.add(size, 0),
            on_received=lambda size: account.add(0, size),
            count_relays=self._relays.__len__,
        )
        if permit.decision.inspects:
            Inspection(self._allowed, flow, account, relay)
        self._relays[relay] = account
        self._background.start_soon(self._run, relay)

    async def _run(self, relay: Relay) -> None:
        try:
            await relay.run()
        finally:
            del self._relays[relay]

    def _serve_resolver(self, inside: socket.socket) -> None:
        if self._streams >= self._share.streams:
            inside.close()
            return
        self._streams += 1
        self._background.start_soon(self._answer_all, inside)

    async def _answer_all(self, inside: socket.socket) -> None:
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(inside))
            await self._resolver.serve_stream(stream)
        finally:
            self._streams -= 1

    def close(self) -> None:
        """Give all sockets back."""
        self._is_closed = True
        if self._gate is not None and self._datagrams is not None:
            self._gate.close()
            self._datagrams.close()
        if self._injector is not None:
            self._injector.close()


class Inspection:
    """The names that are spoken over a connection have to be allowed, like the one it was opened
    by.
    """

    def __init__(self, allowed: AllowList, flow: Flow, account: Account, relay: Relay) -> None:
        self._allowed, self._port = allowed, flow.target.port
        self._account, self._relay = account, relay
        self._inspector = Inspector(self._is_allowed)
        relay.inspect, relay.tell, relay.end = self._feed, self._tell, self._end

    def _is_allowed(self, name: str) -> bool:
        return self._allowed.decide_spoken(name, self._port).allowed

    def _feed(self, data: bytes) -> bytes:
        try:
            passed = self._inspector.feed(data)
        except Refused as refused:
            raise self._refuse(refused) from None
        self._account.hear(self._inspector.names)
        if self._inspector.is_done:
            self._relay.inspect = self._relay.end = None
            self._relay.tell = None
        return passed

    def _tell(self, data: bytes) -> bytes:
        try:
            return self._inspector.tell(data)
        except Refused as refused:
            raise self._refuse(refused) from None

    def _end(self) -> bytes:
        try:
            return self._inspector.end()
        except Refused as refused:
            raise self._refuse(refused) from None

    def _refuse(self, refused: Refused) -> OSError:
        """The connection is broken off; the target has seen nothing of what was refused."""
        remedy, reason = "", refused.reason
        if refused.name:
            decision = self._allowed.decide_spoken(refused.name, self._port)
            if not decision.allowed:
                remedy = (
                    ""
                    if decision.reason.startswith("--deny")
                    else (f"--allow {format_place(refused.name, self._port, 'tcp')}")
                )
        self._account.refuse(refused.name or "", reason, remedy)
        with suppress(OSError):
            self._relay.break_off()
        return ConnectionAbortedError(reason)
