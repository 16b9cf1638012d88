"""HIDDEN PROTECTED, comma-separated: tries to take the masks off /proc, says what is uncovered.

``mask`` as a third word puts them on first: the control, as root of a namespace of one's own.
"""

import ctypes
import json
import os
import stat
import sys
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 32, 4096, 8192, 16384
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
OPEN_TREE_CLONE, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 1, -100, 4
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
PLACE = "/tmp/uncovered"

hidden, protected = (words.split(",") for words in sys.argv[1:3])


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    if libc.mount(*words, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), "mount")


def put_masks_on() -> None:
    mount("none", "/", None, MS_REC | (1 << 18))  # MS_PRIVATE
    for path in hidden:
        mount(PLACE if os.path.isdir(path) else "/dev/null", path, None, MS_BIND)
    for path in protected:
        mount(path, path, None, MS_BIND | MS_REC)
        mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY)


def move_by_descriptor(path: str) -> None:
    tree = libc.syscall(OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE)
    words = (MOVE_MOUNT, tree, b"", AT_FDCWD, PLACE.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    if tree < 0 or libc.syscall(*words):
        raise OSError(ctypes.get_errno(), "move_mount")


def clear_read_only(path: str) -> None:
    attributes = (ctypes.c_uint64 * 4)(0, MS_RDONLY, 0, 0)
    if libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), 0, attributes, 32):
        raise OSError(ctypes.get_errno(), "mount_setattr")


def attempts(path: str) -> list[Callable[[], object]]:
    return [
        lambda: libc.umount2(path.encode(), MNT_DETACH),
        lambda: libc.umount2(path.encode(), UMOUNT_NOFOLLOW),
        lambda: mount(path, PLACE, None, MS_MOVE),
        lambda: mount("none", path, None, MS_REMOUNT | MS_BIND),
        lambda: mount("proc", path, "proc", MS_REMOUNT),
        lambda: clear_read_only(path),
        lambda: os.rename(path, path + "~"),
    ]


def is_uncovered(path: str) -> bool:
    """What stands for /dev/null or for an empty directory is something else."""
    try:
        found = os.stat(path)
        return (
            bool(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else stat.S_ISREG(found.st_mode)
        )
    except OSError:
        return False


def is_writable(path: str) -> bool:
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def show_elsewhere() -> list[str]:
    """A /proc without its masks at another place: a copy of it alone, or a new one."""
    found = []
    tricks: dict[str, Callable[[], None]] = {
        "bind": lambda: mount("/proc", PLACE, None, MS_BIND),
        "tree": lambda: move_by_descriptor("/proc"),
        "new": lambda: mount("proc", PLACE, "proc", 0),
        "root": lambda: mount("/", PLACE, None, MS_BIND),
    }
    for name, trick in tricks.items():
        try:
            trick()
        except OSError:
            continue
        below = PLACE + ("/proc" if name == "root" else "")
        found += [name for path in hidden if is_uncovered(below + path.removeprefix("/proc"))][:1]
        libc.umount2(PLACE.encode(), MNT_DETACH)
    return found


os.makedirs(PLACE, exist_ok=True)
if "mask" in sys.argv[3:]:
    put_masks_on()
elsewhere = show_elsewhere()
for path in hidden + protected:
    for attempt in attempts(path):
        try:
            attempt()
        except OSError:
            continue
print(json.dumps({
    "elsewhere": elsewhere,
    "hidden": [path for path in hidden if is_uncovered(path)],
    "protected": [path for path in protected if is_writable(path)],
}))  # fmt: skip
