"""The socket between the supervisor and its zygote: SOCK_SEQPACKET, one message a packet.

A packet is a msgpack array: the message's name, then its fields in order; descriptors ride with
it. Both ends are ours, so a malformed message is a bug and raises.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

MAX_PACKET_BYTES = 64 * 1024
MAX_FDS = 4


class Unshare(NamedTuple):
    """Enter a user namespace of your own, once, before any jail: it is mapped from outside."""


class UseCgroup(NamedTuple):
    """Each jail gets a leaf of its own, ``prefix`` and a number; fd: the leaves' parent."""

    prefix: str


class Clone(NamedTuple):
    """Make the init of jail number ``jail``; fd: its end of the jail's session.

    ``flags`` are those of clone(2), the maps what is written to ``/proc/PID/uid_map`` and
    ``gid_map``. ``fresh`` wants one whose copy of the host's mounts is of this moment, no spare.
    ``settings`` are (file, value, whether it may be missing) of its leaf, where it has one.
    """

    jail: int
    flags: int
    fresh: bool
    uid_map: bytes
    gid_map: bytes
    deny_setgroups: bool
    settings: list[list[Any]]


class Abandon(NamedTuple):
    """Nobody took what Cloned told of jail number ``jail``: end it, and remove its leaf.

    ``leaf`` is the number that ClonedInto gave, -1 for none.
    """

    jail: int
    leaf: int


class Unshared(NamedTuple):
    """The user namespace is there and has no maps yet."""


class UnshareFailed(NamedTuple):
    """The kernel refused it."""

    errno: int


class Cloned(NamedTuple):
    """The init is mapped and has its session; fd: its pidfd. ``pid`` is that on the host."""

    jail: int
    pid: int


class ClonedInto(NamedTuple):
    """As Cloned, in leaf number ``leaf``; fds: its pidfd and the leaf's directory."""

    jail: int
    pid: int
    leaf: int


class CloneFailed(NamedTuple):
    """There is no such jail; ``step`` is what the kernel refused."""

    jail: int
    step: str
    errno: int


class Session(NamedTuple):
    """From the zygote to a waiting init: what you were made for; fd: your end of the session."""


REQUESTS: Final[dict[str, Any]] = {
    each.__name__: each for each in (Unshare, UseCgroup, Clone, Abandon)
}
FACTS: Final[dict[str, Any]] = {
    each.__name__: each for each in (Unshared, UnshareFailed, Cloned, ClonedInto, CloneFailed)
}
FDS: Final[dict[type, int]] = {UseCgroup: 1, Clone: 1, Cloned: 1, ClonedInto: 2, Session: 1}
"""descriptors that a message brings; one that isn't named here brings none"""


def pack(message: Any) -> bytes:
    return bytes(msgpack.packb([type(message).__name__, *message]))


def send(sock: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """One packet."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([pack(message)], rights)


def unpack(data: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[list[Any], list[int]]:
    """What ``recvmsg`` brought; the fds are the caller's."""
    fds = array.array("i")
    for _, _, raw in ancillary:
        fds.frombytes(raw)
    return msgpack.unpackb(data), list(fds)


def receive(sock: socket.socket) -> tuple[list[Any], list[int]] | None:
    """The next packet, or None when the other end has gone."""
    data, ancillary, _, _ = sock.recvmsg(
        MAX_PACKET_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
    )
    return unpack(data, ancillary) if data else None
