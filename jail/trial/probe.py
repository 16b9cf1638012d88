"""Makes system calls under a filter and says what became of them. Runs by itself, inside a jail.

On stdin a JSON object: ``filter``, an array of ``struct sock_filter`` in hex; ``calls``, a list of
[number, [six arguments]]; ``patience_s``. On stdout a list with an answer to each: ["returned",
errno or 0], ["signal", number], ["ended", status] or ["blocked", 0].

Each call is made in a process of its own, which may be refused everything else: after the filter
is loaded it makes no other call but the one to end, and tells by shared memory what it saw.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import select
import signal
import sys
from typing import Any, Final

PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
SECCOMP_SET_MODE_FILTER: Final = 1
EXIT_GROUP: Final = {"x86_64": 231, "aarch64": 94}
LOADED, RETURNED = 1, 2

# PyDLL, not CDLL: that would give the lock of the interpreter away and take it back, by futex.
_libc: Final = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class Seen(ctypes.Structure):
    """What one call's process tells."""

    _fields_ = (("state", ctypes.c_long), ("error", ctypes.c_long))


class Prober:
    """What is needed for a call, all of it made before the filter is there.

    Each has a place of its own to write to: a process that it makes may be late.
    """

    def __init__(self, bpf: bytes, count: int, patience_s: float) -> None:
        machine = os.uname().machine
        self._seccomp, self._exit = SECCOMP[machine], EXIT_GROUP[machine]
        self._bpf = ctypes.create_string_buffer(bpf, len(bpf))
        self._program = Program(len(bpf) // 8, ctypes.addressof(self._bpf))
        self._patience_ms = int(patience_s * 1000)
        self._shared = mmap.mmap(-1, max(count, 1) * ctypes.sizeof(Seen))
        self._seen = (Seen * max(count, 1)).from_buffer(self._shared)

    def try_call(self, index: int, number: int, args: list[int]) -> tuple[str, int]:
        """What became of one call."""
        words = [ctypes.c_ulong(each) for each in (number, *args)]
        seen = self._seen[index]
        pid = os.fork()
        if pid == 0:
            try:
                self._make_call(seen, words)
            finally:
                os._exit(3)
        over, code = self._wait(pid)
        return name_answer(seen, over, code)

    def _make_call(self, seen: Seen, words: list[Any]) -> None:
        os.setsid()  # what is sent to one's own group reaches nobody else
        signal.signal(signal.SIGSYS, signal.SIG_DFL)
        _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        syscall, get_errno = _libc.syscall, ctypes.get_errno
        program = ctypes.byref(self._program)
        gc.disable()
        if syscall(self._seccomp, SECCOMP_SET_MODE_FILTER, 0, program) != 0:
            os._exit(2)
        seen.state = LOADED
        value = syscall(*words)
        seen.error = get_errno() if value == -1 else 0
        seen.state = RETURNED
        while True:
            syscall(self._exit, 0)
            ctypes.string_at(0)  # where even the end is refused, this is one

    def _wait(self, pid: int) -> tuple[bool, int]:
        """Whether it was over in time, and how it ended."""
        pidfd = os.pidfd_open(pid)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        over = bool(waiting.poll(self._patience_ms))
        if not over:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        return over, os.waitstatus_to_exitcode(status)


def name_answer(seen: Seen, over: bool, code: int) -> tuple[str, int]:
    """What became of the call, by what was written and how its process ended."""
    if seen.state == RETURNED:
        return "returned", seen.error
    if seen.state != LOADED:
        sys.exit(f"the filter could not be loaded ({code})")
    if not over:
        return "blocked", 0
    return ("signal", -code) if code < 0 else ("ended", code)


def main() -> None:
    """Read, try, write."""
    asked = json.load(sys.stdin)
    calls = asked["calls"]
    prober = Prober(bytes.fromhex(asked["filter"]), len(calls), asked["patience_s"])
    answers = [prober.try_call(index, *each) for index, each in enumerate(calls)]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
