"""Reading another process's memory: hostile, and gone at any moment."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from jail.agent.kernel import number, syscall

PAGE_BYTES: Final = 4096
IOVEC: Final = struct.Struct("=QQ")


def read_bytes(pid: int, address: int, max_bytes: int) -> bytes:
    """``process_vm_readv(2)``: as much of it as is there, b"" where nothing is or can be seen.

    /proc/PID/mem would ask for the owner of that file, which a jail's user on the host is not;
    this asks for CAP_SYS_PTRACE over the process's user namespace, which its maker has.
    """
    buffer = ctypes.create_string_buffer(max_bytes)
    local = IOVEC.pack(ctypes.addressof(buffer), max_bytes)
    # A page each: the kernel stops before the first range that it can't read whole.
    remote = b"".join(IOVEC.pack(*each) for each in _split(address, max_bytes))
    count = len(remote) // IOVEC.size
    try:
        size = syscall(number(310, 270), pid, local, 1, remote, count, 0)
    except OSError:
        return b""
    return buffer.raw[:size]


def read_string(pid: int, address: int, max_bytes: int) -> bytes:
    """Up to its NUL, or to ``max_bytes``."""
    return read_bytes(pid, address, max_bytes).partition(b"\0")[0] if address else b""


def _split(address: int, size: int) -> list[tuple[int, int]]:
    """Ranges that end with their page."""
    ranges = []
    while size > 0 and address < 2**64:
        part = min(size, PAGE_BYTES - address % PAGE_BYTES)
        ranges.append((address, part))
        address, size = address + part, size - part
    return ranges
