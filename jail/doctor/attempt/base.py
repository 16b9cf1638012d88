"""What attempts share: the setting, the two ways to fail, and the way into a namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jail.kernel import process

NAMESPACES = {
    "user": process.CLONE_NEWUSER,
    "mnt": process.CLONE_NEWNS,
    "pid": process.CLONE_NEWPID,
    "net": process.CLONE_NEWNET,
    "ipc": process.CLONE_NEWIPC,
    "uts": process.CLONE_NEWUTS,
    "cgroup": process.CLONE_NEWCGROUP,
    "time": process.CLONE_NEWTIME,
}


@dataclass(frozen=True)
class Setting:
    """What an attempt must know of the host; plain values, as they come through a pipe.

    ``cgroup`` is the one we are in, ``cgroup_flaw`` why it can't be used, ``buses`` where systemd
    can be asked for another; each may be none.
    """

    uid: int = 0
    gid: int = 0
    maps: dict[str, list[str]] = field(default_factory=dict)
    helpers: dict[str, str] = field(default_factory=dict)
    cgroup: str | None = None
    controllers: list[str] = field(default_factory=list)
    cgroup_flaw: str = ""
    buses: list[str] = field(default_factory=list)
    helper_timeout_s: float = 3.0
    ipv6: bool = True


class AbsentError(Exception):
    """It is not there."""


class StuckError(Exception):
    """It is there, and failed at ``step``; ``errno`` is None where no system call answered."""

    def __init__(self, step: str, errno: int | None, detail: str) -> None:
        super().__init__(detail)
        self.step = step
        self.errno = errno


Attempt = Callable[[Setting], str]


@contextmanager
def at(step: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StuckError(step, error.errno, error.strerror or str(error)) from None


def enter_user_namespace() -> None:
    with at("unshare user"):
        process.unshare(process.CLONE_NEWUSER)


def map_own_id(setting: Setting) -> None:
    """One id: what anybody may map without a helper, once setgroups is denied."""
    enter_user_namespace()
    with at("setgroups"):
        write("/proc/self/setgroups", "deny")
    with at("uid_map"):
        write("/proc/self/uid_map", f"0 {setting.uid} 1")
    with at("gid_map"):
        write("/proc/self/gid_map", f"0 {setting.gid} 1")


def enter(setting: Setting, *kinds: str) -> None:
    """A user namespace with our id as its root, then the other namespaces, one by one."""
    map_own_id(setting)
    for kind in kinds:
        with at(f"unshare {kind}"):
            process.unshare(NAMESPACES[kind])


def write(path: str, text: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
