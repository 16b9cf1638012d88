"""What one run has used, by the kernel's own books: those of its jail's leaf."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from jail.cgroup.account import US_PER_S, Account, subtract_counts, subtract_pressure
from jail.cgroup.leaf import Leaf
from jail.cgroup.setting import AGENT_TASKS
from jail.meter import Meter
from jail.usage import Usage
from jail.view import JailView
from jail.watch import Stat

HOST_OOM: Final = (
    "killed by the kernel for want of memory, though not by its own limit: the host ran out of it, "
    "or a cgroup above"
)


class LeafMeter(Meter):
    """Exact where the run has the jail to itself.

    In company the cpu time is told apart by families, as without a cgroup; the memory and the
    number of processes are the jail's, as its limits are. So is what no controller counts here.
    """

    def __init__(
        self,
        view: JailView,
        leaf: Leaf,
        memory_limit_bytes: int | None,
        is_killed: Callable[[], bool],
    ) -> None:
        super().__init__(view, memory_limit_bytes, is_killed)
        self._leaf = leaf
        self._opening = Account()
        self._own_ooms = 0
        self._by_family = False
        self._unseen_s: float | None = None
        self._counts_memory = self._tells_peak = False
        self._holds_memory = view.enforced_by.get("memory") == "cgroup"
        self._holds_pids = view.enforced_by.get("pids") == "cgroup"
        self._holds_all = self._holds_memory and self._holds_pids

    def start(self, opening: Account | None = None) -> None:
        super().start(opening)
        self._opening = self._leaf.read_account(full=True) if opening is None else opening

    async def look(self, others: Iterable[int]) -> int:
        self._by_family |= self.had_company or self._view.is_shared
        now = self._read()
        tasks = 0
        if self._by_family or not self._holds_all:
            tasks = await super().look(others)
        self._take(now)
        return tasks

    def _read(self, full: bool = False) -> Account:
        now = self._leaf.read_account(full)
        self._counts_memory = now.memory_bytes is not None
        self._tells_peak = (now.memory_peak_bytes or 0) > (self._opening.memory_peak_bytes or 0)
        return now

    def _update_book(self, stats: dict[int, Stat]) -> float:
        """What it had used by itself is known, and families may have lost sight of it."""
        seconds = super()._update_book(stats)
        if self._by_family and self._unseen_s is None:
            self._unseen_s = max(0.0, self.usage.cpu_time_s - seconds)
        return seconds + (self._unseen_s or 0.0)

    async def _measure(self, pids: list[int]) -> int:
        """Pages that several share are one in the kernel's own sum."""
        return self.usage.memory_bytes if self._counts_memory else await super()._measure(pids)

    def _note_largest(self, largest_bytes: int) -> None:
        if not self._counts_memory:
            super()._note_largest(largest_bytes)
        elif not self._tells_peak and largest_bytes > self._view.agent_peak_bytes:
            self.usage.memory_peak_bytes = max(self.usage.memory_peak_bytes, largest_bytes)

    def close(self, cpu_s: float, largest_bytes: int) -> None:
        self._by_family |= self.had_company or self._view.is_shared
        now = self._read(full=True)
        if self._by_family or not self._holds_all:
            super().close(cpu_s, largest_bytes)
        else:
            self._note_largest(largest_bytes)
        self._take(now)

    async def read_whole(self) -> Usage:
        if not self._holds_all:
            await super().read_whole()
            self._by_family = False
        self._opening = self._view.built
        self._take(self._read(full=True))
        return self.usage

    @property
    def watches_memory(self) -> bool:
        return not self._holds_memory

    def is_over_memory(self) -> bool:
        if not self._holds_memory:
            return super().is_over_memory()
        return self._own_ooms > 0 and bool(self.usage.oom_kills)

    def is_short_of_tasks(self, tasks: int, limit: int) -> bool:
        if not self._holds_pids:
            return super().is_short_of_tasks(tasks, limit)
        return bool(self.usage.refused_forks)

    def find_failure(self) -> str:
        """A program that the kernel killed for others' want of memory has done nothing wrong."""
        return HOST_OOM if self.usage.oom_kills and not self._own_ooms else ""

    def adjust(self, enforced_by: Mapping[str, str]) -> dict[str, str]:
        adjusted = dict(enforced_by)
        if self._by_family and adjusted.get("cpu_time") == "cgroup":
            adjusted["cpu_time"] = "watch"
        return adjusted

    def _take(self, now: Account) -> None:
        opening, usage = self._opening, self.usage
        if not self._by_family:
            usage.cpu_time_s = (now.cpu_us - opening.cpu_us) / US_PER_S
            usage.cpu_user_time_s = (now.user_us - opening.user_us) / US_PER_S
            usage.cpu_system_time_s = (now.system_us - opening.system_us) / US_PER_S
        else:
            usage.cpu_user_time_s = usage.cpu_system_time_s = None  # nobody tells those apart
        self._take_memory(now)
        self._take_tasks(now)
        if now.io_read_bytes is not None:
            usage.io_read_bytes = subtract_counts(now.io_read_bytes, opening.io_read_bytes)
            usage.io_write_bytes = subtract_counts(now.io_write_bytes, opening.io_write_bytes)
        if now.pressure:
            usage.pressure = subtract_pressure(now.pressure, opening.pressure)

    def _take_memory(self, now: Account) -> None:
        """What the agent had when the jail was built is not the program's."""
        if now.memory_bytes is None:
            self._refuse_loss("memory", self._holds_memory)
            return
        usage, opening = self.usage, self._opening
        agent_bytes = self._view.built.memory_bytes or 0
        usage.oom_kills = subtract_counts(now.oom_kills, opening.oom_kills)
        self._own_ooms = subtract_counts(now.own_ooms, opening.own_ooms) or 0
        usage.memory_bytes = max(0, now.memory_bytes - agent_bytes)
        most = usage.memory_bytes
        # The kernel's own peak is the jail's: it tells of this run what is above the earlier ones'.
        if self._tells_peak and now.memory_peak_bytes is not None:
            most = max(most, now.memory_peak_bytes - agent_bytes)
        usage.memory_peak_bytes = max(usage.memory_peak_bytes, most)

    def _take_tasks(self, now: Account) -> None:
        if now.tasks is None:
            self._refuse_loss("pids", self._holds_pids)
            return
        usage, opening = self.usage, self._opening
        usage.refused_forks = subtract_counts(now.refused_forks, opening.refused_forks)
        usage.processes = max(0, now.tasks - AGENT_TASKS)
        most = usage.processes
        if now.tasks_peak and now.tasks_peak > (opening.tasks_peak or 0):
            most = max(most, now.tasks_peak - AGENT_TASKS)
        usage.processes_peak = max(usage.processes_peak, most)

    def _refuse_loss(self, controller: str, held: bool) -> None:
        if held:
            text = f"the {controller} controller has been taken from the jail's cgroup"
            raise OSError(errno.ENODEV, text, self._leaf.path)
