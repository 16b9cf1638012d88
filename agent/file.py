"""Files, for the supervisor, with the program's own eyes and rights."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

MAX_ENTRIES = 10_000
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_file(path: str, write: bool, mode: int) -> int:
    """A regular file's fd; OSError with a person's words for all else."""
    flags = OPEN_FLAGS | (os.O_WRONLY | os.O_CREAT if write else os.O_RDONLY)
    try:
        fd = os.open(path, flags, mode & 0o777)
    except OSError as error:
        raise _explain(error, path) from None
    kind = os.fstat(fd).st_mode
    if not stat.S_ISREG(kind):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path}: is {describe(kind)}, not a regular file")
    if write:
        os.fchmod(fd, mode & 0o777)
        os.ftruncate(fd, 0)
    return fd


def make_dirs(path: str, mode: int) -> None:
    """``mkdir -p``."""
    try:
        os.makedirs(path, mode & 0o777, exist_ok=True)
    except OSError as error:
        raise _explain(error, path) from None


def list_dir(path: str) -> list[list[Any]]:
    """[name, st_mode, link target] of at most MAX_ENTRIES entries, the directory not followed."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)
    try:
        names = os.listdir(fd)
        if len(names) > MAX_ENTRIES:
            raise OSError(errno.E2BIG, f"{path}: more than {MAX_ENTRIES} entries")
        return [_describe_entry(fd, name) for name in sorted(names)]
    finally:
        os.close(fd)


def _describe_entry(dir_fd: int, name: str) -> list[Any]:
    mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    target = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(mode) else ""
    return [name, mode, target]


def describe(mode: int) -> str:
    """What a thing is that is no regular file."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _explain(error: OSError, path: str) -> OSError:
    code = error.errno or errno.EIO
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return OSError(code, f"{path}: {os.strerror(code)}")
    if code in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EEXIST):
        return OSError(code, f"{path}: is {describe(mode)}, not a regular file")
    return OSError(code, f"{path}: {os.strerror(code)}")
