"""The system calls Python lacks: one thin wrapper each, errno handled once.

``ctypes.PyDLL`` keeps the GIL during the call: a raw clone must come back in the one thread
that made it, and nothing called through here blocks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

ARCH: Final = os.uname().machine
SFD_CLOEXEC: Final = 0o2000000
SFD_NONBLOCK: Final = 0o4000
CLONE_FILES: Final = 0x400
CLONE_VFORK: Final = 0x4000
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 0x8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 0x20
WALL: Final = 0x40000000

# linux/ptrace.h
PTRACE_TRACEME: Final = 0
PTRACE_POKEUSR: Final = 6
PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_LISTEN: Final = 0x4208
NT_PRSTATUS: Final = 1
RAX: Final = 10 * 8
"""where it lies in x86-64's ``struct user``"""
REGISTERS: Final = struct.Struct("=34q" if ARCH == "aarch64" else "=27q")
ARGUMENTS: Final = range(6) if ARCH == "aarch64" else (14, 13, 12, 7, 9, 8)
"""x0 and the next; rdi, rsi, rdx, r10, r8, r9"""

# siginfo_t: its size, and signo, errno, code, call_addr, syscall of a SIGSYS
SIGINFO_BYTES: Final = 128
SIGSYS_INFO: Final = struct.Struct("=iii4xQi")
SYS_SECCOMP: Final = 1

# Looked up once, here: ctypes makes a function object at the first look, and the child's first
# look would be made in every child.
before_fork = ctypes.pythonapi.PyOS_BeforeFork
after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent

Argument = int | bytes | None | ctypes.Array[Any] | ctypes.Structure


def syscall(number: int, *args: Argument) -> int:
    """``syscall(2)``; raises OSError. Structures and buffers are passed by reference."""
    answer: int = _syscall(number, *map(_pass, args))
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def _pass(arg: Argument) -> object:
    if isinstance(arg, int):
        # ctypes takes a plain int for a C int: libffi extends that to a register's width, but the
        # sixth argument of a call is syscall()'s seventh and lies on the stack.
        return ctypes.c_long(arg - 2**64 if arg >= 2**63 else arg)
    if isinstance(arg, ctypes.Structure):
        return ctypes.byref(arg)
    return arg


def number(x86_64: int, aarch64: int | None = None) -> int:
    """The call's number here; one figure serves both where the kernel unified them (≥ 424)."""
    return aarch64 if ARCH == "aarch64" and aarch64 is not None else x86_64


def signalfd(*numbers: signal.Signals) -> int:
    """A non-blocking ``signalfd(2)``; the signals must be blocked by the caller."""
    mask = sum(1 << (int(each) - 1) for each in numbers)
    buffer = ctypes.create_string_buffer(mask.to_bytes(8, "little"), 8)
    return syscall(number(289, 74), -1, buffer, 8, SFD_CLOEXEC | SFD_NONBLOCK)


def load_filter(program: bytes, flags: int = 0) -> int:
    """``seccomp(SECCOMP_SET_MODE_FILTER)`` with ``sock_filter`` bytes; no_new_privs must be on.

    With SECCOMP_FILTER_FLAG_NEW_LISTENER it gives the listener's fd.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    prog = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(prog, len(prog))
    return syscall(number(317, 277), SECCOMP_SET_MODE_FILTER, flags, pointer)


def open_listener(program: bytes) -> int:
    """Loads the filter; the fd that what it has to ask comes to (close-on-exec).

    EBUSY where a filter above this one has a listener already: the kernel gives a task one only.
    """
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        # Once a call has been read it isn't taken back for a signal: Go's runtime sends itself
        # one every 10 ms. Since Linux 5.19.
        return load_filter(program, flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return load_filter(program, flags)


def fork_sharing_files() -> int:
    """``clone(2)`` of a child with our table of descriptors, while we stand still until it has
    executed or ended: its pid, 0 in the child. The caller must have one thread.

    execve(2) gives the child a table of its own.
    """
    return fork(CLONE_FILES | CLONE_VFORK)


def fork(flags: int = 0) -> int:
    """``clone(2)``: the child's pid, 0 in the child. The caller must have one thread."""
    before_fork()
    pid = -1
    try:
        pid = syscall(number(56, 220), flags | signal.SIGCHLD, 0, 0, 0, 0)
    finally:
        if pid == 0:
            after_fork_child()
        else:
            after_fork_parent()
    return pid


class Image:
    """What ``execve(2)`` is called with, made ahead: the call itself allocates nothing."""

    def __init__(self, path: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._path = os.fsencode(path)
        self._argv = _make_vector(argv)
        self._env = _make_vector([f"{name}={value}" for name, value in env.items()])

    def execute(self) -> None:
        """Returns only by an OSError."""
        syscall(number(59, 221), self._path, self._argv, self._env)


def _make_vector(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None)


def ptrace(request: int, pid: int, addr: int = 0, data: Argument = 0) -> None:
    """``ptrace(2)``, for the requests whose answer is of no interest."""
    syscall(number(101, 117), request, pid, addr, data)


def get_event_message(pid: int) -> int:
    """What a ptrace event brings, as the number of a new task."""
    buffer = ctypes.create_string_buffer(8)
    ptrace(PTRACE_GETEVENTMSG, pid, 0, buffer)
    return int.from_bytes(buffer.raw, sys.byteorder)


def get_trap(pid: int) -> tuple[int, int] | None:
    """(number, data) of the call for whose SECCOMP_RET_TRAP a task has stopped at a SIGSYS; None
    for another's SIGSYS.
    """
    buffer = ctypes.create_string_buffer(SIGINFO_BYTES)
    ptrace(PTRACE_GETSIGINFO, pid, 0, buffer)
    _, data, code, _, nr = SIGSYS_INFO.unpack_from(buffer)
    return (nr, data) if code == SYS_SECCOMP else None


def get_arguments(pid: int) -> list[int]:
    """The six, as signed words, of the call that a task has stopped behind."""
    buffer = ctypes.create_string_buffer(REGISTERS.size)
    _ask_registers(PTRACE_GETREGSET, pid, buffer)
    registers = REGISTERS.unpack(buffer)
    return [registers[place] for place in ARGUMENTS]


def set_errno(pid: int, code: int) -> None:
    """The call that a task has stopped behind has failed with this."""
    if ARCH == "aarch64":
        answer = struct.pack("=q", -code)
        _ask_registers(PTRACE_SETREGSET, pid, ctypes.create_string_buffer(answer, len(answer)))
    else:
        ptrace(PTRACE_POKEUSR, pid, RAX, 2**64 - code)


def _ask_registers(request: int, pid: int, buffer: ctypes.Array[Any]) -> None:
    """As many of the first ones as the buffer holds."""
    vector = struct.pack("=QQ", ctypes.addressof(buffer), len(buffer))
    ptrace(request, pid, NT_PRSTATUS, ctypes.create_string_buffer(vector, len(vector)))
