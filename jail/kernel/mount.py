"""The mount API of Linux 5.2 and later: mounts are file descriptors until they are attached."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from jail.agent.kernel import number, syscall

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2


class MountAttr(ctypes.Structure):
    """``struct mount_attr`` of linux/mount.h."""

    _fields_ = [
        (name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    ]


def make_private() -> None:
    """No mount event passes between this mount namespace and any other, from ``/`` down."""
    syscall(number(165, 40), None, b"/", None, MS_REC | MS_PRIVATE, None)


def open_filesystem(fstype: str, options: dict[str, str | None], attr: int) -> int:
    """fsopen, fsconfig, fsmount: a detached mount's fd. An option's None is a bare flag."""
    context = syscall(430, fstype.encode(), FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            kind = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            text = None if value is None else os.fsencode(value)
            syscall(431, context, kind, key.encode(), text, 0)
        syscall(431, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall(432, context, FSMOUNT_CLOEXEC, attr)
    except OSError as error:
        raise _with_log(error, context) from None
    finally:
        os.close(context)


def _with_log(error: OSError, context: int) -> OSError:
    # The context keeps the kernel's own words: fsopen(2).
    try:
        log = os.read(context, 4096).decode(errors="replace").strip()
    except OSError:
        return error
    return OSError(error.errno, f"{os.strerror(error.errno or 0)} ({log})")


def open_tree(dir_fd: int, path: str = "", recursive: bool = True) -> int:
    """A detached copy of the mount tree at ``path`` of ``dir_fd`` (or at the fd itself)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (0 if path else AT_EMPTY_PATH)
    return syscall(428, dir_fd, path.encode(), flags | (AT_RECURSIVE if recursive else 0))


def mount_setattr(mount_fd: int, attr_set: int, recursive: bool = True) -> None:
    """Set attributes on the mount, and on all below it unless told otherwise."""
    attr = MountAttr(attr_set=attr_set)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(442, mount_fd, b"", flags, attr, ctypes.sizeof(attr))


def move_mount(mount_fd: int, dir_fd: int, path: str = "") -> None:
    """Attach a detached mount at ``path`` of ``dir_fd`` (or at the O_PATH fd itself)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    syscall(429, mount_fd, b"", dir_fd, path.encode(), flags)


def pivot_root_here() -> None:
    """Make the current directory the root and let the old root go: pivot_root(2), “.” and “.”."""
    syscall(number(155, 41), b".", b".")
    syscall(number(166, 39), b".", MNT_DETACH)
