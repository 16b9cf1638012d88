"""What a jail's processes use, read from outside: the jail's own /proc, through an fd of ours.

Without a cgroup this is the truth there is. It is sampled: what lived and died between two looks
is known by its parent's books (waited-for children) or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PSS_LINES: Final = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
RSS_LINES: Final = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


@dataclass(frozen=True)
class Stat:
    """A line of ``/proc/PID/stat``: proc_pid_stat(5). Times in ticks."""

    pid: int
    parent: int
    own: int
    waited: int
    threads: int


UNBORN: Final = Stat(pid=1, parent=0, own=0, waited=0, threads=0)
"""init before it had waited for anybody"""


def parse_stat(text: bytes) -> Stat:
    """The name in it may hold anything, so the fields are counted from the last parenthesis."""
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Stat(int(head.split(b" ", 1)[0]), int(fields[1]), own, waited, int(fields[17]))


def read_stats(proc_fd: int) -> dict[int, Stat]:
    """Every process of the jail, its init (pid 1) among them. OSError when we can't look."""
    stats = {}
    for name in os.listdir(proc_fd):
        if name.isdigit():
            text = read_file(proc_fd, f"{name}/stat")
            if text:
                stats[int(name)] = parse_stat(text)
    return stats


def open_init(proc_fd: int) -> int:
    """An fd for :func:`read_init`; it stays with this very process. -1 if that has ended: its
    program may have been asked for early, and have run into its limit before we looked.
    """
    try:
        return os.open("1/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    except (FileNotFoundError, ProcessLookupError):
        return -1


def read_init(stat_fd: int) -> dict[int, Stat]:
    """Of init alone: enough where nothing else lives."""
    try:
        text = os.pread(stat_fd, 4096, 0)
    except OSError:  # it is gone: ESRCH, or EBADF where it was before we looked
        return {}
    return {1: parse_stat(text)} if text else {}


def read_memory(proc_fd: int, pids: list[int]) -> int:
    """Resident anonymous and shared memory, in bytes. Pages shared by two count twice."""
    return sum(_sum_lines(read_file(proc_fd, f"{pid}/status"), RSS_LINES) for pid in pids)


def read_exact_memory(proc_fd: int, pids: Iterable[int]) -> int:
    """The same with every page divided by its users; walks page tables, so not for every look.

    It wants the right to ptrace, which the maker of a user namespace has over all inside.
    """
    total = 0
    for pid in pids:
        text = read_file(proc_fd, f"{pid}/smaps_rollup")
        total += _sum_lines(text, PSS_LINES) if text else read_memory(proc_fd, [pid])
    return total


def read_peak(proc_fd: int, pid: int) -> int:
    """The greatest resident set that one process ever had, in bytes; 0 when we can't look."""
    with suppress(OSError):
        return _sum_lines(read_file(proc_fd, f"{pid}/status"), (b"VmHWM:",))
    return 0


def find_descendants(stats: dict[int, Stat], pid: int) -> set[int]:
    """``pid`` and all that name it as an ancestor."""
    found = {pid}
    grown = True
    while grown:
        more = {each.pid for each in stats.values() if each.parent in found} - found
        found |= more
        grown = bool(more)
    return found


class CpuBook:
    """The tree's cpu time, monotonic although processes vanish between two looks.

    A child that was waited for has moved into its parent's ``waited``; one whose parent ignores
    SIGCHLD moves nowhere, and would take its time with it if it weren't written down here.
    """

    def __init__(self) -> None:
        self._last: dict[int, Stat] = {}
        self._lost = 0
        self._reaped = 0

    def open(self, stats: dict[int, Stat]) -> None:
        """Begin: what init has waited for so far is not ours."""
        self._last = stats

    def update(self, stats: dict[int, Stat], init_is_ours: bool = True) -> float:
        """Seconds used up to this look.

        Where another run was in the jail since the last one, what init has reaped is not
        (only) ours: then ours is what was seen of those that have gone.
        """
        gone = sum(
            s.own + s.waited for pid, s in self._last.items() if pid not in stats and pid != 1
        )
        grown = {
            pid: s.waited - self._last[pid].waited
            for pid, s in stats.items()
            if pid in self._last and (pid != 1 or init_is_ours)
        }
        self._lost += max(0, gone - sum(grown.values()))
        self._reaped += grown.get(1, 0)
        self._last = stats
        living = sum(s.own + s.waited for pid, s in stats.items() if pid != 1)
        return (living + self._reaped + self._lost) / TICKS_PER_S


def read_file(proc_fd: int, path: str) -> bytes:
    """Nothing of a process that has ended, or that is not ours to see."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc_fd)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return os.read(fd, 8192)
    except (ProcessLookupError, PermissionError):  # ESRCH: it ended after the open
        return b""
    finally:
        os.close(fd)


def _sum_lines(text: bytes, names: tuple[bytes, ...]) -> int:
    lines = text.splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def read_ancestors(thread: int) -> set[int]:
    """The process of a thread and all above it, as we see them on the host."""
    found: set[int] = set()
    with suppress(OSError):
        pid = thread
        while pid > 1 and pid not in found:
            with open(f"/proc/{pid}/status", "rb") as file:
                lines = dict(line.split(b":", 1) for line in file if b":" in line)
            found |= {pid, int(lines[b"Tgid"])}
            pid = int(lines[b"PPid"])
    return found
