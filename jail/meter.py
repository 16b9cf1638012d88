"""What one run has used: looked at from outside while it lasts, closed by the kernel's books."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Final

import trio

from jail import detached, watch
from jail.cgroup.account import Account
from jail.usage import Usage
from jail.view import JailView

LOOK_SHARE: Final = 20
"""A look at a jail of many processes takes long; at most one part in so many goes into looking."""
LONGEST_SUBTRACTION_S: Final = 0.5


class Meter:
    """Of one run. Where several share a jail, what is in no run's family is charged to each.

    A daemon that left its family is somebody's, and nobody can say whose: it must not be free.
    """

    def __init__(
        self, view: JailView, memory_limit_bytes: int | None, is_killed: Callable[[], bool]
    ) -> None:
        self._view = view
        self._is_killed = is_killed
        self._memory_limit_bytes = memory_limit_bytes
        self._book = watch.CpuBook()
        self._detached_bytes = 0
        self._next_search = 0.0
        self.had_company = False
        """another run has been in the jail since the last look"""
        self.searched_s = 0.0
        """how long the last look searched for memory that is in nobody's resident set"""
        self.usage = Usage()

    def start(self, opening: Account | None = None) -> None:
        """What the jail has used so far is not this run's; of its leaf that is ``opening``."""
        self._book.open(watch.read_init(self._view.init_stat_fd))

    async def look(self, others: Iterable[int]) -> int:
        """Bring the usage up to now; gives the number of tasks.

        ``others`` are the first processes of the other runs, by their pids inside. OSError where
        nothing can be seen.
        """
        self.searched_s = 0.0
        stats = watch.read_stats(self._view.proc_fd)
        for pid in others:
            for each in watch.find_descendants(stats, pid):
                stats.pop(each, None)
        pids = [pid for pid in stats if pid != 1]
        usage = self.usage
        usage.cpu_time_s = max(usage.cpu_time_s, self._update_book(stats))
        usage.processes = len(pids)
        usage.processes_peak = max(usage.processes_peak, len(pids))
        usage.memory_bytes = await self._measure(pids)
        usage.memory_peak_bytes = max(usage.memory_peak_bytes, usage.memory_bytes)
        return sum(stats[pid].threads for pid in pids)

    def close(self, cpu_s: float, largest_bytes: int) -> None:
        """The kernel's books of init beside the agent's word: the greater counts."""
        usage = self.usage
        if not self._view.is_shared:
            # All it left has been killed and reaped, so init is the only one to ask.
            seconds = self._update_book(watch.read_init(self._view.init_stat_fd))
            usage.cpu_time_s = max(usage.cpu_time_s, seconds)
        usage.cpu_time_s = max(usage.cpu_time_s, cpu_s)
        self._note_largest(largest_bytes)

    def _note_largest(self, largest_bytes: int) -> None:
        usage = self.usage
        # exec(2) hands on the peak of the memory it replaces, which after a vfork is the agent's:
        # up to that size it is no more than a bound, and what was seen is better.
        if largest_bytes > self._view.agent_peak_bytes or not usage.memory_peak_bytes:
            usage.memory_peak_bytes = max(usage.memory_peak_bytes, largest_bytes)

    @property
    def watches_memory(self) -> bool:
        """Nobody else would end it for having too much."""
        return True

    async def read_whole(self) -> Usage:
        """Of the whole jail since it was built, in place of a run's."""
        self._book.open({1: watch.UNBORN})
        await self.look(())
        return self.usage

    def is_over_memory(self) -> bool:
        """The limit has been reached, as of the last look."""
        limit = self._memory_limit_bytes
        return limit is not None and self.usage.memory_bytes > limit

    def is_short_of_tasks(self, tasks: int, limit: int) -> bool:
        """It wants more processes and threads than it may have, as of the last look."""
        return tasks >= limit

    def find_failure(self) -> str:
        """What ended the run that was neither its own doing nor a limit's, "" for nothing."""
        return ""

    def adjust(self, enforced_by: Mapping[str, str]) -> dict[str, str]:
        """What held each limit of this very run."""
        return dict(enforced_by)

    def is_disk_full(self) -> bool:
        """Of the jail's scratch filesystem: no block or no inode is left."""
        free = os.fstatvfs(self._view.scratch_fd)
        return free.f_bavail == 0 or free.f_favail == 0

    def _update_book(self, stats: dict[int, watch.Stat]) -> float:
        had_company, self.had_company = self.had_company, self._view.is_shared
        return self._book.update(stats, not had_company)

    async def _measure(self, pids: list[int]) -> int:
        """The cheap sum; the exact one before anybody is killed for it."""
        limit = self._memory_limit_bytes
        total = watch.read_memory(self._view.proc_fd, pids)
        if limit is None:
            return total
        if total + detached.read_most_possible() > limit:
            total += await self._search_detached(pids)
        if total <= limit:
            return total
        return await trio.to_thread.run_sync(self._read_exact, pids)

    def _read_exact(self, pids: list[int]) -> int:
        total = watch.read_exact_memory(self._view.proc_fd, self._while_alive(pids))
        if total > (self._memory_limit_bytes or 0):
            return total
        more = self._read_detached(pids)
        if not more:
            return total
        # Of two counts of one page the second is taken back, as far as that can be found in time.
        pids_in_time = self._while_alive(pids, time.monotonic() + LONGEST_SUBTRACTION_S)
        return total + max(0, more - detached.read_mapped(self._view.proc_fd, pids_in_time))

    def _while_alive(self, pids: list[int], until: float = math.inf) -> Iterator[int]:
        """Nobody needs to know what a run that is being ended had."""
        return takewhile(lambda _: not self._is_killed() and time.monotonic() < until, pids)

    def _read_detached(self, pids: list[int]) -> int:
        view, living = self._view, self._while_alive(pids)
        return detached.read_detached(view.init_pid, view.proc_fd, view.shm_fd, living)

    async def _search_detached(self, pids: list[int]) -> int:
        """What is in nobody's resident set, as of the last search. It has a pace of its own:
        whoever opens a million files must not slow down the looks at everything else."""
        if (began := trio.current_time()) >= self._next_search:
            self._detached_bytes = await trio.to_thread.run_sync(self._read_detached, pids)
            now = trio.current_time()
            self.searched_s, self._next_search = now - began, now + (now - began) * LOOK_SHARE
        return self._detached_bytes
