"""Features of the kernel besides namespaces and mounts, and devices."""

from __future__ import annotations

import errno as codes
import os
import struct

from jail.agent.kernel import load_filter, number, open_listener
from jail.doctor.attempt.base import AbsentError, Attempt, Setting, StuckError, at
from jail.kernel import landlock, process
from jail.landlock import MIN_ABI

_RET_ALLOW, _RET_EPERM = 0x7FFF0000, 0x00050000 | codes.EPERM


def try_seccomp(setting: Setting) -> str:
    """A filter that refuses one harmless call, and that call."""
    with at("seccomp"):
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        load_filter(refuse_call(number(110, 173)))
    if os.getppid() != -1:  # the C library hands the refusal on
        raise StuckError("seccomp", None, "the filter was loaded but refuses nothing")
    return ""


def try_listener(setting: Setting) -> str:
    with at("seccomp listener"):
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        os.close(open_listener(struct.pack("=HBBI", 0x06, 0, 0, _RET_ALLOW)))
    return ""


def try_landlock(setting: Setting) -> str:
    """A ruleset that lets nobody open a directory, and a directory."""
    with at("landlock"):
        abi = landlock.landlock_abi()
        if abi < MIN_ABI:
            raise OSError(codes.ENOSYS, f"ABI {abi}, and a jail needs {MIN_ABI}")
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
        handled = landlock.LANDLOCK_ACCESS_FS_READ_DIR
        landlock.landlock_restrict_self(landlock.landlock_create_ruleset(handled, 0, 0), 0)
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return f"ABI {abi}"
    raise StuckError("landlock", None, "the ruleset was taken but refuses nothing")


def try_keyring(setting: Setting) -> str:
    with at("keyring"):
        process.join_session_keyring()
    return ""


def try_pidfd_info(setting: Setting) -> str:
    """The exit status of a process that is gone already."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    with at("pidfd info"):
        pidfd = os.pidfd_open(pid)
        os.waitpid(pid, 0)
        info = process.pidfd_info(pidfd)
    if info is None or info.wait_status is None or os.WEXITSTATUS(info.wait_status) != 7:
        raise StuckError("pidfd info", None, "the kernel does not tell")
    return ""


def make_device_attempt(path: str) -> Attempt:
    def attempt(setting: Setting) -> str:
        if not os.path.exists(path):
            raise AbsentError("no such device")
        with at(path):
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return ""

    return attempt


def refuse_call(call: int) -> bytes:
    """Classic BPF: EPERM for one system call, everything else goes on."""
    load, jump, answer = 0x20, 0x15, 0x06
    program = (
        (load, 0, 0, 0),
        (jump, 0, 1, call),
        (answer, 0, 0, _RET_EPERM),
        (answer, 0, 0, _RET_ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *each) for each in program)
