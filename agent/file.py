"""Files, for the supervisor, with the program's own eyes and rights."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

MAX_ENTRIES = 10_000
MAX_LIST_BYTES = 3 * 1024 * 1024
"""an answer is one frame; 10,000 links with targets of 4 KiB would be none"""
MAX_SHOWN = 300
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_file(path: str, write: bool, mode: int) -> int:
    """A regular file's fd; OSError with a person's words for all else."""
    flags = OPEN_FLAGS | (os.O_WRONLY | os.O_CREAT if write else os.O_RDONLY)
    fd = -1
    try:
        fd = os.open(path, flags, mode & 0o777)
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, f"{path}: is {describe(kind)}, not a regular file")
        if write:
            os.fchmod(fd, mode & 0o777)
            os.ftruncate(fd, 0)
        return fd
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise _explain(error, path, "a regular file") from None


def make_dirs(path: str, mode: int) -> None:
    """``mkdir -p``."""
    try:
        os.makedirs(path, mode & 0o777, exist_ok=True)
    except OSError as error:
        raise _explain(error, path, "a directory") from None


def make_link(path: str, target: str) -> None:
    """A symbolic link where nothing is yet."""
    try:
        os.symlink(target, path)
    except OSError as error:
        raise _explain(error, path, "a new name") from None


def list_dir(path: str) -> list[list[Any]]:
    """[name, st_mode, link target] of at most MAX_ENTRIES entries, the directory not followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)
    except OSError as error:
        raise _explain(error, path, "a directory") from None
    try:
        names = os.listdir(fd)
        if len(names) > MAX_ENTRIES:
            raise OSError(errno.E2BIG, f"{path}: more than {MAX_ENTRIES} entries")
        entries, left = [], MAX_LIST_BYTES
        for name in sorted(names):
            entry = _describe_entry(fd, name)
            left -= sum(len(os.fsencode(text)) for text in entry[::2])
            if left < 0:
                raise OSError(errno.E2BIG, f"{path}: its names and links are too long to list")
            entries.append(entry)
        return entries
    finally:
        os.close(fd)


def _describe_entry(dir_fd: int, name: str) -> list[Any]:
    """One that has just gone is a nameless thing of no kind: mode 0."""
    try:
        mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
        target = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(mode) else ""
    except OSError:
        return [name, 0, ""]
    return [name, mode, target]


def describe(mode: int) -> str:
    """What a thing is that is no regular file."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _explain(error: OSError, path: str, wanted: str) -> OSError:
    code = error.errno or errno.EIO
    if error.strerror and error.strerror.startswith(f"{path}: "):
        return error
    shown = path if len(path) <= MAX_SHOWN else f"{path[:40]}…{path[-MAX_SHOWN:]}"
    text = f"{shown}: {os.strerror(code)}"
    if code in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EEXIST, errno.ENOTDIR):
        try:
            found = describe(os.lstat(path).st_mode)
        except OSError:
            return OSError(code, text)
        text = f"{shown}: is {found}, not {wanted}"
    return OSError(code, text)
