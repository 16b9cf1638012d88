"""What a system call's number is called: libseccomp has the tables."""

from __future__ import annotations

import functools
import os
from typing import Final

from jail.policy.libseccomp import read_binding

ARCHITECTURES: Final = {"x86_64": "X86_64", "aarch64": "AARCH64"}


@functools.cache
def call_name(nr: int, machine: str) -> str | None:
    """The call's name on a machine (``uname -m``); None for one newer than libseccomp's tables."""
    library = read_binding()
    architecture = getattr(library.Arch, ARCHITECTURES[machine])
    try:
        name = library.resolve_syscall(architecture, nr)
    except (ValueError, OSError, RuntimeError, OverflowError):
        return None
    return os.fsdecode(name) if name else None
