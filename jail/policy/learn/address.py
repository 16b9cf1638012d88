"""Addresses and names that a program speaks to, out of what it gives the kernel.

What comes in is a program's memory: anything. Whatever can't be read is nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Final

MAX_ADDRESS_BYTES: Final = 128
"""struct sockaddr_storage"""
MAX_QUESTION_BYTES: Final = 512
DNS_PORT: Final = 53
DNS_HEAD: Final = struct.Struct("!HHHHHH")
RESPONSE_OR_OPCODE: Final = 0xF800


def read_address(data: bytes) -> str:
    """``127.0.0.1:80``, ``[::1]:80``, ``unix /run/x``, ``unix @abstract``; "" for what is none."""
    if len(data) < 2:
        return ""
    family = int.from_bytes(data[:2], "little")
    if family == socket.AF_INET and len(data) >= 8:
        return f"{socket.inet_ntop(family, data[4:8])}:{_read_port(data)}"
    if family == socket.AF_INET6 and len(data) >= 24:
        return f"[{socket.inet_ntop(family, data[8:24])}]:{_read_port(data)}"
    if family == socket.AF_UNIX and len(data) > 2:
        return _read_unix(data[2:])
    return ""


def _read_port(data: bytes) -> int:
    return int.from_bytes(data[2:4], "big")


def _read_unix(path: bytes) -> str:
    """An abstract one begins with a NUL: unix(7)."""
    if path.startswith(b"\0"):
        return f"unix @{os.fsdecode(path[1:].rstrip(bytes(1)))}"
    return f"unix {os.fsdecode(path.partition(bytes(1))[0])}"


def is_dns(address: str) -> bool:
    """By its port."""
    return address.endswith(f":{DNS_PORT}")


def is_question(head: bytes) -> bool:
    """Whether a datagram could be a question to a name server, by its first twelve bytes."""
    if len(head) < DNS_HEAD.size:
        return False
    _, flags, questions, answers, authorities, _ = DNS_HEAD.unpack_from(head)
    return not flags & RESPONSE_OR_OPCODE and (questions, answers, authorities) == (1, 0, 0)


def read_question(data: bytes) -> str:
    """The name that is asked for; "" where there is none."""
    if not is_question(data):
        return ""
    import dns.exception
    import dns.message

    with suppress(dns.exception.DNSException, ValueError):
        message = dns.message.from_wire(data, question_only=True)
        if message.question:
            return message.question[0].name.to_text(omit_final_dot=True)
    return ""
