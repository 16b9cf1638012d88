"""Attending a filter's listener: each question is answered as the policy says, and noted.

The filter has decided already; what is asked here is only why. A program that asks a lot waits
for its answers, and nobody else does.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

import trio

from jail.background import Background
from jail.denied import Ledger
from jail.kernel import listener
from jail.kernel.listener import Notification
from jail.kernel.memory import read_string
from jail.kernel.process import kill_pidfd
from jail.policy.judge import Judge, Ruling

BATCH: Final = 16
"""questions that are answered before the others have their turn"""
BURST: Final = 2000
RATE_PER_S: Final = 500
"""Questions that are answered at once, and how many more each second."""
DEATH_GRACE_S: Final = 0.05
MAX_STRING_BYTES: Final = 256


class Throttle:
    """Who has asked more than ``BURST`` questions gets ``RATE_PER_S`` answers a second."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at = trio.current_time()

    async def take(self, count: int) -> None:
        """Waits as long as these cost."""
        now = trio.current_time()
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE_PER_S) - count
        self._at = now
        if self._tokens < 0:
            await trio.sleep(-self._tokens / RATE_PER_S)


class Listening:
    """One listener; owns its fd. ``find_ledgers`` tells whose doing a thread's is."""

    def __init__(
        self,
        fd: int,
        judge: Judge,
        find_ledgers: Callable[[int], Iterable[Ledger]],
        background: Background,
    ) -> None:
        self._fd = fd
        self._judge = judge
        self._find_ledgers = find_ledgers
        self._background = background

    async def attend(self) -> None:
        """Until nobody is left who could ask."""
        throttle = Throttle()
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                await throttle.take(self._answer_some())
        except OSError:
            return  # nobody is left, or the listener is broken: then the kernel answers ENOSYS
        finally:
            os.close(self._fd)

    def _answer_some(self) -> int:
        for count in range(BATCH):
            asked = listener.receive_notification(self._fd)
            if asked is None:
                return count
            self._answer(asked)
        return BATCH

    def _answer(self, asked: Notification) -> None:
        ruling = self._judge.rule(asked.nr, asked.args)
        for ledger in self._find_ledgers(asked.pid):
            ledger.note(ruling.key, asked.args, lambda: self._describe(asked, ruling))
        if ruling.action == "kill":
            self._end(asked)
        elif ruling.errno:
            listener.answer(self._fd, asked.id, ruling.errno)
        else:
            listener.let_go_on(self._fd, asked.id)

    def _describe(self, asked: Notification, ruling: Ruling) -> str:
        from jail.policy.describe import STRING_ARGUMENTS, describe_call

        indexes = STRING_ARGUMENTS.get(ruling.call, ())
        strings = {i: self._read_text(asked, i) for i in indexes}
        if not listener.is_waiting(self._fd, asked.id):
            strings = {}  # it may have been another process's memory
        return describe_call(ruling.call, asked.args, strings)

    def _read_text(self, asked: Notification, index: int) -> str:
        data = read_string(asked.pid, asked.args[index], MAX_STRING_BYTES)
        return data.decode("utf-8", "backslashreplace")

    def _end(self, asked: Notification) -> None:
        """As SECCOMP_RET_KILL_PROCESS: by a SIGSYS; by SIGKILL where that would be too late."""
        caller = open_caller(asked.pid)
        if caller is None:
            return
        if not listener.is_waiting(self._fd, asked.id):
            os.close(caller.pidfd)
            return
        kill_pidfd(caller.pidfd, signal.SIGKILL if caller.is_deaf else signal.SIGSYS)
        # It comes before the next instruction of the program: the signal waits for it already.
        listener.answer(self._fd, asked.id, errno.ENOSYS)
        self._background.start_soon(make_sure, caller.pidfd)


async def make_sure(pidfd: int) -> None:
    """Dead by now, or now: another thread may just have become deaf. Owns the pidfd."""
    try:
        with trio.move_on_after(DEATH_GRACE_S):
            await trio.lowlevel.wait_readable(pidfd)
            return
        kill_pidfd(pidfd)
    finally:
        os.close(pidfd)


class Caller(NamedTuple):
    """The process that a thread belongs to; ``is_deaf``: it doesn't die of a SIGSYS at once.

    A signal that dumps core ends a process when the thread that takes it runs, and the kernel
    gives it to the first one: the others go on till then. Only SIGKILL stops all where it is sent.
    """

    pidfd: int
    is_deaf: bool


def open_caller(thread: int) -> Caller | None:
    """None if it has gone. The pidfd is the caller's of this."""
    with suppress(OSError, ValueError, KeyError):
        with open(f"/proc/{thread}/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
        masks = [int(status[name], 16) for name in (b"SigBlk", b"SigIgn", b"SigCgt")]
        is_deaf = int(status[b"Threads"]) > 1 or any(
            mask >> signal.SIGSYS - 1 & 1 for mask in masks
        )
        return Caller(os.pidfd_open(int(status[b"Tgid"])), is_deaf)
    return None
