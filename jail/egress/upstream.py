"""Asking the host's name servers: a fresh question, from a fresh socket, for each try."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import dns.message
import dns.rcode
import trio
from dns.message import Message
from dns.name import Name
from dns.rdatatype import RdataType

from jail.egress.message import MAX_ANSWER_BYTES, Answer, read_answer
from jail.egress.outcome import Outcome, Unusable, read_outcome
from jail.errors import HostError

Upstream = tuple[str, int]
"""address (IPv6 with its zone, as in ``fe80::1%eth0``) and port"""

DNS_PORT: Final = 53
MAX_UPSTREAMS: Final = 3
"""MAXNS, resolv.conf(5)"""
PAYLOAD_BYTES: Final = 1232
"""passes unfragmented everywhere: a fragment is easier to forge than an answer"""
TRY_S: Final = 2.0
ROUNDS: Final = 2
"""a datagram may be lost"""
MAX_STRAYS: Final = 16
"""messages on one socket that don't answer its question: somebody is guessing"""


async def ask_upstreams(upstreams: Sequence[Upstream], name: Name, kind: RdataType) -> Outcome:
    """What the first one that knows says; Unusable where none does. The caller sets a deadline."""
    failure = "there is no name server to ask"
    for upstream in [*upstreams] * ROUNDS:
        try:
            with trio.fail_after(TRY_S):
                return read_outcome(await _ask(upstream, name, kind), name, kind)
        except trio.TooSlowError:
            failure = f"the name server {upstream[0]} does not answer"
        except OSError as error:
            failure = f"the name server {upstream[0]}: {error.strerror or error}"
        except Unusable as error:
            failure = str(error)
    raise Unusable(failure)


async def _ask(upstream: Upstream, name: Name, kind: RdataType) -> Answer:
    query = make_query(name, kind)
    answer = await _ask_by_udp(upstream, query)
    if answer.rcode == dns.rcode.FORMERR:  # it has never heard of EDNS: RFC 6891, 7
        query = make_query(name, kind, edns=False)
        answer = await _ask_by_udp(upstream, query)
    if answer.is_truncated:
        answer = await _ask_by_tcp(upstream, make_query(name, kind))
    return answer


def make_query(name: Name, kind: RdataType, edns: bool = True) -> Message:
    """A question of our own, with a number nobody can guess."""
    query = dns.message.make_query(name, kind, id=secrets.randbelow(1 << 16))
    if edns:
        query.use_edns(0, payload=PAYLOAD_BYTES)
    return query


async def _ask_by_udp(upstream: Upstream, query: Message) -> Answer:
    """Connected, so that the kernel takes only what comes from there, and tells when nobody
    listens: udp(7).
    """
    with make_socket(upstream, socket.SOCK_DGRAM) as sock:
        await sock.connect(upstream)
        await sock.send(query.to_wire())
        for _ in range(MAX_STRAYS):
            if (answer := read_answer(query, await sock.recv(65535))) is not None:
                return answer
    raise Unusable("answers to what was never asked")


async def _ask_by_tcp(upstream: Upstream, query: Message) -> Answer:
    with make_socket(upstream, socket.SOCK_STREAM) as sock:
        await sock.connect(upstream)
        await trio.SocketStream(sock).send_all(query.to_wire(prepend_length=True))
        size = int.from_bytes(await _receive_exactly(sock, 2), "big")
        if size > MAX_ANSWER_BYTES:
            raise Unusable(f"an answer of {size} bytes")
        answer = read_answer(query, await _receive_exactly(sock, size))
    if answer is None or answer.is_truncated:
        raise Unusable("the name server answers nonsense")
    return answer


async def _receive_exactly(sock: trio.socket.SocketType, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await sock.recv(size - len(data))
        if not more:
            raise Unusable("the name server hangs up")
        data += more
    return data


def make_socket(upstream: Upstream, kind: socket.SocketKind) -> trio.socket.SocketType:
    """Of the family of the upstream's address."""
    version = ip_address(upstream[0]).version
    return trio.socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)


def read_upstreams(path: str = "/etc/resolv.conf") -> tuple[Upstream, ...]:
    """The host's name servers, as its C library finds them. HostError where there are none."""
    remedy = f"name one in {path}, or give --dns ADDRESS"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError as error:
        text = f"name servers of this host: {path}: {error.strerror}"
        raise HostError(text, step="dns", errno=error.errno, remedy=remedy) from None
    found = parse_upstreams(lines)
    if not found:
        raise HostError(f"{path} names no name server", step="dns", remedy=remedy)
    return found


def parse_upstreams(lines: Sequence[str]) -> tuple[Upstream, ...]:
    """The first three that are addresses: resolv.conf(5)."""
    found: list[Upstream] = []
    for words in map(str.split, lines):
        if len(words) >= 2 and words[0] == "nameserver" and _is_address(words[1]):
            found.append((words[1], DNS_PORT))
    return tuple(dict.fromkeys(found))[:MAX_UPSTREAMS]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
