"""The socket between the supervisor and its zygote: SOCK_SEQPACKET, one message a packet.

Both ends are ours, so a malformed message is a bug and raises. Requests: ``["Clone", jail,
flags, fresh, uid_map, gid_map, deny_setgroups]`` with the jail's end of its session socket, and
``["Unshare"]``. Facts: ``["Cloned", jail, pid]`` with a pidfd, ``["CloneFailed", jail, step,
errno]``, ``["Unshared"]``, ``["UnshareFailed", errno]``.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import Any

import msgpack

MAX_PACKET_BYTES = 64 * 1024
MAX_FDS = 4


def send(sock: socket.socket, message: Sequence[Any], fds: Sequence[int] = ()) -> None:
    """One packet."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([msgpack.packb(message)], rights)


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
