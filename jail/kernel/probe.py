"""Calls that only the doctor makes: to see whether the kernel has them."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from jail.agent.kernel import number, syscall
from jail.kernel.process import SECCOMP_SET_MODE_FILTER

SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8


def load_listener(program: bytes) -> int:
    """Like ``load_filter``, with SECCOMP_FILTER_FLAG_NEW_LISTENER: the listener's fd."""
    buffer = ctypes.create_string_buffer(program, len(program))
    prog = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    return syscall(
        number(317, 277),
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_NEW_LISTENER,
        ctypes.create_string_buffer(prog, len(prog)),
    )


class _ScmpVersion(ctypes.Structure):
    """``struct scmp_version`` of seccomp.h."""

    _fields_ = [(name, ctypes.c_uint) for name in ("major", "minor", "micro")]


def libseccomp_version() -> tuple[int, int, int]:
    """``seccomp_version(3)`` of the installed library; OSError where there is none."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(_ScmpVersion)
    found = library.seccomp_version().contents
    return found.major, found.minor, found.micro
