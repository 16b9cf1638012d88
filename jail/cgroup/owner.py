"""Who owns a cgroup of ours, and whether he still lives."""

from __future__ import annotations

import os

from jail.cgroup.name import Owner
from jail.place import read_line, read_text

ENDED = ("Z", "X")
"""states of a process that only waits to be reaped: proc_pid_stat(5)"""


def read_owner() -> Owner:
    """This process. OSError without a /proc."""
    boot = read_line("/proc/sys/kernel/random/boot_id")[:8]
    _, start = _read_stat("self") or ("", 0)
    return Owner(boot, os.stat("/proc/self/ns/pid").st_ino, os.getpid(), start)


def has_ended(owner: Owner, here: Owner) -> bool:
    """By his name; False where that can't be told from ``here``, another pid namespace."""
    if owner.boot != here.boot:
        return True
    if owner.pid_ns != here.pid_ns:
        return False
    found = _read_stat(str(owner.pid))
    return found is None or found[0] in ENDED or found[1] != owner.start


def _read_stat(pid: str) -> tuple[str, int] | None:
    """State and start time, fields 3 and 22; the name before them may hold anything."""
    words = read_text(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return (words[0], int(words[19])) if len(words) > 19 else None
