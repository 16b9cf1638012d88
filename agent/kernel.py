"""The system calls Python lacks: one thin wrapper each, errno handled once.

``ctypes.PyDLL`` keeps the GIL during the call: a raw clone must come back in the one thread
that made it, and nothing called through here blocks.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

ARCH: Final = os.uname().machine
SFD_CLOEXEC: Final = 0o2000000
SFD_NONBLOCK: Final = 0o4000

Argument = int | bytes | None | ctypes.Array[ctypes.c_char] | ctypes.Structure


def syscall(number: int, *args: Argument) -> int:
    """``syscall(2)``; raises OSError. Structures and buffers are passed by reference."""
    answer: int = _syscall(number, *map(_pass, args))
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def _pass(arg: Argument) -> object:
    if isinstance(arg, int):
        # ctypes takes a plain int for a C int, which libffi extends to the register's width.
        if -(2**31) <= arg < 2**31:
            return arg
        return ctypes.c_long(arg - 2**64 if arg >= 2**63 else arg)
    if isinstance(arg, ctypes.Structure):
        return ctypes.byref(arg)
    return arg


def number(x86_64: int, aarch64: int | None = None) -> int:
    """The call's number here; one figure serves both where the kernel unified them (≥ 424)."""
    return aarch64 if ARCH == "aarch64" and aarch64 is not None else x86_64


def signalfd(*numbers: signal.Signals) -> int:
    """A non-blocking ``signalfd(2)``; the signals must be blocked by the caller."""
    mask = sum(1 << (int(each) - 1) for each in numbers)
    buffer = ctypes.create_string_buffer(mask.to_bytes(8, "little"), 8)
    return syscall(number(289, 74), -1, buffer, 8, SFD_CLOEXEC | SFD_NONBLOCK)
