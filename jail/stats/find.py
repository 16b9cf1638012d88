"""The jails that live on this host, read off /proc: no registry, so nothing can be out of date.

What /proc tells of a jail's processes is a stranger's text, but for their ids and times. A jail
is known by what no program can make for itself: a process 1 of a pid namespace whose parent is a
zygote, which is outside of any jail.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from jail.watch import Stat, parse_stat, read_file

PROC: Final = "/proc"
ZYGOTE: Final = b"jail:zygote"
AGENT: Final = b"jail:agent"
"""an init has this name once its jail is built; a spare one is called otherwise"""


class Seen(NamedTuple):
    """A process, as ``/proc/PID/stat`` has it. ``began`` is in ticks since the boot."""

    stat: Stat
    name: bytes
    began: int


class Identity(NamedTuple):
    """Of ``/proc/PID/status``: the real uid, and the pid in each namespace from ours inwards."""

    uid: int
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Living:
    """A jail at one moment: its init, whose the zygote is, and all processes but init."""

    init: Seen
    uid: int
    programs: Mapping[int, Seen]

    @property
    def pid(self) -> int:
        return self.init.stat.pid

    @property
    def key(self) -> tuple[int, int]:
        """A pid is given out anew; not within one tick."""
        return self.pid, self.init.began

    def find_first(self) -> Seen | None:
        """The oldest of those that the agent started or took over; None where nothing runs."""
        own = [each for each in self.programs.values() if each.stat.parent == self.pid]
        return min(own, key=lambda each: (each.began, each.stat.pid), default=None)


def read_jails(proc_fd: int) -> list[Living]:
    """All that can be seen, by their pids, whoever runs them."""
    seen = read_processes(proc_fd)
    zygotes = read_zygotes(proc_fd, seen)
    inits = [
        each
        for each in seen.values()
        if each.name == AGENT
        and each.stat.parent in zygotes
        and is_init(read_identity(proc_fd, each.stat.pid))
    ]
    families = group_children(seen.values())
    return [
        Living(
            init=init,
            uid=zygotes[init.stat.parent],
            programs={each.stat.pid: each for each in list_descendants(families, init.stat.pid)},
        )
        for init in sorted(inits, key=lambda each: each.stat.pid)
    ]


def read_zygotes(proc_fd: int, seen: Mapping[int, Seen]) -> dict[int, int]:
    """Pid and uid of each. One with a pid in a second namespace is in a jail, and a liar."""
    found = {pid: read_identity(proc_fd, pid) for pid, each in seen.items() if each.name == ZYGOTE}
    return {pid: who.uid for pid, who in found.items() if who is not None and len(who.pids) == 1}


def is_init(who: Identity | None) -> bool:
    """Process 1 of a namespace right below ours."""
    return who is not None and len(who.pids) == 2 and who.pids[1] == 1


def read_processes(proc_fd: int) -> dict[int, Seen]:
    found = {}
    for name in os.listdir(proc_fd):
        if name.isdigit():
            text = read_file(proc_fd, f"{name}/stat")
            if text:
                found[int(name)] = parse_process(text)
    return found


def read_identity(proc_fd: int, pid: int) -> Identity | None:
    """None when it has ended."""
    return parse_identity(read_file(proc_fd, f"{pid}/status"))


# -- pure -----------------------------------------------------------------------------------------


def parse_process(text: bytes) -> Seen:
    """The name may hold anything, parentheses and line ends too: proc_pid_stat(5)."""
    head, _, tail = text.rpartition(b")")
    return Seen(parse_stat(text), head.partition(b"(")[2], int(tail.split()[19]))


def parse_identity(text: bytes) -> Identity | None:
    """The name comes first, its line ends escaped by the kernel: proc_pid_status(5)."""
    rows = dict(line.partition(b":")[::2] for line in text.splitlines())
    if b"Uid" not in rows or b"NSpid" not in rows:
        return None
    return Identity(int(rows[b"Uid"].split()[0]), tuple(map(int, rows[b"NSpid"].split())))


def group_children(seen: Iterable[Seen]) -> dict[int, list[Seen]]:
    children = defaultdict(list)
    for each in seen:
        children[each.stat.parent].append(each)
    return children


def list_descendants(children: Mapping[int, list[Seen]], pid: int) -> list[Seen]:
    """An orphan's new parent is its namespace's init, so nobody leaves a jail's family."""
    found, waiting = {}, [pid]
    while waiting:
        for each in children.get(waiting.pop(), ()):
            if each.stat.pid not in found:
                found[each.stat.pid] = each
                waiting.append(each.stat.pid)
    return list(found.values())
