"""The sockets of a jail whose network leads to the supervisor: made by init, handed to it.

They belong to the network namespace that they were made in, wherever their descriptors go:
network_namespaces(7). The rules are the plan's bytes; nobody inside can change them afterwards,
without a capability.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from jail.launchplan import Gate
from jail.zygote.fsops import Rung

NETLINK_NETFILTER: Final = 12
SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5
NLMSG_ERROR: Final = 2
ANSWER_S: Final = 5
IP_TRANSPARENT, IP_RECVORIGDSTADDR = 19, 20
IPV6_TRANSPARENT, IPV6_RECVORIGDSTADDR = 75, 74
SO_MARK: Final = 36
BACKLOG: Final = 4096


def open_gate(gate: Gate, rung: Rung) -> list[int]:
    """Two listeners, two datagram sockets, two raw ones (IPv4, IPv6), and the log's.

    Without IPv6 its place is taken by a second descriptor of IPv4's. ``rung`` names the steps.
    """
    with rung("gate routes"), _open_netlink(socket.NETLINK_ROUTE) as routes:
        for message in gate.routes:
            _tell(routes, [message])
    with rung("gate rules"), _open_netlink(NETLINK_NETFILTER) as rules:
        _tell(rules, gate.ruleset)
    makers = (_open_listener, _open_datagrams, _open_raw)
    with rung("gate sockets"):
        sockets = [sock for make in makers for sock in _open_both(make, gate)]
    with rung("gate log"):
        log = _open_log(gate)
    return [each.detach() for each in (*sockets, log)]


def _open_both(
    make: Callable[[socket.AddressFamily, Gate], socket.socket], gate: Gate
) -> Iterator[socket.socket]:
    first = make(socket.AF_INET, gate)
    yield first
    yield make(socket.AF_INET6, gate) if gate.ipv6 else first.dup()


def _open_log(gate: Gate) -> socket.socket:
    log = _open_netlink(NETLINK_NETFILTER)
    # What is too much is lost, and the program's kernel says it again.
    log.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
    for message in gate.log:
        _tell(log, [message])
    return log


def _open_listener(family: socket.AddressFamily, gate: Gate) -> socket.socket:
    sock = _open_transparent(family, socket.SOCK_STREAM)
    sock.bind((_loopback(family), gate.port))
    sock.listen(BACKLOG)
    return sock


def _open_datagrams(family: socket.AddressFamily, gate: Gate) -> socket.socket:
    sock = _open_transparent(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    sock.bind((_loopback(family), gate.port))
    return sock


def _open_raw(family: socket.AddressFamily, gate: Gate) -> socket.socket:
    """For whole packets, heads and all: raw(7)."""
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, gate.mark)
    return sock


def _open_transparent(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """One that may be given what is meant for other addresses: tproxy.rst."""
    sock = socket.socket(family, kind)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    return sock


def _loopback(family: socket.AddressFamily) -> str:
    return "127.0.0.1" if family == socket.AF_INET else "::1"


def _open_netlink(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.bind((0, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_S, 0))
    return sock


def _tell(sock: socket.socket, messages: Iterable[bytes]) -> None:
    """OSError for the first that the kernel refuses; each that asks for an answer gets one."""
    packed = list(messages)
    sock.send(b"".join(packed))
    waiting = sum(1 for each in packed if struct.unpack_from("=H", each, 6)[0] & 4)
    while waiting > 0:
        for code in _read_answers(sock.recv(65536)):
            if code:
                raise OSError(code, os.strerror(code))
            waiting -= 1


def _read_answers(data: bytes) -> Iterable[int]:
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind == NLMSG_ERROR:
            yield -struct.unpack_from("=i", data, at + 16)[0]
        elif size < 16:
            yield errno.EPROTO
            return
        at += size + 3 & ~3
