"""How long libseccomp's filter is for a call's parts: what runc would make of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Final

from jail.policy.libseccomp import INSTRUCTION, read_binding
from jail.policy.translate import Comparison, Part

PLAIN: Final = 2
"""instructions for a call without conditions, about: a comparison and a return"""
EACH: Final = 8
"""for a comparison of 64 bits, at most"""
ANY_CALL: Final = "read"


def is_short_enough(translations: Iterable[tuple[Part, ...]], most: int) -> bool:
    """Whether a filter for calls that became these has no more than ``most`` instructions.

    libseccomp writes once what is the same for several calls.
    """
    length = _read_whole(())
    conditional = set()
    for parts in translations:
        length += PLAIN
        if any(part.comparisons for part in parts):
            conditional.add(tuple(part[:2] for part in parts))
    for each in conditional:
        if length > most:
            break
        length += _read_own(each)
    return length <= most


Bare = tuple[tuple[str, tuple[Comparison, ...]], ...]
"""parts without their reasons"""


def _read_own(parts: Bare) -> int:
    """As libseccomp says; it is not asked of forms that it may never come back from."""
    if all(each.op in ("eq", "masked_eq") for _, compared in parts for each in compared):
        return _read_whole(parts) - _read_whole(())
    return sum(EACH * len(compared) + 1 for _, compared in parts)


@functools.lru_cache(maxsize=64)
def _read_whole(parts: Bare) -> int:
    library = read_binding()
    rules = library.SyscallFilter(library.TRAP)
    actions = {action: number for number, (action, _) in enumerate(parts, 1)}
    for action, comparisons in parts:
        compared = [_compare(each) for each in comparisons]
        rules.add_rule(library.ERRNO(actions[action]), ANY_CALL, *compared)
    with os.fdopen(os.memfd_create("bpf", os.MFD_CLOEXEC), "w+b") as file:
        rules.export_bpf(file)
        return file.seek(0, os.SEEK_END) // INSTRUCTION.size


def _compare(comparison: Comparison) -> object:
    library = read_binding()
    arg, op, value, value_two = comparison
    if op == "masked_eq":
        return library.Arg(arg, library.MASKED_EQ, value, value_two)
    return library.Arg(arg, getattr(library, op.upper()), value)
