"""A look at every living jail of ours: its cgroup's books, or its processes one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from jail.cgroup.account import US_PER_S, Account
from jail.cgroup.file import read_limit, read_seat
from jail.cgroup.leaf import Leaf
from jail.cgroup.name import parse_name
from jail.cgroup.setting import AGENT_TASKS
from jail.stats.find import PROC, Living, Seen, read_jails
from jail.stats.sample import Sample
from jail.watch import TICKS_PER_S, UNBORN, CpuBook, Stat, read_exact_memory

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Lookout:
    """Keeps, of each jail without a cgroup, the cpu time of processes that have vanished.

    With ``pids`` it looks at those jails alone.
    """

    def __init__(self, uid: int, pids: Collection[int] = ()) -> None:
        self._uid = uid
        self._pids = pids
        self._proc_fd = os.open(PROC, DIRECTORY)
        self._books: dict[tuple[int, int], CpuBook] = {}

    def close(self) -> None:
        os.close(self._proc_fd)

    def look(self) -> list[Sample]:
        """A jail that ends meanwhile is left out."""
        jails = [each for each in read_jails(self._proc_fd) if self._is_wanted(each)]
        keys = {each.key for each in jails}
        self._books = {key: book for key, book in self._books.items() if key in keys}
        samples = (self._read_sample(each) for each in jails)
        return [each for each in samples if each is not None]

    def _is_wanted(self, jail: Living) -> bool:
        return jail.uid == self._uid and (not self._pids or jail.pid in self._pids)

    def _read_sample(self, jail: Living) -> Sample | None:
        leaf = open_leaf(jail.pid)
        if leaf is None:
            return make_sample(jail, **self._watch(jail))
        try:
            account = leaf.read_account(full=True)
            limit = read_limit(Path(leaf.path), "memory.max")
            figures = make_figures(account, limit, leaf.is_frozen())
        except OSError:
            return None
        finally:
            leaf.close()
        if account.memory_bytes is None or account.tasks is None:
            # Not every controller is delegated everywhere.
            watched = {**self._watch(jail), "limits_by": "cgroup+watch"}
            told = {name: each for name, each in figures.items() if each is not None}
            figures = {**watched, **told, "limits_by": watched["limits_by"]}
        return make_sample(jail, **figures)

    def _watch(self, jail: Living) -> dict[str, Any]:
        programs = jail.programs
        return {
            "cpu_time_s": self._update_book(jail),
            "memory_bytes": read_exact_memory(self._proc_fd, programs),
            "tasks": sum(each.stat.threads for each in programs.values()),
        }

    def _update_book(self, jail: Living) -> float:
        """The book is one of a jail's own /proc, where init is process 1."""
        if jail.key not in self._books:
            self._books[jail.key] = CpuBook()
            self._books[jail.key].open({1: UNBORN})
        init = jail.init.stat
        stats = {pid: each.stat for pid, each in jail.programs.items()}
        return self._books[jail.key].update(
            {**stats, 1: Stat(1, 0, init.own, init.waited, init.threads)}
        )


def open_leaf(init_pid: int) -> Leaf | None:
    """Its cgroup, if it has one of its own; to be closed. None where it has gone, too."""
    seat = read_seat(init_pid)
    if seat is None or not is_leaf_name(seat[1].name):
        return None
    try:
        return Leaf(str(seat[1]), os.open(seat[1], DIRECTORY))
    except OSError:
        return None


def is_leaf_name(text: str) -> bool:
    name = parse_name(text)
    return name is not None and not name.is_host


def make_sample(jail: Living, **figures: Any) -> Sample:
    first = jail.find_first()
    return Sample(
        key=jail.key,
        at_s=time.monotonic(),
        command=None if first is None else first.name.decode(errors="replace"),
        command_age_s=None if first is None else read_age(first),
        **figures,
    )


def read_age(process: Seen) -> float:
    """Its beginning is told on the clock that goes on in suspend: proc_pid_stat(5)."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - process.began / TICKS_PER_S
    return max(0.0, round(age_s, 2))


def make_figures(account: Account, memory_limit_bytes: int | None, paused: bool) -> dict[str, Any]:
    """The agent's own memory and cpu time are in it; as a task it is left out."""
    tasks = None if account.tasks is None else max(0, account.tasks - AGENT_TASKS)
    return {
        "cpu_time_s": account.cpu_us / US_PER_S,
        "memory_bytes": account.memory_bytes,
        "memory_limit_bytes": memory_limit_bytes,
        "tasks": tasks,
        "io_read_bytes": account.io_read_bytes,
        "io_write_bytes": account.io_write_bytes,
        "pressure": account.pressure,
        "limits_by": "cgroup",
        "paused": paused,
    }
