"""The agent as its programs' tracer: their filters ask it, where they can't ask a listener.

The kernel gives a task one listener only, and where somebody above us has it, SECCOMP_RET_TRACE
is left: the task stops, and goes on without the call, which fails with the errno that the filter
has put beside. Whatever stops for a filter is refused, so nothing here can let a call through.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import Final

from . import kernel

# linux/ptrace.h
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP = 1, 2, 3, 4, 7
EVENT_STOP: Final = 128
NEW_TASK: Final = (EVENT_FORK, EVENT_VFORK, EVENT_CLONE)
EXITKILL: Final = 1 << 20
OPTIONS: Final = EXITKILL | sum(1 << each for each in (*NEW_TASK, EVENT_EXEC, EVENT_SECCOMP))
STOPS: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
MAX_ERRNO: Final = 4095
MAX_CALLS: Final = 64
"""different ones that are told of each run"""
Calls = dict[tuple[int, int], list[int]]
"""(number, errno) → how often, and the arguments of the first time"""


class Tracer:
    """What has been refused to whom; it is fed with every stop that wait(2) tells."""

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}
        """task → the run that it belongs to, wherever it went"""
        self._refused: dict[int, Calls] = {}

    def adopt(self, task: int, run: int) -> None:
        """The first process of a run."""
        self._owners[task] = run
        self._refused[run] = {}

    def forget(self, task: int) -> None:
        """It has ended."""
        self._owners.pop(task, None)

    def take(self, run: int) -> list[list[int]]:
        """What the run was refused: [number, errno, count, six arguments as signed words]."""
        calls = self._refused.pop(run, {})
        return [[nr, code, *counted] for (nr, code), counted in calls.items()]

    def attend(self, task: int, status: int) -> None:
        """A stop, after which the task goes on; or stays, if a signal has stopped its process."""
        try:
            self._attend(task, os.WSTOPSIG(status), status >> 16)
        except ProcessLookupError:
            return  # killed meanwhile: ptrace(2)
        except OSError:
            # What can't be refused must not be done.
            with suppress(ProcessLookupError):
                os.kill(task, signal.SIGKILL)

    def _attend(self, task: int, number: int, event: int) -> None:
        if event == EVENT_STOP and number in STOPS:
            # So it stays stopped, and a SIGCONT finds it.
            kernel.ptrace(kernel.PTRACE_LISTEN, task)
            return
        if event == EVENT_SECCOMP:
            self._refuse(task)
        elif event in NEW_TASK:
            self._inherit(task, kernel.get_event_message(task))
        elif event == EVENT_EXEC and (former := kernel.get_event_message(task)) != task:
            self.forget(former)  # a thread that has taken its process's number
        kernel.ptrace(kernel.PTRACE_CONT, task, 0, 0 if event else number)

    def _inherit(self, parent: int, task: int) -> None:
        if (run := self._find_owner(parent)) is not None:
            self._owners[task] = run

    def _refuse(self, task: int) -> None:
        nr, args, data = kernel.get_refused_call(task)
        is_ours = 0 < data <= MAX_ERRNO
        # Else another filter's: without a tracer of its own that is ENOSYS.
        code = data if is_ours else errno.ENOSYS
        kernel.refuse_call(task, code)
        if is_ours:
            self._note(task, (nr, code), args)

    def _note(self, task: int, call: tuple[int, int], args: tuple[int, ...]) -> None:
        calls = self._refused.get(self._find_owner(task) or 0)
        if calls is None:
            return  # its run has ended and been told of
        if call in calls:
            calls[call][0] += 1
        elif len(calls) < MAX_CALLS:
            calls[call] = [1, *map(_to_signed, args)]

    def _find_owner(self, task: int) -> int | None:
        """A child may stop before its parent's stop tells of it."""
        if task not in self._owners:
            with suppress(OSError, KeyError, ValueError):
                self._owners[task] = self._owners[_read_parent(task)]
        return self._owners.get(task)


def _read_parent(task: int) -> int:
    """The process that a thread is of, or the parent of a process."""
    with open(f"/proc/{task}/status", "rb") as file:
        status = dict(line.split(b":", 1) for line in file if b":" in line)
    process = int(status[b"Tgid"])
    return process if process != task else int(status[b"PPid"])


def _to_signed(word: int) -> int:
    """msgpack's numbers here are signed."""
    return word - 2**64 if word >= 2**63 else word
