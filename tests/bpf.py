"""What the kernel would decide: the interpreter, under the name that the tests know it by."""

from __future__ import annotations

from jail.policy.interpreter import (
    AARCH64,
    ALLOW,
    ARM,
    ERRNO,
    I386,
    KILL_PROCESS,
    M32,
    M64,
    MAX_INSTRUCTIONS,
    X32_BIT,
    X86_64,
    ProgramError,
    errno_of,
    is_always_allowed,
    parse_program,
    run_filter,
)

__all__ = [
    "AARCH64",
    "ALLOW",
    "ARM",
    "ERRNO",
    "I386",
    "KILL_PROCESS",
    "M32",
    "M64",
    "MAX_INSTRUCTIONS",
    "X32_BIT",
    "X86_64",
    "ProgramError",
    "errno_of",
    "is_always_allowed",
    "parse_program",
    "run_filter",
]
