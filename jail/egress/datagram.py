"""Datagrams out of a jail: questions to our resolver, and what a rule lets through.

The kernel gives us each with the address that it was sent to; what comes back goes in as a whole
packet from there. So a program sees the same peers as outside.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import trio

from jail.egress.bucket import Bucket
from jail.egress.gate import LACKS, Injector
from jail.egress.packet import (
    UDP,
    Flow,
    Place,
    make_datagram,
    make_udp_start,
    make_unreachable,
)
from jail.network.rule import DNS_PORT

IP_ORIGDSTADDR, IPV6_ORIGDSTADDR = 20, 74
MAX_BYTES: Final = 65535
ANCILLARY_BYTES: Final = 256
HEAD_BYTES: Final = 2048
"""what a datagram costs us beside its own bytes, in time for so many of them"""
BATCH: Final = 32
TURN_BYTES: Final = 128 * 1024
"""datagrams, and bytes of them, that are taken before the others have their turn"""
STRANGERS_PER_S: Final = 1000
STRANGERS_BURST: Final = 1000
PAUSE_S: Final = 0.02
"""who sends more than so many to whom he doesn't speak with has them lost meanwhile"""
IDLE_S: Final = 120.0
"""as netfilter has it for a flow with answers: nf_conntrack-sysctl.rst"""
MAX_QUESTIONS: Final = 128

Counter = Callable[[int, int], None]
Resolve = Callable[[bytes], Awaitable[bytes | None]]


@dataclass
class _Outside:
    """Our end of a flow, and when it was last used."""

    sock: socket.socket
    count: Counter
    used: float

    def find_left_s(self) -> float:
        """Until it has been idle for too long."""
        return self.used + IDLE_S - trio.current_time()


class Datagrams:
    """Owns the two sockets inside, and one outside for each flow.

    ``decide`` gives the counter of a flow that may be, and notes what may not. Above ``max_flows``
    the one that was used least lately ends.
    """

    def __init__(
        self,
        socks: tuple[socket.socket, ...],
        injector: Injector,
        decide: Callable[[Flow], Counter | None],
        resolve: Resolve,
        start_soon: Callable[..., None],
        max_flows: int,
    ) -> None:
        self._max_flows = max_flows
        self._socks, self._injector = socks, injector
        self._decide, self._resolve, self._start_soon = decide, resolve, start_soon
        self._flows: OrderedDict[Flow, _Outside] = OrderedDict()
        self._questions = 0
        self._strangers = Bucket(STRANGERS_PER_S, STRANGERS_BURST)
        self._is_flooded = False

    async def take(self, sock: socket.socket) -> None:
        """Take what comes in by ``sock``."""
        await trio.lowlevel.checkpoint_if_cancelled()  # then it is closed already
        while True:
            await trio.lowlevel.wait_readable(sock)
            self._take_some(sock)
            await trio.sleep(PAUSE_S if self._is_flooded else 0)

    def take_now(self) -> None:
        """Those that are there."""
        for sock in self._socks:
            self._take_some(sock)

    def _take_some(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError):
            for _ in range(BATCH):
                data, ancillary, _, peer = sock.recvmsg(MAX_BYTES, ANCILLARY_BYTES)
                target = _read_target(ancillary)
                if target is not None:
                    source = Place(ip_address(peer[0]), peer[1])
                    self._pass_on(Flow(source, target), data)

    def _pass_on(self, flow: Flow, data: bytes) -> None:
        if flow not in self._flows:
            self._is_flooded = not self._strangers.take(trio.current_time())
        if flow.target.port == DNS_PORT:
            if self._questions < MAX_QUESTIONS:  # above that it is lost, and asked again
                self._questions += 1
                self._start_soon(self._answer, flow, data)
            return
        outside = self._flows.get(flow) or self._open(flow, len(data))
        if outside is None:
            return
        outside.used = trio.current_time()
        self._flows.move_to_end(flow)
        try:
            outside.sock.send(data)
            outside.count(len(data), 0)
        except BlockingIOError:
            pass  # lost, as datagrams are
        except OSError as error:
            self._tell_failure(flow, len(data), error.errno or 0)

    async def _answer(self, flow: Flow, question: bytes) -> None:
        try:
            answer = await self._resolve(question)
        finally:
            self._questions -= 1
        if answer is not None:
            self._inject(flow, answer)

    def _open(self, flow: Flow, size: int) -> _Outside | None:
        try:
            count = self._decide(flow)
            if count is None:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
            sock = _open_socket(flow.target)
        except OSError as error:
            self._tell_failure(flow, size, error.errno or 0)
            return None
        while len(self._flows) >= self._max_flows:
            self._close_flow(next(iter(self._flows)))
        outside = self._flows[flow] = _Outside(sock, count, trio.current_time())
        self._start_soon(self._listen, flow, outside)
        return outside

    async def _listen(self, flow: Flow, outside: _Outside) -> None:
        """Until nobody has spoken for a while, or another flow needs the place."""
        try:
            # A closed one must not be waited for: trio would hold its place, and break the next.
            while self._has(flow, outside) and (left_s := outside.find_left_s()) > 0:
                with trio.move_on_after(left_s):
                    await trio.lowlevel.wait_readable(outside.sock)
                    if self._has(flow, outside):
                        self._take_answers(flow, outside)
        except trio.ClosedResourceError:
            return  # its place was needed
        finally:
            if self._has(flow, outside):
                self._close_flow(flow)

    def _has(self, flow: Flow, outside: _Outside) -> bool:
        return self._flows.get(flow) is outside

    def _take_answers(self, flow: Flow, outside: _Outside) -> None:
        left_bytes = TURN_BYTES // max(len(self._flows), 1)
        while left_bytes >= 0:
            try:
                data = outside.sock.recv(MAX_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._tell_failure(flow, 0, error.errno or 0)
                return
            outside.used = trio.current_time()
            outside.count(0, len(data))
            self._inject(flow, data)
            left_bytes -= len(data) + HEAD_BYTES

    def _inject(self, flow: Flow, data: bytes) -> None:
        self._injector.inject(make_datagram(flow, data), flow.source.address)

    def _tell_failure(self, flow: Flow, size: int, code: int) -> None:
        if code in LACKS:
            return  # lost, as datagrams are
        reason = {errno.ECONNREFUSED: "port", errno.ENETUNREACH: "net"}.get(code, "host")
        start = make_udp_start(flow, size)
        packet = make_unreachable(flow, UDP, start, reason)
        self._injector.inject(packet, flow.source.address)

    def _close_flow(self, flow: Flow) -> None:
        sock = self._flows.pop(flow).sock
        trio.lowlevel.notify_closing(sock)
        sock.close()

    def close(self) -> None:
        """What is inside, and every flow."""
        for outside in self._flows.values():
            outside.sock.close()
        self._flows.clear()
        for sock in self._socks:
            sock.close()


def _open_socket(target: Place) -> socket.socket:
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect((str(target.address), target.port))
    except OSError:
        sock.close()
        raise
    return sock


def _read_target(ancillary: list[tuple[int, int, bytes]]) -> Place | None:
    """Where a datagram was meant to go: IP_RECVORIGDSTADDR, ip(7)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_IP, IP_ORIGDSTADDR):
            port, address = struct.unpack_from(">2xH4s", data)
            return Place(IPv4Address(address), port)
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_ORIGDSTADDR):
            port, address6 = struct.unpack_from(">2xH4x16s", data)
            return Place(IPv6Address(address6), port)
    return None
