"""What is worth knowing of a call. Pure data."""

from __future__ import annotations

from typing import Final

FLOOR: Final[dict[str, tuple[str, ...]]] = {
    "no process can end, and none can return from a signal, without": (
        "exit",
        "exit_group",
        "rt_sigreturn",
        "restart_syscall",
    ),
    "no program can start without": ("execve",),
    "the C library's own start": (
        "rseq",
        "set_robust_list",
        "rt_sigaction",
        "rt_sigprocmask",
        "sigaltstack",
        "getrandom",
    ),
    "memory of one's own, which malloc asks for when it needs it": (
        "brk",
        "madvise",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
    ),
    "files that are open already: opening them is what is asked about": (
        "close",
        "fstat",
        "getdents64",
        "lseek",
        "pread64",
        "read",
        "readv",
        "write",
        "writev",
    ),
    "locks of one's own; as often as a program likes": (
        "futex",
        "sched_yield",
    ),
    "the time, where the vdso has to ask the kernel": (
        "clock_gettime",
        "gettimeofday",
        "time",
    ),
}
"""Calls that nobody is asked for, and that are in every result, with the reasons: they concern
nobody but the program itself, and most are made so often that asking would be what is measured.
The first execve could not be asked about: nobody has the listener by then."""
STARTING: Final = ("arch_prctl", "set_tid_address")
"""made once by a program that was just executed, and seldom else"""
FLOOR_CALLS: Final = frozenset(call for calls in FLOOR.values() for call in calls)

CONTAINER_RUNTIME: Final = (
    *("capget", "capset", "chdir", "close", "close_range", "epoll_ctl", "epoll_pwait", "execve"),
    *("faccessat2", "fchown", "fcntl", "fstat", "fstatfs", "futex", "getdents64", "getpid"),
    *("getppid", "gettid", "lstat", "nanosleep", "newfstatat", "openat", "prctl", "readlinkat"),
    *("setgid", "setgroups", "setuid", "stat", "statx", "tgkill"),
)
"""What runc does between loading the filter and executing the program; with no-new-privileges the
half of it would do. We load the filter last of all."""
INT: Final = 2**32 - 1
LONG: Final = 2**64 - 1
SOCKET: Final = ((0, INT), (1, 0xF), (2, INT))
TELLING: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "arch_prctl": ((0, INT),),
    "bpf": ((0, INT),),
    "clone": ((0, INT),),
    "fcntl": ((1, INT),),
    "ioctl": ((1, INT),),
    "keyctl": ((0, INT),),
    "personality": ((0, INT),),
    "prctl": ((0, INT),),
    "ptrace": ((0, INT),),
    "seccomp": ((0, INT), (1, LONG)),
    "setns": ((1, INT),),
    "setsockopt": ((1, INT), (2, INT)),
    "socket": SOCKET,
    "socketpair": SOCKET,
    "unshare": ((0, LONG),),
}
"""Calls that are many in one: (argument, the bits of it that tell). Only the values that were
seen are allowed. The flags in a socket's type (SOCK_CLOEXEC, SOCK_NONBLOCK) tell nothing."""


FLOOR_USES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "fcntl": ((0,), (1,), (2,), (3,), (1030,)),
}
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: the numbers of one's own descriptors, which
libraries ask for and change before and behind nearly every other call"""


def take_telling(call: str, args: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    """What is noted of a call's arguments; () for most."""
    return tuple(args[arg] & mask for arg, mask in TELLING.get(call, ()))
