"""What Landlock lets a jail do with files, made from the plan's mounts: a second wall. Pure.

A rule gives rights to a directory and to all below it, across mounts, and none takes away what
one above it gave: landlock(7). So where the root itself can be written, everything can, as far as
Landlock goes, and a read-only volume in there is held by its mount alone. What is below no rule's
directory, a descriptor that leaked from the host, can't be opened at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from jail.kernel import landlock as kernel
from jail.kernel.mount import MOUNT_ATTR_RDONLY
from jail.launchplan import (
    Bind,
    BindScratch,
    Landlock,
    LaunchPlan,
    Mount,
    MountDev,
    MountProc,
    Seal,
    Step,
)

MIN_ABI: Final = 2
"""before, no file may be moved or linked from one directory into another"""
NET_ABI: Final = 4
SCOPE_ABI: Final = 6
LOG_ABI: Final = 7

EVERYTHING: Final = {
    2: (kernel.LANDLOCK_ACCESS_FS_REFER << 1) - 1,
    3: (kernel.LANDLOCK_ACCESS_FS_TRUNCATE << 1) - 1,
    5: (kernel.LANDLOCK_ACCESS_FS_IOCTL_DEV << 1) - 1,
}
"""version → all rights on files that it has; those between have those of the one before"""

EXECUTE: Final = kernel.LANDLOCK_ACCESS_FS_EXECUTE
READ: Final = EXECUTE | kernel.LANDLOCK_ACCESS_FS_READ_FILE | kernel.LANDLOCK_ACCESS_FS_READ_DIR
WRITE_FILE: Final = kernel.LANDLOCK_ACCESS_FS_WRITE_FILE | kernel.LANDLOCK_ACCESS_FS_TRUNCATE
CHANGE: Final = (
    WRITE_FILE
    | kernel.LANDLOCK_ACCESS_FS_REMOVE_DIR
    | kernel.LANDLOCK_ACCESS_FS_REMOVE_FILE
    | kernel.LANDLOCK_ACCESS_FS_MAKE_DIR
    | kernel.LANDLOCK_ACCESS_FS_MAKE_REG
    | kernel.LANDLOCK_ACCESS_FS_MAKE_SOCK
    | kernel.LANDLOCK_ACCESS_FS_MAKE_FIFO
    | kernel.LANDLOCK_ACCESS_FS_MAKE_SYM
    | kernel.LANDLOCK_ACCESS_FS_REFER
)
"""all that is done to a directory and its files; nobody makes a device"""
DEVICE: Final = WRITE_FILE | kernel.LANDLOCK_ACCESS_FS_IOCTL_DEV
NULL: Final = "dev/null"
QUEUES: Final = "dev/mqueue"
OUTSIDE: Final = (NULL, QUEUES)

NO_TCP: Final = kernel.LANDLOCK_ACCESS_NET_BIND_TCP | kernel.LANDLOCK_ACCESS_NET_CONNECT_TCP
SCOPED: Final = kernel.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | kernel.LANDLOCK_SCOPE_SIGNAL
# The audit log is the host's: nobody inside fills it.
QUIET: Final = (
    kernel.LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF
    | kernel.LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF
)


def decide_landlock(
    steps: tuple[Step, ...], files: frozenset[str], abi: int, *, refuses_tcp: bool = False
) -> Landlock | None:
    """The rules for these steps; None where the kernel's Landlock is too old, or missing.

    ``files`` are the places where a single file is bound: of the rights, it can have only a
    file's.
    """
    if abi < MIN_ABI:
        return None
    handled = max(rights for version, rights in EVERYTHING.items() if version <= abi)
    root = READ if Seal("") in steps else READ | CHANGE
    rules = [("", root & handled)]
    for path, access in (*_find_writable(steps, files), *_find_outside(steps)):
        # What it would have from the root anyway needs no rule.
        if access & handled & ~root or path in OUTSIDE:
            rules.append((path, access & handled))
    return Landlock(
        handled_fs=handled,
        handled_net=NO_TCP if refuses_tcp and abi >= NET_ABI else 0,
        scoped=SCOPED if abi >= SCOPE_ABI else 0,
        flags=QUIET if abi >= LOG_ABI else 0,
        rules=tuple(rules),
    )


def _find_writable(steps: Iterable[Step], files: frozenset[str]) -> Iterator[tuple[str, int]]:
    for step in steps:
        match step:
            case BindScratch(_, path, _) | Mount(_, path, _, _):
                yield path, CHANGE
            case Bind(_, path, attr) if not attr & MOUNT_ATTR_RDONLY:
                yield path, WRITE_FILE if path in files else CHANGE
            case MountDev():
                yield "dev", DEVICE
            case MountProc():
                # /proc/PID has what programs write: comm, oom_score_adj. Which is whose, and what
                # of the rest is nobody's, its own modes and covers say.
                yield "proc", WRITE_FILE


def _find_outside(steps: Iterable[Step]) -> Iterator[tuple[str, int]]:
    """What is met by a way that isn't below the jail's root, and is the same file as one there.

    An empty stdin, opened again; mq_open(3), which goes by a mount of the kernel's own.
    """
    for step in steps:
        if isinstance(step, MountDev):
            if "null" in step.devices:
                yield NULL, kernel.LANDLOCK_ACCESS_FS_READ_FILE | DEVICE
            if step.queues:
                yield QUEUES, READ | CHANGE


def find_unheld(launch: LaunchPlan) -> list[str]:
    """Read-only binds in a place that can be written: there Landlock adds nothing to the mount."""
    rules = launch.landlock.rules if launch.landlock is not None else ()
    writable = [path for path, access in rules if access & kernel.LANDLOCK_ACCESS_FS_MAKE_REG]
    return [
        step.path
        for step in launch.steps
        if isinstance(step, Bind) and step.attr & MOUNT_ATTR_RDONLY
        if any(not above or f"{step.path}/".startswith(f"{above}/") for above in writable)
    ]
