"""The file systems of a jail's root, mounted where nobody sees them."""

from __future__ import annotations

import os
from collections.abc import Callable

from jail.doctor.attempt.base import Attempt, Setting, StuckError, at, enter, write
from jail.kernel import mount

MEETING_PLACE = "/tmp"  # a directory every host has; mounts over it are seen by nobody else


def make_mount_attempt(fstype: str, options: dict[str, str | None], *kinds: str) -> Attempt:
    def attempt(setting: Setting) -> str:
        enter(setting, "mnt", *kinds)
        with at(f"mount {fstype}"):
            mount.open_filesystem(fstype, options, mount.MOUNT_ATTR_NOSUID)
        return ""

    return attempt


def try_proc(setting: Setting) -> str:
    """A proc shows the pid namespace of the process that mounts it, so a child must."""
    enter(setting, "mnt", "pid")
    return _in_child(_mount_proc)


def try_pivot_root(setting: Setting) -> str:
    _mount_meeting_place(setting)
    with at("pivot_root"):
        os.chdir(MEETING_PLACE)
        mount.pivot_root_here()
    return ""


def try_overlay(setting: Setting) -> str:
    """An overlay without privilege, and a file of the lower layer written through it."""
    _mount_meeting_place(setting)
    names = ("lower", "upper", "work", "merged")
    lower, upper, work, merged = (f"{MEETING_PLACE}/{name}" for name in names)
    for path in (lower, upper, work, merged):
        os.mkdir(path)
    write(f"{lower}/file", "below", os.O_CREAT)
    options = {"lowerdir": lower, "upperdir": upper, "workdir": work, "userxattr": None}
    with at("mount overlay"):
        _attach(mount.open_filesystem("overlay", options, 0), merged)
        write(f"{merged}/file", "above")
    return ""


def _mount_meeting_place(setting: Setting) -> None:
    enter(setting, "mnt")
    with at("mount tmpfs"):
        mount.make_private()
        _attach(mount.open_filesystem("tmpfs", {"mode": "0700"}, 0), MEETING_PLACE)


def _attach(mount_fd: int, path: str) -> None:
    target_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.move_mount(mount_fd, target_fd)


def _mount_proc() -> None:
    with at("mount proc"):
        mount.open_filesystem("proc", {}, mount.MOUNT_ATTR_NOSUID)


def _in_child(action: Callable[[], None]) -> str:
    """Runs the action in a forked child and raises here what it raised there."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except StuckError as stuck:
            os.write(write_fd, f"{stuck.step}\n{stuck.errno or 0}\n{stuck}".encode()[:4096])
        finally:
            os._exit(1)
    os.close(write_fd)
    said = os.read(read_fd, 4096).decode(errors="replace")
    if os.waitpid(pid, 0)[1] == 0:
        return ""
    step, errno, detail = said.split("\n", 2) if said.count("\n") >= 2 else ("", "0", "it died")
    raise StuckError(step, int(errno) or None, detail)
