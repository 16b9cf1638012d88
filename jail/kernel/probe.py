"""Calls that only the doctor makes: to see whether the kernel has them."""

from __future__ import annotations

import ctypes


class _ScmpVersion(ctypes.Structure):
    """``struct scmp_version`` of seccomp.h."""

    _fields_ = [(name, ctypes.c_uint) for name in ("major", "minor", "micro")]


def libseccomp_version() -> tuple[int, int, int]:
    """``seccomp_version(3)`` of the installed library; OSError where there is none."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(_ScmpVersion)
    found = library.seccomp_version().contents
    return found.major, found.minor, found.micro
