"""Names and numbers of system calls, as libseccomp knows them."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from jail.policy.libseccomp import read_binding

ARCHITECTURES: Final = {"x86_64": "X86_64", "aarch64": "AARCH64"}
NUMBERS: Final = range(1024)
"""more than any kernel has"""


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


@functools.cache
def read_names(machine: str) -> Mapping[int, str]:
    """Every call of that machine ("x86_64", "aarch64") that libseccomp can name."""
    names = {number: call_name(number, machine) for number in NUMBERS}
    return MappingProxyType({number: name for number, name in names.items() if name})
