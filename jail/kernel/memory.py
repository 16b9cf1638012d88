"""Reading another process's memory: hostile, and gone at any moment."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from jail.agent.kernel import number, syscall

PAGE_BYTES: Final = 4096
IOVEC: Final = struct.Struct("=QQ")
SHORT_BYTES: Final = 256

_readv = ctypes.PyDLL(None, use_errno=True).process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


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


class TextReader:
    """``read_string``, for who reads thousands of them a second. Not for several threads."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(PAGE_BYTES)
        self._local = (ctypes.c_uint64 * 2)(ctypes.addressof(self._buffer), PAGE_BYTES)
        self._remote = (ctypes.c_uint64 * 2)()

    def read(self, pid: int, address: int) -> bytes:
        """Up to its NUL, at most a page; b"" where nothing can be read."""
        text = b""
        while address and len(text) < PAGE_BYTES:
            # Most are short, and the kernel copies all that it is asked for.
            size = min(SHORT_BYTES, PAGE_BYTES - address % PAGE_BYTES)
            self._remote[0], self._remote[1] = address, size
            size = _readv(pid, self._local, 1, self._remote, 1, 0)
            if size <= 0:
                return text
            part, end, _ = ctypes.string_at(self._buffer, size).partition(b"\0")
            text += part
            if end:
                return text
            address += size
        return text
