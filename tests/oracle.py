"""The leak oracle: what was there before a test is all that may be there after it.

It sees what a jail could leave behind: processes (zombies too), descriptors and threads of the
supervisor, mounts, shared memory, System V objects, named sockets, keys, cgroups, and files in
the places where the library keeps some.

Everything is read, nothing is guessed from names: this process is made the reaper of all
orphans below it (``PR_SET_CHILD_SUBREAPER``), so whoever leaves a jail's family tree comes to us
and is seen, whatever namespace he hides in.
"""

from __future__ import annotations

import functools
import gc
import os
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from jail.host import HostFacts, read_facts
from jail.kernel.process import prctl

DEADLINE_S: Final = 5.0
POLL_S: Final = 0.02
PR_SET_CHILD_SUBREAPER: Final = 36
KEPT: Final = ("slices",)
"""files of the runtime directory that stay, by design"""
IDLE_THREAD: Final = "Trio thread "
"""trio keeps an idle worker for ten seconds; one at work bears another name"""

Things = dict[str, str]
"""identity → what to say of it"""
Snapshot = dict[str, Things]


class Task(NamedTuple):
    """The few fields of ``/proc/PID/stat`` that tell a family tree."""

    pid: int
    name: str
    state: str
    parent: int
    started: int


_started: set[int] = set()
"""children that this very process made: their zombies are a leak, an adopted one's are not"""


def adopt_orphans() -> None:
    """Once per process: orphans come to us, and our own children are remembered."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _remember(subprocess, "_fork_exec")
    for name in ("fork", "posix_spawn", "posix_spawnp"):
        _remember(os, name)


def _remember(module: Any, name: str) -> None:
    real = getattr(module, name)

    @functools.wraps(real)
    def start(*args: Any, **options: Any) -> int:
        pid: int = real(*args, **options)
        _started.add(pid)
        return pid

    setattr(module, name, start)


def take_snapshot() -> Snapshot:
    """All that a jail could leave, now."""
    return {kind: dict(look()) for kind, look in LOOKS.items()}


def wait_until_clean(before: Snapshot, deadline_s: float = DEADLINE_S) -> list[str]:
    """What is there and was not, once it has had time to go: a line each."""
    leaks = find_leaks(before, take_snapshot())
    if not leaks:
        return []
    gc.collect()
    end = time.monotonic() + deadline_s
    while (leaks := find_leaks(before, take_snapshot())) and time.monotonic() < end:
        time.sleep(POLL_S)
    return leaks


def find_leaks(before: Snapshot, after: Snapshot) -> list[str]:
    """The difference. What belongs to the whole user counts only where nobody else is at work."""
    leaks = [
        (kind, text)
        for kind, things in after.items()
        for key, text in things.items()
        if key not in before[kind]
    ]
    if any(kind in OF_THE_USER for kind, _ in leaks) and not is_alone():
        leaks = [(kind, text) for kind, text in leaks if kind not in OF_THE_USER]
    return [f"{kind}: {text}" for kind, text in leaks]


def kill_family() -> None:
    """End what has leaked, so that one test's shame isn't the next one's."""
    for task in _read_family(_read_tasks()):
        try:
            os.kill(task.pid, 9)
        except ProcessLookupError:
            continue


def find_strays(folder: Path) -> list[str]:
    """Below a directory of ours: what belongs to another id, or runs as its owner for others."""
    strays = []
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(where, name)
            found = os.lstat(path)
            if found.st_uid != os.getuid():
                strays.append(f"file: {path} belongs to {found.st_uid}")
            elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o6000:
                strays.append(f"file: {path} is set-id ({found.st_mode:o})")
    return strays


# -- the looks ------------------------------------------------------------------------------------


def _look_at_processes() -> Iterator[tuple[str, str]]:
    tasks = _read_tasks()
    _started.intersection_update(tasks)
    for task in _read_family(tasks):
        if task.state == "Z" and task.parent == os.getpid() and task.pid not in _started:
            _bury(task.pid)
        else:
            yield f"{task.pid}@{task.started}", f"{task.pid} {task.name} ({task.state})"


def _bury(pid: int) -> None:
    """On a host without us the system's init would have."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _read_family(tasks: dict[int, Task]) -> list[Task]:
    children: dict[int, list[Task]] = {}
    for task in tasks.values():
        children.setdefault(task.parent, []).append(task)
    family: list[Task] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        family += below
        waiting += [task.pid for task in below]
    return family


def _read_tasks() -> dict[int, Task]:
    tasks = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (text := _read(f"/proc/{name}/stat")):
            head, _, tail = text.rpartition(")")
            fields = tail.split()
            comm = head.partition("(")[2]
            tasks[int(name)] = Task(int(name), comm, fields[0], int(fields[1]), int(fields[19]))
    return tasks


def _look_at_descriptors() -> Iterator[tuple[str, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that the listing itself was made with
            continue
        yield f"{name} {target}", f"{name} -> {target}"


def _look_at_threads() -> Iterator[tuple[str, str]]:
    for each in threading.enumerate():
        if not each.name.startswith(IDLE_THREAD):
            yield f"{each.ident}", each.name


def _look_at_mounts() -> Iterator[tuple[str, str]]:
    for line in _read("/proc/self/mountinfo").splitlines():
        yield line, line


def _look_at_shared_memory() -> Iterator[tuple[str, str]]:
    for entry in os.scandir("/dev/shm"):
        if _is_ours(entry.stat(follow_symlinks=False).st_uid):
            yield entry.path, entry.path


def _look_at_system_v() -> Iterator[tuple[str, str]]:
    for kind in ("shm", "msg", "sem"):
        for line in _read(f"/proc/sysvipc/{kind}").splitlines()[1:]:
            words = line.split()
            yield f"{kind} {words[1]}", f"{kind} id {words[1]} key {words[0]}"


def _look_at_sockets() -> Iterator[tuple[str, str]]:
    """Those with a name; the nameless are somebody's descriptors."""
    for line in _read("/proc/net/unix").splitlines()[1:]:
        words = line.split(None, 7)
        if len(words) == 8:
            yield words[7], words[7]


def _look_at_keys() -> Iterator[tuple[str, str]]:
    for line in _read("/proc/keys").splitlines():
        yield line.split()[0], line


def _look_at_cgroups() -> Iterator[tuple[str, str]]:
    place = _facts().cgroup
    if place is None:
        return
    own = place.path if place.writable else None
    for folder in filter(None, [own, place.user_service]):
        for path, _, _ in os.walk(folder):
            yield path, path


def _look_at_files() -> Iterator[tuple[str, str]]:
    for where, folders, files in os.walk(_facts().runtime_dir):
        for name in (*folders, *files):
            if name not in KEPT:
                yield f"{where}/{name}", f"{where}/{name}"
    for entry in os.scandir(tempfile.gettempdir()):
        try:
            uid = entry.stat(follow_symlinks=False).st_uid
        except FileNotFoundError:
            continue
        if uid != os.getuid() and _is_ours(uid):
            yield entry.path, f"{entry.path} belongs to {uid}"


LOOKS: Final[dict[str, Callable[[], Iterator[tuple[str, str]]]]] = {
    "process": _look_at_processes,
    "descriptor": _look_at_descriptors,
    "thread": _look_at_threads,
    "mount": _look_at_mounts,
    "shared memory": _look_at_shared_memory,
    "System V": _look_at_system_v,
    "socket": _look_at_sockets,
    "key": _look_at_keys,
    "cgroup": _look_at_cgroups,
    "file": _look_at_files,
}
OF_THE_USER: Final = ("shared memory", "System V", "socket", "key", "mount", "cgroup", "file")
"""kinds that another program of the same user changes at will"""


def is_alone() -> bool:
    """No process of this user or of its subordinate ids but us, our ancestors and our family."""
    tasks = _read_tasks()
    known = {task.pid for task in _read_family(tasks)}
    pid = os.getpid()
    while pid in tasks:
        known.add(pid)
        pid = tasks[pid].parent
    return all(pid in known or not _is_ours(_read_owner(pid)) for pid in tasks)


def _read_owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return -1


def _is_ours(uid: int) -> bool:
    ranges = _facts().subuids
    return uid == os.getuid() or any(r.start <= uid < r.start + r.count for r in ranges)


def _facts() -> HostFacts:
    return read_facts()


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall().decode("utf-8", "replace")
    except OSError:
        return ""
