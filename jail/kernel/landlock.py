"""Landlock's three system calls; their numbers are the same on every architecture."""

from __future__ import annotations

import struct
from typing import Final

from jail.agent.kernel import syscall

LANDLOCK_CREATE_RULESET_VERSION: Final = 1
LANDLOCK_RULE_PATH_BENEATH: Final = 1

LANDLOCK_ACCESS_FS_EXECUTE: Final = 1 << 0
LANDLOCK_ACCESS_FS_WRITE_FILE: Final = 1 << 1
LANDLOCK_ACCESS_FS_READ_FILE: Final = 1 << 2
LANDLOCK_ACCESS_FS_READ_DIR: Final = 1 << 3
LANDLOCK_ACCESS_FS_REMOVE_DIR: Final = 1 << 4
LANDLOCK_ACCESS_FS_REMOVE_FILE: Final = 1 << 5
LANDLOCK_ACCESS_FS_MAKE_CHAR: Final = 1 << 6
LANDLOCK_ACCESS_FS_MAKE_DIR: Final = 1 << 7
LANDLOCK_ACCESS_FS_MAKE_REG: Final = 1 << 8
LANDLOCK_ACCESS_FS_MAKE_SOCK: Final = 1 << 9
LANDLOCK_ACCESS_FS_MAKE_FIFO: Final = 1 << 10
LANDLOCK_ACCESS_FS_MAKE_BLOCK: Final = 1 << 11
LANDLOCK_ACCESS_FS_MAKE_SYM: Final = 1 << 12
LANDLOCK_ACCESS_FS_REFER: Final = 1 << 13
LANDLOCK_ACCESS_FS_TRUNCATE: Final = 1 << 14
LANDLOCK_ACCESS_FS_IOCTL_DEV: Final = 1 << 15

LANDLOCK_ACCESS_NET_BIND_TCP: Final = 1 << 0
LANDLOCK_ACCESS_NET_CONNECT_TCP: Final = 1 << 1

LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
LANDLOCK_SCOPE_SIGNAL: Final = 1 << 1

LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF: Final = 1 << 0
LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF: Final = 1 << 2


def landlock_abi() -> int:
    """The version of the interface, from 1 on; OSError where there is none."""
    return syscall(444, None, 0, LANDLOCK_CREATE_RULESET_VERSION)


def landlock_create_ruleset(handled_fs: int, handled_net: int, scoped: int) -> int:
    """The fd, close-on-exec, of an empty ruleset: what it handles is refused but for its rules.

    A kernel that knows a shorter ``struct landlock_ruleset_attr`` takes a longer one whose end
    is zero.
    """
    attr = struct.pack("=QQQ", handled_fs, handled_net, scoped)
    return syscall(444, attr, len(attr), 0)


def landlock_add_rule(ruleset_fd: int, parent_fd: int, allowed_access: int) -> None:
    """Allow it at the file or the directory ``parent_fd``, and on all below that."""
    attr = struct.pack("=Qi", allowed_access, parent_fd)
    syscall(445, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, attr, 0)


def landlock_restrict_self(ruleset_fd: int, flags: int) -> None:
    """This thread and whatever it starts, for good; no_new_privs must be on."""
    syscall(446, ruleset_fd, flags)
