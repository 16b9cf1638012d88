"""Connections out of a jail. Each first packet is held until it is known what becomes of it.

The kernel hands us a copy of the SYN and drops it. When the target has taken our own connection
the SYN goes back in, and the kernel completes the handshake with our listener; when it hasn't,
the program gets the target's answer. So connect(2) means inside what it means outside.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

import trio

from jail.egress.packet import (
    TCP,
    Flow,
    Place,
    Syn,
    make_reset,
    make_syn,
    make_unreachable,
    parse_syn,
    read_log,
)
from jail.network.rule import DNS_PORT
from jail.network.special import Address

CONNECT_S: Final = 120.0
"""the kernel's own patience with tcp_syn_retries is 127 s: tcp(7)"""
GRANT_S: Final = 10.0
KNOWN_S: Final = 2.0
MAX_KNOWN: Final = 1000
BATCH: Final = 64
LOG_BYTES: Final = 64 * 1024
PAUSE_S: Final = 0.1
"""until there may be a descriptor again"""
LACKS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""says nothing of whom the program wants to reach"""
UNREACHABLE: Final = {errno.ENETUNREACH: "net", errno.EHOSTUNREACH: "host", errno.EACCES: "host"}

Carry = Callable[[Flow, socket.socket, socket.socket | None, Any], None]


class _Grant(NamedTuple):
    """A connection whose SYN has been let in, until the program's end of it comes."""

    target: socket.socket | None
    permit: Any
    sequence: int
    """of the SYN: the next connection between the same ends has another"""
    until: float

    def close(self) -> None:
        if self.target is not None:
            self.target.close()


class Injector:
    """Puts whole packets into the jail's network."""

    def __init__(self, raw4: socket.socket, raw6: socket.socket) -> None:
        self._raw4, self._raw6 = raw4, raw6

    def inject(self, packet: bytes, target: Address) -> None:
        """What finds no room is lost, as packets are."""
        raw = self._raw4 if target.version == 4 else self._raw6
        with suppress(OSError):
            raw.sendto(packet, socket.MSG_DONTWAIT, (str(target), 0))

    def close(self) -> None:
        for sock in (self._raw4, self._raw6):
            sock.close()


class Gate:
    """Owns the log's socket and the listeners.

    ``decide`` gives a permit, or None for what may not be; ``carry`` takes what has come to be: the
    program's end, ours, and the permit. The last two are None where we answer ourselves. At most
    ``max_pending`` are being made; a SYN above that is dropped, and comes again in a second.
    """

    def __init__(
        self,
        log: socket.socket,
        listeners: tuple[socket.socket, ...],
        injector: Injector,
        decide: Callable[[Flow], Any],
        carry: Carry,
        start_soon: Callable[..., None],
        max_pending: int,
    ) -> None:
        self._max_pending = max_pending
        self._log, self._listeners, self._injector = log, listeners, injector
        self._decide, self._carry, self._start_soon = decide, carry, start_soon
        self._pending: set[Flow] = set()
        self._granted: dict[Flow, _Grant] = {}

    async def hold(self) -> None:
        """Take the SYNs as they come."""
        await trio.lowlevel.checkpoint_if_cancelled()  # then it is closed already
        while True:
            with trio.move_on_after(GRANT_S):
                await trio.lowlevel.wait_readable(self._log)
            self._take_some()
            self._forget_old()

    def take_now(self) -> None:
        """All that is there: SYNs, and connections whose SYN has been let in."""
        self._take_some()
        for listener in self._listeners:
            self._welcome_some(listener)

    def _take_some(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(BATCH):
                for packet in read_log(self._log.recv(LOG_BYTES, socket.MSG_DONTWAIT)):
                    self._take(packet)

    def _take(self, packet: bytes) -> None:
        syn = parse_syn(packet)
        if syn is None or syn.flow in self._pending:
            return
        grant = self._granted.get(syn.flow)
        if grant is not None and grant.sequence == syn.sequence:  # lost on its second way
            self._let_in(syn)
            return
        if grant is not None:  # whoever asked has given up: this is another's, or of another time
            self._forget(syn.flow)
        if syn.flow.target.port == DNS_PORT:
            self._grant(syn, None, None)
        elif len(self._pending) < self._max_pending:
            try:
                self._reach(syn)
            except OSError as error:
                self._tell_failure(syn, error.errno or 0)

    def _reach(self, syn: Syn) -> None:
        """A near target has answered before anybody has to wait for it. OSError where it fails."""
        permit = self._decide(syn.flow)
        if permit is None:
            self._injector.inject(make_reset(syn), syn.flow.source.address)
            return
        target, is_open = begin_connection(syn.flow.target)
        if is_open:
            self._grant(syn, target, permit)
        else:
            self._pending.add(syn.flow)
            self._start_soon(self._await, syn, target, permit)

    async def _await(self, syn: Syn, target: socket.socket, permit: Any) -> None:
        try:
            if await finish_connection(target):
                self._grant(syn, target, permit)
        except OSError as error:
            self._tell_failure(syn, error.errno or 0)
        finally:
            self._pending.discard(syn.flow)

    def _tell_failure(self, syn: Syn, code: int) -> None:
        if code == errno.ETIMEDOUT or code in LACKS:
            return  # as outside: nothing comes back, and the program's kernel asks again
        flow, packet = syn.flow, make_reset(syn)
        if code in UNREACHABLE:
            packet = make_unreachable(flow, TCP, syn.segment, UNREACHABLE[code])
        self._injector.inject(packet, flow.source.address)

    def _grant(self, syn: Syn, target: socket.socket | None, permit: Any) -> None:
        self._forget_old()
        if len(self._granted) >= self._max_pending:
            self._forget(next(iter(self._granted)))
        until = trio.current_time() + GRANT_S
        self._granted[syn.flow] = _Grant(target, permit, syn.sequence, until)
        self._let_in(syn)

    def _let_in(self, syn: Syn) -> None:
        self._injector.inject(make_syn(syn), syn.flow.target.address)

    def _forget_old(self) -> None:
        """Whoever asked has given up meanwhile."""
        now = trio.current_time()
        while self._granted and next(iter(self._granted.values())).until <= now:
            self._forget(next(iter(self._granted)))

    def _forget(self, flow: Flow) -> None:
        self._granted.pop(flow).close()

    async def accept(self, listener: socket.socket) -> None:
        """Take the connections whose SYN has been let in."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            await trio.lowlevel.wait_readable(listener)
            if not self._welcome_some(listener):
                await trio.sleep(PAUSE_S)

    def _welcome_some(self, listener: socket.socket) -> bool:
        """Those that are there, or some; False where they have to wait for a descriptor."""
        for _ in range(BATCH):
            try:
                self._welcome(*listener.accept())
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in LACKS:
                    return False  # it stays where it is, and readable: accept(2)
        return True

    def _welcome(self, inside: socket.socket, peer: Any) -> None:
        inside.setblocking(False)
        try:
            flow = Flow(_place(peer), _place(inside.getsockname()))
            grant = self._granted.pop(flow)
        except (OSError, KeyError):  # straight to our own port: nobody has let that in
            inside.close()
            return
        self._carry(flow, inside, grant.target, grant.permit)

    def close(self) -> None:
        """All that nobody has taken."""
        for grant in self._granted.values():
            grant.close()
        self._granted.clear()
        for sock in (self._log, *self._listeners):
            sock.close()


def begin_connection(target: Place) -> tuple[socket.socket, bool]:
    """Ours, from the host's network, and whether it is made already. OSError where it fails."""
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        place = str(target.address), target.port
        code = sock.connect_ex(place)
        if code == errno.EINPROGRESS:
            # What a near target has answered meanwhile is looked at when the call ends: connect(2).
            code = sock.connect_ex(place)
        if code not in (0, errno.EALREADY):
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise
    return sock, code == 0


async def finish_connection(sock: socket.socket) -> bool:
    """Whether it has been made in time; else it is closed. OSError where it failed."""
    try:
        with trio.move_on_after(CONNECT_S):
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            return True
    except BaseException:
        sock.close()
        raise
    sock.close()
    return False


class OwnAddresses:
    """Those of this host, as far as anybody has asked for them lately."""

    def __init__(self) -> None:
        self._known: dict[Address, tuple[bool, float]] = {}

    def has(self, target: Place) -> bool:
        """Whether it leads to this host itself."""
        now = trio.current_time()
        is_own, until = self._known.get(target.address, (False, 0.0))
        if until < now:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            is_own = is_own_address(target)
            self._known[target.address] = is_own, now + KNOWN_S
        return is_own


def is_own_address(target: Place) -> bool:
    """Whether the kernel would take it as the source, too. OSError where it can't be known."""
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(target.address), target.port))
            return bool(ip_address(probe.getsockname()[0]) == target.address)
    except OSError as error:
        if error.errno in LACKS:
            raise
        return False  # no way there at all: the connection itself will say why


def _place(name: tuple[str, int]) -> Place:
    return Place(ip_address(name[0]), name[1])
