"""System calls as one reads them: ``openat(AT_FDCWD, "/etc/shadow", O_RDONLY)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from jail.policy.describe.argument import (
    find_names,
    show_argument,
    show_known_bits,
    show_string,
)
from jail.policy.describe.call import KINDS, MORE, STRING_ARGUMENTS

__all__ = ["STRING_ARGUMENTS", "describe_call", "name_mask", "name_value"]

ALL_BITS: Final = 2**64 - 1
O_CREAT: Final = 0o100
O_TMPFILE: Final = 0o20000000
MAX_UNKNOWN: Final = 3
NO_STRINGS: Final[Mapping[int, str]] = {}


def describe_call(
    call: str,
    args: Sequence[int],
    strings: Mapping[int, str] = NO_STRINGS,
    machine: str | None = None,
) -> str:
    """One line, at most some hundred characters, whatever the program chose.

    ``args`` are the registers; ``strings``: what those of them point to that were read (see
    ``STRING_ARGUMENTS``; a socket's address may be among them, as text).
    """
    values = [each & ALL_BITS for each in args]
    kinds = KINDS.get(call)
    if kinds is None:
        return f"{call}({', '.join(_show_unknown(values))})"
    shown = []
    for index, kind in enumerate(_leave_out(call, kinds, values)):
        if kind == MORE:
            shown.append(MORE)
        elif index in strings:
            shown.append(show_string(strings[index]))
        else:
            value = values[index] if index < len(values) else 0
            shown.append(show_argument(kind, value, tuple(values[:index]), machine))
    return f"{call}({', '.join(shown)})"


def name_value(
    call: str,
    arg_index: int,
    value: int,
    mask: int | None = None,
    before: Sequence[int] = (),
    machine: str | None = None,
) -> str:
    """A number that a policy compares an argument with; of the argument's bits only ``mask``.

    What some mean depends on the arguments ``before`` them, where those are known.
    """
    kind = _kind_of(call, arg_index)
    before = tuple(before) or _assume_before(kind)
    return show_known_bits(kind, value, ALL_BITS if mask is None else mask, before, machine)


def name_mask(call: str, arg_index: int, mask: int, machine: str | None = None) -> str:
    """The bits that a policy looks at, by their names."""
    kind = _kind_of(call, arg_index)
    names = find_names(kind, _assume_before(kind), machine)
    if names is not None and names.flags:
        return names.show_mask(mask)
    return f"0{mask:o}" if kind in ("mode", "mknod") else f"{mask:#x}"


def _kind_of(call: str, arg_index: int) -> str:
    kinds = KINDS.get(call, ())
    return kinds[arg_index] if arg_index < len(kinds) and kinds[arg_index] != MORE else "hex"


def _assume_before(kind: str) -> tuple[int, ...]:
    """Most protocols that policies speak of are AF_INET's, most options SOL_SOCKET's."""
    return (2,) if kind == "protocol" else ()


def _leave_out(call: str, kinds: tuple[str, ...], values: Sequence[int]) -> tuple[str, ...]:
    """The mode of an open that makes no file is whatever was in the register."""
    if call in ("open", "openat"):
        flags = values[len(kinds) - 2] if len(values) > len(kinds) - 2 else 0
        return kinds if flags & (O_CREAT | O_TMPFILE) else kinds[:-1]
    return kinds


def _show_unknown(values: Sequence[int]) -> list[str]:
    last = max((i for i, each in enumerate(values, 1) if each), default=0)
    shown = [f"{each:#x}" for each in values[: min(last, MAX_UNKNOWN)]]
    return [*shown, MORE] if last > MAX_UNKNOWN else shown
