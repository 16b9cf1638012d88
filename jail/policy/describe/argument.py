"""One argument of a system call, as its text. What a program chose is shown escaped."""

from __future__ import annotations

import functools
import os
from typing import Final

from jail.policy.describe.kind import (
    NAMES,
    OTHER_OPTIONS,
    SOCKET_OPTIONS,
    make_open_flags,
    make_protocols,
)
from jail.policy.describe.name import Names

MAX_TEXT: Final = 120
AT_FDCWD: Final = -100
SOL_SOCKET: Final = 1
FILE_KINDS: Final = {0o10000: "S_IFIFO", 0o20000: "S_IFCHR", 0o60000: "S_IFBLK"}
FILE_KINDS_MORE: Final = {0o40000: "S_IFDIR", 0o100000: "S_IFREG", 0o140000: "S_IFSOCK"}


def show_string(text: str) -> str:
    """Quoted, escaped and cut: it may be anything that fits into memory."""
    shown: list[str] = []
    size = 0
    for char in text[: MAX_TEXT + 1]:
        piece = _escape(char)
        size += len(piece)
        if size > MAX_TEXT:
            return f'"{"".join(shown)}"…'
        shown.append(piece)
    return f'"{"".join(shown)}"'


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8: os.fsdecode
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "replace").decode()


def show_argument(kind: str, value: int, before: tuple[int, ...], machine: str | None) -> str:
    """Of the register's 64 bits those that the kernel looks at. ``before``: earlier arguments."""
    names = find_names(kind, before, machine)
    if names is not None:
        return names.show(value)
    return _show_plain(kind, value)


def show_known_bits(
    kind: str, value: int, mask: int, before: tuple[int, ...], machine: str | None
) -> str:
    """The same where only the bits of ``mask`` are known."""
    names = find_names(kind, before, machine)
    if names is not None:
        return names.show_masked(value, mask)
    return _show_plain(kind, value & mask)


def find_names(kind: str, before: tuple[int, ...], machine: str | None) -> Names | None:
    """What its numbers are called; None if they have no names."""
    if kind == "open":
        return _open_flags(machine or os.uname().machine)
    if kind == "protocol":
        return make_protocols(_low(before[0]) if before else 0)
    if kind == "socket_option":
        level = _low(before[1]) if len(before) > 1 else SOL_SOCKET
        return SOCKET_OPTIONS if level == SOL_SOCKET else OTHER_OPTIONS.get(level, Names())
    return NAMES.get(kind)


@functools.cache
def _open_flags(machine: str) -> Names:
    return make_open_flags(machine)


def _show_plain(kind: str, value: int) -> str:
    if kind == "mode":
        return _show_mode(value)
    if kind == "mknod":
        return _show_mknod(value)
    if kind in ("path", "string", "address", "pointer"):
        return "…" if value else "NULL"
    if kind == "hex":
        return f"{value:#x}" if value else "0"
    if kind == "size":
        return str(value)
    if kind == "unsigned":
        return str(_low(value))
    if kind == "device":
        return f"{(value >> 8) & 0xFFF}:{(value & 0xFF) | (value >> 12 & 0xFFF00)}"
    number = _sign(value, 64 if kind == "offset" else 32)
    return "AT_FDCWD" if kind == "dirfd" and number == AT_FDCWD else str(number)


def _show_mode(value: int) -> str:
    """As chmod(1) takes it: umode_t has 16 bits."""
    return f"0{value & 0xFFFF:o}" if value & 0xFFFF else "0"


def _show_mknod(value: int) -> str:
    kinds = {**FILE_KINDS, **FILE_KINDS_MORE}
    name = kinds.get(value & 0o170000)
    return f"{name}|{_show_mode(value & 0o7777)}" if name else _show_mode(value)


def _low(value: int) -> int:
    return value & 0xFFFFFFFF


def _sign(value: int, bits: int) -> int:
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value
