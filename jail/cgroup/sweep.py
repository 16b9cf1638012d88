"""Ending what is in a cgroup, and removing what the dead have left."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from jail.cgroup import file
from jail.cgroup.name import Name, Owner, make_host_name, parse_name
from jail.cgroup.owner import has_ended

SWEEP_TIMEOUT_S: Final = 2.0
"""a process that waits for a disk dies when the disk answers; the next start sweeps it"""
FIRST_LOOK_S: Final = 0.001
LAST_LOOK_S: Final = 0.05
MAX_ROUNDS: Final = 1000


def kill_cgroup(folder: Path) -> None:
    """All that is in it and below begins to die; one that has gone is as good."""
    try:
        file.write_value(folder, "cgroup.kill", "1")
    except FileNotFoundError:  # before Linux 5.14
        _kill_one_by_one(folder)
    except OSError:
        return


def remove_cgroup(folder: Path) -> bool:
    """With those below it, if nobody is in them any more; True when it is gone."""
    for each in reversed(list(list_tree(folder))):
        remove_empty(each)
    return not folder.is_dir()


def remove_empty(folder: Path) -> None:
    """This one alone, and only if nobody and nothing is in it."""
    try:
        file.remove_directory(folder)
    except OSError:
        return


async def end_cgroup(folder: Path, timeout_s: float = SWEEP_TIMEOUT_S) -> bool:
    """Kills and removes it; False if something in it did not die in time."""
    pause_s = FIRST_LOOK_S
    with trio.move_on_after(timeout_s):
        while True:
            kill_cgroup(folder)  # again: what is just being born may not have been listed
            if remove_cgroup(folder):
                return True
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LAST_LOOK_S)
    return remove_cgroup(folder)


async def sweep(parent: Path, here: Owner) -> None:
    """Ends the jails of supervisors that have died, and touches nothing else.

    The zygotes' cgroup may hold children of the dead application, which are none of ours: it is
    removed when it is empty, and never killed.
    """
    found = [
        (each, name) for each in file.list_directories(parent) if (name := parse_name(each.name))
    ]
    dead = [(each, name) for each, name in found if is_abandoned(each, name, here)]
    with trio.move_on_after(SWEEP_TIMEOUT_S):
        for each, name in dead:
            if not name.is_host:
                await end_cgroup(each)
    for each, name in dead:
        if name.is_host:
            remove_empty(each)


def is_abandoned(folder: Path, name: Name, here: Owner) -> bool:
    """Made by this user, its owner dead by his name, and no living process holding his lock.

    The lock is for what a name can't tell: a /proc that hides others or counts the time anew
    (time_namespaces(7)), a container with a boot id of its own.
    """
    try:
        made_by = folder.stat().st_uid
    except OSError:
        return False
    if made_by != os.geteuid() or not has_ended(name.owner, here):
        return False
    return not is_locked(folder.parent / make_host_name(name.owner))


def is_locked(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def list_tree(folder: Path) -> Iterator[Path]:
    """The cgroup and all below it, each before those below it."""
    waiting = [folder]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += file.list_directories(each)


def _kill_one_by_one(folder: Path) -> None:
    """Frozen, so that nobody forks meanwhile. SIGKILL reaches the frozen."""
    if not folder.is_dir():
        return
    _freeze(folder, "1")
    killed: set[int] = set()
    for _ in range(MAX_ROUNDS):
        new = {pid for each in list_tree(folder) for pid in file.read_pids(each)} - killed - {0}
        if not new:
            break
        for pid in new:
            _kill_inside(folder, pid)
        killed |= new
    _freeze(folder, "0")


def _kill_inside(folder: Path, pid: int) -> None:
    """By a pidfd that was there before the pid was seen inside: the number may be another's."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if any(pid in file.read_pids(each) for each in list_tree(folder)):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def _freeze(folder: Path, text: str) -> None:
    try:
        file.write_value(folder, "cgroup.freeze", text)
    except OSError:
        return
