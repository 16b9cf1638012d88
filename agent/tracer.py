"""The agent as its programs' tracer: it hears of refusals where there can be no listener.

The kernel gives a task one listener only. Where somebody above us has it, SECCOMP_RET_TRAP is
left: the call isn't made and its task gets a SIGSYS, which stops for the tracer, who takes it back
and puts an errno in its place. Nothing here can let a call through: the filter has refused it, and
before a listener above us could be asked, which it could for a SECCOMP_RET_TRACE: seccomp(2).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

from . import kernel
from .filter import MAX_ERRNO, is_marked

# linux/ptrace.h
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC = 1, 2, 3, 4
EVENT_STOP: Final = 128
NEW_TASK: Final = (EVENT_FORK, EVENT_VFORK, EVENT_CLONE)
EXITKILL: Final = 1 << 20
OPTIONS: Final = EXITKILL | sum(1 << each for each in (*NEW_TASK, EVENT_EXEC))
STOPS: Final = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
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
        with suppress(ProcessLookupError):  # killed meanwhile: ptrace(2)
            self._attend(task, os.WSTOPSIG(status), status >> 16)

    def _attend(self, task: int, number: int, event: int) -> None:
        if event == EVENT_STOP and number in STOPS:
            # So it stays stopped, and a SIGCONT finds it.
            kernel.ptrace(kernel.PTRACE_LISTEN, task)
            return
        if event == 0 and number == signal.SIGSYS and self._refuse(task):
            number = 0
        elif event in NEW_TASK:
            self._inherit(task, kernel.get_event_message(task))
        elif event == EVENT_EXEC and (former := kernel.get_event_message(task)) != task:
            self.forget(former)  # a thread that has taken its process's number
        kernel.ptrace(kernel.PTRACE_CONT, task, 0, 0 if event else number)

    def _inherit(self, parent: int, task: int) -> None:
        if (run := self._find_owner(parent)) is not None:
            self._owners[task] = run

    def _refuse(self, task: int) -> bool:
        """Whether the SIGSYS is for what our filter has refused: then it is an errno instead."""
        trap = kernel.get_trap(task)
        if trap is None or not is_marked(trap[1]):
            return False
        nr, code = trap[0], trap[1] & MAX_ERRNO
        self._note(task, (nr, code))
        kernel.set_errno(task, code)
        return True

    def _note(self, task: int, call: tuple[int, int]) -> None:
        calls = self._refused.get(self._find_owner(task) or 0)
        if calls is None:
            return  # its run has ended and been told of
        if call in calls:
            calls[call][0] += 1
        elif len(calls) < MAX_CALLS and call[0] >= 0:  # a signal that it sent itself may lie
            calls[call] = [1, *kernel.get_arguments(task)]

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
