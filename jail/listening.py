"""Attending a filter's listener: each question is answered as the policy says, and noted.

The filter has decided already; what is asked here is only why. A program that asks a lot waits
for its answers, and nobody else does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio

from jail.denied import Ledger
from jail.errors import HostError
from jail.kernel import listener
from jail.kernel.listener import Notification
from jail.kernel.memory import read_string
from jail.kernel.process import kill_pidfd
from jail.policy.judge import Judge, Ruling

BATCH: Final = 16
"""questions that are answered before the others have their turn"""
BURST: Final = 2000
RATE_PER_S: Final = 500
"""a listener's questions that are answered at once, and how many more each second"""
ALL_BURST: Final = 20_000
ALL_RATE_PER_S: Final = 4000
"""those of all listeners together"""
MAX_STRING_BYTES: Final = 256


class Bucket:
    """Answers that may be given at once, and how many more each second."""

    def __init__(self, burst: int, rate_per_s: int) -> None:
        self._burst, self._rate_per_s = burst, rate_per_s
        self._tokens = float(burst)
        self._at = trio.current_time()

    def spend(self, count: int) -> float:
        """How many seconds these are to be paid with."""
        now = trio.current_time()
        grown = self._tokens + (now - self._at) * self._rate_per_s
        self._tokens, self._at = min(self._burst, grown) - count, now
        return max(0.0, -self._tokens / self._rate_per_s)


SHARED: Final[trio.lowlevel.RunVar[Bucket]] = trio.lowlevel.RunVar("questions")


class Throttle:
    """Who asks too much gets his answers late; and so does everybody, if all together do."""

    def __init__(self) -> None:
        self._own = Bucket(BURST, RATE_PER_S)
        try:
            self._shared = SHARED.get()
        except LookupError:
            self._shared = Bucket(ALL_BURST, ALL_RATE_PER_S)
            SHARED.set(self._shared)

    async def take(self, count: int) -> None:
        """Waits as long as these cost."""
        late_s = max(self._own.spend(count), self._shared.spend(count))
        if late_s:
            await trio.sleep(late_s)


class Listening:
    """One listener; owns its fd. ``find_ledgers`` tells whose doing a thread's is; ``agent`` is the
    pid of the parent of all first processes.
    """

    def __init__(
        self,
        fd: int,
        judge: Judge,
        find_ledgers: Callable[[int], Iterable[Ledger]],
        agent: int,
    ) -> None:
        self._fd = fd
        self._agent = agent
        self._judge = judge
        self._find_ledgers = find_ledgers

    async def attend(self) -> None:
        """Until nobody is left who could ask."""
        throttle = Throttle()
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                await throttle.take(self._answer_some())
        except (OSError, ImportError, HostError) as error:
            # Nobody is left; or we are out of descriptors. Then the kernel answers ENOSYS.
            if getattr(error, "errno", None) != errno.EPIPE:
                self._give_up()
        finally:
            os.close(self._fd)

    def _give_up(self) -> None:
        for ledger in self._find_ledgers(-1):
            ledger.is_full = True

    def _answer_some(self) -> int:
        for count in range(BATCH):
            asked = listener.receive_notification(self._fd)
            if asked is None:
                return count
            self._answer(asked)
        return BATCH

    def _answer(self, asked: Notification) -> None:
        ruling = self._judge.rule(asked.nr, asked.args)
        ledgers = list(self._find_ledgers(asked.pid))
        for ledger in ledgers:
            ledger.note(ruling.key, asked.args, lambda: self._describe(asked, ruling))
        if ruling.action == "kill":
            self._end(asked, ledgers)
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

    def _end(self, asked: Notification, ledgers: Iterable[Ledger]) -> None:
        """As SECCOMP_RET_KILL_PROCESS, but by SIGKILL."""
        caller = open_caller(asked.pid)
        if caller is None:
            return
        with caller:
            if not listener.is_waiting(self._fd, asked.id):
                return
            for ledger in ledgers:
                ledger.was_first_ended |= caller.parent == self._agent
            kill_pidfd(caller.pidfd)
            # It comes before the next instruction of the program: the signal waits for it already.
            listener.answer(self._fd, asked.id, errno.ENOSYS)


class Caller:
    """The process that a thread belongs to, and its parent; owns its pidfd.

    It is ended by SIGKILL, not by the SIGSYS of the kernel's own kill: that one can be blocked,
    ignored or handled, by whoever shares its handlers at the last moment, and is given to the
    first thread, which may come to it later than another one to its end.
    """

    def __init__(self, pid: int, parent: int) -> None:
        self.parent = parent
        self.pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.pidfd)


def open_caller(thread: int) -> Caller | None:
    """None if it has gone."""
    with suppress(OSError, ValueError, KeyError):
        with open(f"/proc/{thread}/status", "rb") as file:
            status = dict(line.split(b":", 1) for line in file if b":" in line)
        return Caller(int(status[b"Tgid"]), int(status[b"PPid"]))
    return None
