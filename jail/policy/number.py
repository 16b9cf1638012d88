"""Names and numbers of system calls, as libseccomp knows them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from jail.policy.libseccomp import read_binding

NUMBERS: Final = range(1024)
"""more than any kernel has"""


@functools.cache
def read_names(machine: str) -> Mapping[int, str]:
    """Every call of that machine ("x86_64", "aarch64") that libseccomp can name."""
    library = read_binding()
    arch = {"x86_64": library.Arch.X86_64, "aarch64": library.Arch.AARCH64}[machine]
    found = {}
    for number in NUMBERS:
        try:
            name = library.resolve_syscall(arch, number)
        except ValueError:
            continue
        found[number] = name.decode() if isinstance(name, bytes) else str(name)
    return MappingProxyType(found)
