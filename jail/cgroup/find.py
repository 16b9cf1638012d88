"""Looking at a cgroup that might be delegated to us, and deciding whether it can be used."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jail.cgroup import file
from jail.cgroup.grant import WANTED
from jail.cgroup.name import parse_name
from jail.cgroup.room import find_limit_on_cgroups, list_upwards
from jail.errors import SpecError
from jail.host import HostFacts
from jail.place import may_delegate, read_line

SHOWN_PROCESSES: Final = 3
MARKS: Final = ("user.delegate", "trusted.delegate")
"""systemd 251 and later marks what it has delegated: systemd's docs, CGROUP_DELEGATION"""


@dataclass(frozen=True)
class Candidate:
    """What a look at a cgroup's directory showed.

    ``kind`` is its ``cgroup.type``, ``""`` for the root of the whole tree, the only one without.
    ``strangers`` are the processes in it that aren't of the family that asks.
    """

    path: Path
    kind: str = "domain"
    writable: bool = True
    controllers: frozenset[str] = frozenset()
    strangers: tuple[str, ...] = ()
    limit: str = ""

    @property
    def is_root(self) -> bool:
        return not self.kind


def read_candidate(mount: Path, path: Path, family: Collection[int]) -> Candidate:
    if not may_delegate(path):  # a host's own may hold hundreds of processes
        return Candidate(path=path, writable=False)
    return Candidate(
        path=path,
        kind=file.read_value(path, "cgroup.type"),
        controllers=WANTED & file.read_words(path, "cgroup.controllers"),
        strangers=_name_strangers([pid for pid in file.read_pids(path) if pid not in family]),
        limit=find_limit_on_cgroups(mount, path),
    )


def decide_flaw(found: Candidate) -> str:
    """Why it can't be used, as the end of a sentence; ``""`` if it can."""
    if not found.writable:
        return "isn't yours: its directory, cgroup.procs and cgroup.subtree_control must be"
    if found.kind not in ("domain", ""):
        return f"is a threaded cgroup (cgroup.type is “{found.kind}”), which holds no jails"
    if not found.controllers:
        return f"has no controllers: none of {' '.join(sorted(WANTED))} in its cgroup.controllers"
    if found.strangers and not found.is_root:  # the root is exempt: cgroups(7)
        return f"holds other processes ({show_processes(found.strangers)})"
    if found.limit:
        return f"has no room for cgroups: {found.limit}"
    return ""


def find_own(facts: HostFacts, family: Collection[int]) -> Candidate | str:
    """The cgroup we sit in, or the one above where a supervisor has put us; else why not."""
    seat = file.read_seat(os.getpid())
    if seat is None:
        return "own: our cgroup is not below where the v2 tree is mounted"
    mount, path = seat
    name = parse_name(path.name)
    if name is not None and name.is_host:
        path = path.parent
    found = read_candidate(mount, path, family)
    if found.is_root and (facts.uid != 0 or facts.systemd):
        return f"own: {path} is the host's own root"
    flaw = decide_flaw(found)
    if not flaw and not is_delegated(facts, mount, path):
        flaw = "is systemd's: it has not delegated it"
    return f"own: {path} {flaw}" if flaw else found


def is_delegated(facts: HostFacts, mount: Path, path: Path) -> bool:
    """Whether systemd leaves this cgroup, or one above it, to us.

    What a user may write was made his by somebody. Root may write everything, so there only
    systemd's mark tells.
    """
    if facts.uid != 0 or not facts.systemd:
        return True
    return any(_is_marked(each) for each in list_upwards(mount, path) if each != mount)


def find_given(facts: HostFacts, parent: str, family: Collection[int]) -> Candidate:
    """``--cgroup-parent``: it can be used, or SpecError says why not."""
    mount = facts.cgroup.mount if facts.cgroup else Path("/sys/fs/cgroup")
    path = resolve_parent(mount, parent)
    flaw = _find_flaw_of_path(mount, path)
    if flaw:
        raise SpecError(f"cgroup parent {path}: {flaw}")
    found = read_candidate(mount, path, family)
    flaw = decide_flaw(found)
    if flaw:
        raise SpecError(f"cgroup parent: {path} {flaw}")
    return found


def resolve_parent(mount: Path, parent: str) -> Path:
    """Below the mount; ``/a/b`` is ``MOUNT/a/b``, as the kernel writes it in /proc/PID/cgroup."""
    if "\0" in parent or ".." in parent.split("/") or not parent:
        raise SpecError(f"cgroup parent {parent!r}: write a path without “..”")
    path = Path(parent)
    return path if path.is_relative_to(mount) else mount / parent.strip("/")


def _find_flaw_of_path(mount: Path, path: Path) -> str:
    try:
        device = path.stat().st_dev
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    if not path.is_dir():
        return "is not a directory"
    if device != mount.stat().st_dev or not (path / "cgroup.procs").exists():
        return f"is no cgroup of the v2 tree at {mount}"
    return ""


def show_processes(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN_PROCESSES
    shown = ", ".join(names[:SHOWN_PROCESSES])
    return f"{shown} and {more} more" if more > 0 else shown


def _name_strangers(pids: Sequence[int]) -> tuple[str, ...]:
    """By name as many as are shown."""
    shown, others = pids[:SHOWN_PROCESSES], pids[SHOWN_PROCESSES:]
    return (*map(_name_process, shown), *map(str, others))


def _name_process(pid: int) -> str:
    if pid == 0:
        return "one of another pid namespace"
    return f"{read_line(f'/proc/{pid}/comm') or 'process'} {pid}"


def _is_marked(folder: Path) -> bool:
    return any(_read_mark(folder, name) for name in MARKS)


def _read_mark(folder: Path, name: str) -> bool:
    try:
        return os.getxattr(folder, name) == b"1"
    except OSError:
        return False
