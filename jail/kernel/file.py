"""``openat2(2)``: paths below a tree that somebody hostile may be changing."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from jail.agent.kernel import syscall

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10


class OpenHow(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """The fd, close-on-exec always."""
    how = OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    return syscall(437, dir_fd, os.fsencode(path), how, ctypes.sizeof(how))
