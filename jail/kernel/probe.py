"""Calls that only the doctor makes: to see whether the kernel has them."""

from __future__ import annotations

import ctypes
from typing import Final

from jail.agent.kernel import syscall

LANDLOCK_CREATE_RULESET_VERSION: Final = 1


def landlock_abi() -> int:
    """The version of Landlock's interface, from 1 on: landlock_create_ruleset(2)."""
    return syscall(444, None, 0, LANDLOCK_CREATE_RULESET_VERSION)


class _ScmpVersion(ctypes.Structure):
    """``struct scmp_version`` of seccomp.h."""

    _fields_ = [(name, ctypes.c_uint) for name in ("major", "minor", "micro")]


def libseccomp_version() -> tuple[int, int, int]:
    """``seccomp_version(3)`` of the installed library; OSError where there is none."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(_ScmpVersion)
    found = library.seccomp_version().contents
    return found.major, found.minor, found.micro
