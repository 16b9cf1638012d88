"""PID 1's duty: every process whose parent has gone is ours to reap."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .kernel import WALL

MAX_ROUNDS = 64


class Reaped(NamedTuple):
    """A process that is gone, with what it used; or a traced task that has stopped."""

    pid: int
    status: int
    cpu_us: int
    maxrss_kib: int
    switches: int

    @property
    def has_stopped(self) -> bool:
        return os.WIFSTOPPED(self.status)


def reap() -> Iterator[Reaped]:
    """All that are dead or stopped now; never waits."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG | WALL)
        except ChildProcessError:
            return
        if pid == 0:
            return
        cpu_us = round((usage.ru_utime + usage.ru_stime) * 1_000_000)
        yield Reaped(pid, status, cpu_us, usage.ru_maxrss, usage.ru_nivcsw)


def kill_all() -> None:
    """Kill and reap every process of the pid namespace but ourselves; back when they are gone."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.wait4(-1, WALL)
        except ChildProcessError:
            return


def kill_all_but(kept: Iterable[int]) -> None:
    """Kill all but init and the ``kept`` processes with what /proc says descends from them.

    Who has left his family is nobody's descendant; he goes with the first run that is killed.
    Stopped first, the whole of it: a process with a signal pending can't fork, so a round that
    finds nobody new has found all. Killed one by one, the children of the dead would be init's.
    """
    roots = set(kept)
    doomed: set[int] = set()
    for _ in range(MAX_ROUNDS):
        new = _find_others(roots) - doomed
        if not new:
            break
        _signal_all(new, signal.SIGSTOP)
        doomed |= new
    _signal_all(doomed, signal.SIGKILL)


def _find_others(roots: set[int]) -> set[int]:
    parents = dict(_read_parents())
    kept: set[int] = set()
    new = set(roots)
    while new:
        kept |= new
        new = {child for child, parent in parents.items() if parent in kept} - kept
    return set(parents) - kept - {os.getpid()}


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _read_parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name may hold anything, spaces and parentheses too: proc_pid_stat(5).
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        yield int(name), int(fields[1])
