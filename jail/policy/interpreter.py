"""An interpreter of classic BPF as seccomp runs it: what would the kernel decide?"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Final

X86_64: Final = 0xC000003E
I386: Final = 0x40000003
AARCH64: Final = 0xC00000B7
ARM: Final = 0x40000028
X32_BIT: Final = 0x40000000

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
ERRNO: Final = 0x00050000

M32: Final = 0xFFFFFFFF
M64: Final = 0xFFFFFFFFFFFFFFFF
DATA: Final = struct.Struct("<IIQ6Q")
WORDS: Final = struct.Struct("<16I")
INSTRUCTION: Final = struct.Struct("=HBBI")
MAX_INSTRUCTIONS: Final = 4096
SCRATCH_WORDS: Final = 16

Program = tuple[tuple[int, int, int, int], ...]


class ProgramError(ValueError):
    """The kernel would not load this."""


@functools.lru_cache(maxsize=64)
def parse_program(bpf: bytes) -> Program:
    """The instructions, after the checks of ``bpf_check_classic`` and ``seccomp_check_filter``."""
    if not bpf or len(bpf) % INSTRUCTION.size:
        raise ProgramError("not an array of struct sock_filter")
    program = tuple(INSTRUCTION.iter_unpack(bpf))
    if len(program) > MAX_INSTRUCTIONS:
        raise ProgramError("too long")
    for index, (code, yes, no, value) in enumerate(program):
        left = len(program) - index - 1
        if code == 0x05:
            if value >= left:
                raise ProgramError(f"{index}: jumps past the end")
        elif code & 0x07 == 0x05:
            if yes >= left or no >= left:
                raise ProgramError(f"{index}: jumps past the end")
        elif code == 0x20 and (value % 4 or value >= DATA.size):
            raise ProgramError(f"{index}: loads from {value}")
    if program[-1][0] & 0x07 != 0x06:
        raise ProgramError("does not end with a return")
    return program


def run_filter(bpf: bytes, arch: int, nr: int, args: Sequence[int] = ()) -> int:
    """The action for this call: SECCOMP_RET_* with its data."""
    padded = [each & M64 for each in args] + [0] * (6 - len(args))
    words = WORDS.unpack(DATA.pack(nr & M32, arch, 0, *padded))
    return _run(parse_program(bpf), words)


def _run(program: Program, words: tuple[int, ...]) -> int:
    accumulator = index_register = 0
    scratch = [0] * SCRATCH_WORDS
    at = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        kind = code & 0x07
        if code == 0x20:
            accumulator = words[value // 4]
        elif code == 0x06:
            return value
        elif code == 0x16:
            return accumulator
        elif code == 0x05:
            at += value
        elif kind == 0x05:
            other = index_register if code & 0x08 else value
            at += yes if _jumps(code & 0xF0, accumulator, other) else no
        elif kind == 0x04:
            other = index_register if code & 0x08 else value
            accumulator = _compute(code & 0xF0, accumulator, other)
        elif code == 0x00:
            accumulator = value
        elif code == 0x01:
            index_register = value
        elif code == 0x60:
            accumulator = scratch[value]
        elif code == 0x61:
            index_register = scratch[value]
        elif code == 0x02:
            scratch[value] = accumulator
        elif code == 0x03:
            scratch[value] = index_register
        elif code == 0x07:
            index_register = accumulator
        elif code == 0x87:
            accumulator = index_register
        else:
            raise ProgramError(f"{at - 1}: instruction {code:#x}")


def _jumps(op: int, left: int, right: int) -> bool:
    match op:
        case 0x10:
            return left == right
        case 0x20:
            return left > right
        case 0x30:
            return left >= right
        case 0x40:
            return left & right != 0
    raise ProgramError(f"jump {op:#x}")


def _compute(op: int, left: int, right: int) -> int:
    match op:
        case 0x00:
            return (left + right) & M32
        case 0x10:
            return (left - right) & M32
        case 0x40:
            return left | right
        case 0x50:
            return left & right
        case 0x60:
            return (left << right) & M32 if right < 32 else 0
        case 0x70:
            return left >> right
        case 0x80:
            return -left & M32
        case 0xA0:
            return left ^ right
    raise ProgramError(f"arithmetic {op:#x}")


def is_always_allowed(bpf: bytes, arch: int, nr: int) -> bool:
    """Whether the kernel allows the call without running the filter: ``seccomp_is_const_allow``
    of kernel/seccomp.c, from Linux 5.11 on.
    """
    program = parse_program(bpf)
    accumulator = at = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x20 and value in (0, 4):
            accumulator = arch if value else nr
        elif code == 0x06:
            return value == ALLOW
        elif code == 0x05:
            at += value
        elif code in (0x15, 0x25, 0x35, 0x45):
            at += yes if _jumps(code & 0xF0, accumulator, value) else no
        elif code == 0x54:
            accumulator &= value
        else:
            return False


def errno_of(action: int) -> int | None:
    """The errno that the program sees, None if the action is another one."""
    return action & 0xFFFF if action & 0xFFFF0000 == ERRNO else None
