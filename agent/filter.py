"""Loading a seccomp filter, with a listener for what it refuses where there can be one."""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from . import kernel

INSTRUCTION: Final = struct.Struct("=HBBI")
RETURN: Final = 0x06
ACTION: Final = 0xFFFF0000
KILL_PROCESS: Final = 0x80000000
ERRNO: Final = 0x00050000
USER_NOTIF: Final = 0x7FC00000
TRAP: Final = 0x00030000
ALLOW: Final = 0x7FFF0000
KILL_MARK: Final = 0xFFF
"""The kernel doesn't look at the data of SECCOMP_RET_USER_NOTIF: there stands the errno that is
to be answered, 0 for a call that is to be made, this where the program is to be ended."""
TRAP_MARK: Final = 0x7000
MAX_ERRNO: Final = 0xFFF
"""The data of a SECCOMP_RET_TRAP that a tracer takes back is an errno beside this mark."""


class Filter(NamedTuple):
    """``sock_filter`` bytes; ``listens``: some of its returns ask a listener.

    ``traces``: they tell a tracer instead, by the SIGSYS of SECCOMP_RET_TRAP.
    """

    program: bytes
    listens: bool
    traces: bool = False


def load(filter_: Filter) -> int:
    """The listener's fd, -1 where it has none or the kernel has given the only one away."""
    if filter_.traces:
        kernel.load_filter(filter_.program)
        return -1
    if filter_.listens:
        try:
            return kernel.open_listener(filter_.program)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    kernel.load_filter(silence(filter_.program))
    return -1


def silence(program: bytes) -> bytes:
    """The same decisions without asking anybody: a question to nobody would answer ENOSYS."""
    silenced = bytearray(program)
    for index, (code, _, _, value) in enumerate(INSTRUCTION.iter_unpack(program)):
        if code == RETURN:
            answer = INSTRUCTION.pack(RETURN, 0, 0, _silence(value))
            silenced[index * INSTRUCTION.size : (index + 1) * INSTRUCTION.size] = answer
    return bytes(silenced)


def _silence(value: int) -> int:
    action, data = value & ACTION, value & 0xFFFF
    if action == TRAP and is_marked(data):
        return ERRNO | data & MAX_ERRNO
    if action != USER_NOTIF:
        return value
    if data == KILL_MARK:
        return KILL_PROCESS
    return ERRNO | data if data else ALLOW


def is_marked(data: int) -> bool:
    """Whether that is ours, for a tracer, and no program's own."""
    return TRAP_MARK < data <= TRAP_MARK | MAX_ERRNO
