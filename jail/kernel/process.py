"""Namespaces, credentials, filters and pidfds."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import signal
import struct
from typing import Final, NamedTuple

from jail.agent.kernel import (
    after_fork_child,
    after_fork_parent,
    before_fork,
    number,
    syscall,
)

CLONE_NEWTIME: Final = 0x80
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_PIDFD: Final = 0x1000
CLONE_INTO_CGROUP: Final = 0x200000000

ALL_FDS: Final = 2**32 - 1

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock: capabilities(7).
SECUREBITS_LOCKED: Final = 0xEF

KEYCTL_JOIN_SESSION_KEYRING: Final = 1

PIDFD_GET_INFO: Final = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
PIDFD_INFO_PID: Final = 1
PIDFD_INFO_EXIT: Final = 8

_prctl_nr: Final = number(157, 167)


class CloneArgs(ctypes.Structure):
    """``struct clone_args`` of linux/sched.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def fork_into(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """``clone3(2)`` without a new stack: (pid, pidfd) in the parent, (0, -1) in the child.

    One call makes every namespace of ``flags``; for Python it is a fork, so the interpreter's
    own fork hooks are run around it. The caller must be single-threaded.
    """
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=int(signal.SIGCHLD),
    )
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    before_fork()
    pid = -1
    try:
        pid = syscall(435, args, ctypes.sizeof(args))
    finally:
        if pid == 0:
            after_fork_child()
        else:
            after_fork_parent()
    return pid, (pidfd.value if pid else -1)


def close_range(first: int, last: int) -> None:
    """``close_range(2)``, of this process's descriptors. ``os.closerange`` would hide an error."""
    syscall(436, first, last, 0)


def unshare(flags: int) -> None:
    """``unshare(2)``."""
    syscall(number(272, 97), flags)


def prctl(option: int, arg2: int | bytes = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """``prctl(2)``."""
    return syscall(_prctl_nr, option, arg2, arg3, arg4, arg5)


def set_name(name: str) -> None:
    """The thread's comm, at most 15 bytes."""
    prctl(PR_SET_NAME, name.encode()[:15])


def lift_oom_protection(path: str = "/proc/self/oom_score_adj") -> None:
    """As any other for the out-of-memory killer: a service may be started as one that it never
    kills (proc_pid_oom_score_adj(5)), and what it forks is so, too.
    """
    with open(path, "r+b", buffering=0) as file:
        if int(file.read()) < 0:
            file.write(b"0")


def set_title(title: str) -> None:
    """Overwrite the command line that /proc/PID/cmdline shows everybody: it names host paths."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: proc_pid_stat(5)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title.encode()[: end - start - 1], min(len(title), end - start - 1))


def drop_capabilities() -> None:
    """Empty the ambient and bounding sets and lock the securebits: no exec, no setuid helps."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(read_last_capability() + 1):
        syscall(_prctl_nr, PR_CAPBSET_DROP, capability, 0, 0, 0)
    prctl(PR_SET_SECUREBITS, SECUREBITS_LOCKED)


@functools.cache
def read_last_capability() -> int:
    """The highest number this kernel knows; the zygote asks once for all its children."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def clear_capabilities() -> None:
    """Inheritable, permitted and effective: none (``capset(2)``, version 3)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    syscall(number(126, 91), header, ctypes.create_string_buffer(24))


def join_session_keyring() -> None:
    """A new anonymous session keyring in place of the inherited one: ``keyctl(2)``."""
    syscall(number(250, 219), KEYCTL_JOIN_SESSION_KEYRING, None)


class PidfdInfo(NamedTuple):
    """What the kernel itself says of a process; ``wait_status`` once it has been reaped."""

    pid: int
    ppid: int
    wait_status: int | None


def pidfd_info(pidfd: int) -> PidfdInfo | None:
    """``PIDFD_GET_INFO`` (Linux 6.13; the exit status since 6.15), None where it is missing."""
    request = bytearray(64)
    struct.pack_into("=Q", request, 0, PIDFD_INFO_PID | PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, request, True)
    except OSError:
        return None
    (mask,) = struct.unpack_from("=Q", request, 0)
    pid, _tgid, ppid = struct.unpack_from("=III", request, 16)
    (status,) = struct.unpack_from("=i", request, 60)
    return PidfdInfo(pid, ppid, status if mask & PIDFD_INFO_EXIT else None)


def is_pidfd(fd: int) -> bool:
    """By the name that the kernel gives it: that of a file begins with a slash."""
    return os.readlink(f"/proc/self/fd/{fd}").startswith(("pidfd:", "anon_inode:[pidfd]"))


def kill_pidfd(pidfd: int, signum: int = signal.SIGKILL) -> bool:
    """``pidfd_send_signal(2)``; False when it is already gone."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    return True


def pidfd_getfd(pidfd: int, number: int) -> int:
    """``pidfd_getfd(2)``: our own copy, close-on-exec, of another process's descriptor."""
    return syscall(438, pidfd, number, 0)


def wait_status_parts(status: int) -> tuple[int | None, int | None]:
    """(exit code, None) or (None, signal) of a wait status."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def read_pid(pidfd: int) -> int:
    """The pid, as we see it, that a pidfd is of; -1 once that has been reaped."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        return next((int(line[4:]) for line in file if line.startswith(b"Pid:")), -1)
