"""What a cgroup may use, as it and all above it allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from jail.cgroup.file import read_limit, read_value
from jail.cgroup.grant import Room
from jail.place import read_text

_Number = TypeVar("_Number", int, float)
NEEDED_CGROUPS = 2
"""the zygote's and one jail's: less is no room"""


def may_swap_unseen(path: Path, swaps: str = "/proc/swaps") -> bool:
    """The kernel limits no swap (swapaccount=0, before 6.1), and there is some: who has no room in
    memory goes there, and is never out of it. (The root of the tree has no limits at all.)
    """
    in_use = len(read_text(swaps).splitlines()) > 1
    is_root = not (path / "cgroup.type").exists()
    return in_use and not is_root and not (path / "memory.swap.max").exists()


def read_room(mount: Path, path: Path) -> Room:
    folders = list(list_upwards(mount, path))
    cpuset = read_value(path, "cpuset.cpus.effective")
    return Room(
        memory_bytes=_least(read_limit(each, "memory.max") for each in folders),
        pids=_least(read_limit(each, "pids.max") for each in folders),
        cpus=_least(parse_quota(read_value(each, "cpu.max")) for each in folders),
        cpuset=parse_cpu_list(cpuset) if cpuset else None,
    )


def find_limit_on_cgroups(mount: Path, path: Path) -> str:
    """Which file forbids cgroups below ``path``; ``""`` if none does.

    The kernel counts from the new one's parent, and upwards: ``cgroup.max.depth`` of the parent
    must be at least 1, of its own parent at least 2.
    """
    for level, folder in enumerate(list_upwards(mount, path), start=1):
        depth = read_limit(folder, "cgroup.max.depth")
        if depth is not None and depth < level:
            return f"{folder}/cgroup.max.depth is {depth}"
        most = read_limit(folder, "cgroup.max.descendants")
        if most is not None and read_descendants(folder) + NEEDED_CGROUPS > most:
            return f"{folder}/cgroup.max.descendants is {most}"
    return ""


def read_descendants(folder: Path) -> int:
    words = read_value(folder, "cgroup.stat").split()  # nr_descendants is its first line
    return int(words[1]) if len(words) == 2 and words[1].isdecimal() else 0


def list_upwards(mount: Path, path: Path) -> Iterator[Path]:
    """The cgroup and those above it, as far as they can be seen."""
    yield path
    if path != mount:
        yield from (each for each in path.parents if each.is_relative_to(mount))


def parse_quota(text: str) -> float | None:
    """``cpu.max`` as a number of processors: ``50000 100000`` is half a one."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or words[1] == "0":
        return None
    return int(words[0]) / int(words[1])


def parse_cpu_list(text: str) -> frozenset[int]:
    """``0-2,5``, as the kernel writes it."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _least(values: Iterable[_Number | None]) -> _Number | None:
    return min((value for value in values if value is not None), default=None)
