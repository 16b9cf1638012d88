"""A filter's program as text, an instruction a line. Pure."""

from __future__ import annotations

import errno
import struct
from typing import Final

from jail.policy.action import (
    ACTION_BITS,
    ALLOW,
    DATA_BITS,
    ERRNO,
    KILL_DATA,
    KILL_PROCESS,
    LOG,
    NOTIFY_DATA,
    TRACE,
    TRAP,
    USER_NOTIF,
)

INSTRUCTION: Final = struct.Struct("=HBBI")
JUMPS: Final = {0x15: "==", 0x25: ">", 0x35: ">=", 0x45: "&"}
RETURNS: Final = {
    KILL_PROCESS: "KILL_PROCESS",
    TRAP: "TRAP",
    ERRNO: "ERRNO",
    USER_NOTIF: "USER_NOTIF",
    TRACE: "TRACE",
    LOG: "LOG",
    ALLOW: "ALLOW",
}
WORDS: Final = ("nr", "arch", "ip.low", "ip.high")


def format_program(bpf: bytes) -> str:
    """Lines, without a newline at the end."""
    program = INSTRUCTION.iter_unpack(bpf)
    return "\n".join(f"{at:>5}  {_format(at, *each)}" for at, each in enumerate(program))


def _format(at: int, code: int, yes: int, no: int, value: int) -> str:
    if code == 0x20:
        return f"load    {_name_word(value)}"
    if code in JUMPS:
        ways = f"{at + 1 + yes} else {at + 1 + no}"
        return f"if      {JUMPS[code]} {value:#x} goto {ways}"
    if code == 0x05:
        return f"goto    {at + 1 + value}"
    if code == 0x54:
        return f"and     {value:#x}"
    if code == 0x06:
        return f"return  {name_return(value)}"
    return f"{code:#06x}  {yes} {no} {value:#x}"


def _name_word(offset: int) -> str:
    """Of struct seccomp_data, whose arguments are numbers of 64 bits."""
    index = offset // 4
    if index < len(WORDS):
        return WORDS[index]
    arg, half = divmod(index - len(WORDS), 2)
    return f"arg{arg}.{'high' if half else 'low'}"


def name_return(value: int) -> str:
    """SECCOMP_RET_* without its prefix, with what its data means."""
    name = RETURNS.get(value & ACTION_BITS, f"{value & ACTION_BITS:#x}")
    data = value & DATA_BITS
    if value & ACTION_BITS not in (ERRNO, USER_NOTIF):
        return f"{name} {data:#x}" if data else name
    special = {NOTIFY_DATA: "notify", KILL_DATA: "kill"} if name == "USER_NOTIF" else {}
    return f"{name} {special.get(data) or errno.errorcode.get(data, data)}"
