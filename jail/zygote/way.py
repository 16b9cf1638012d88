"""The ways to places: sources on the host, mount points in a root filesystem that may be hostile.

Each is opened by ``openat2``, so that no link leads out of the tree, or anywhere at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from jail.kernel.file import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from jail.launchplan import Source

STAGING: Final = ("/tmp", "/run", "/mnt", "/var")
O_PATH_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY
IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
STRICTLY_IN_ROOT: Final = IN_ROOT | RESOLVE_NO_SYMLINKS


class RefusedError(OSError):
    """What was asked for can't be: the caller's mistake, not this host's."""


def open_source(source: Source) -> int:
    """O_PATH, no symbolic link on the way, and still the file that was checked."""
    try:
        fd = openat2(-100, source.path, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        raise OSError(error.errno, f"{source.path!r}: {error.strerror}") from None
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) != (source.device, source.inode):
        raise OSError(errno.ESTALE, f"{source.path!r}: replaced since it was checked")
    return fd


def open_mount_point(lower: int, name: str) -> int:
    """A link or a file of that name in a root filesystem is refused rather than covered.

    Whoever put it there meant mischief: CVE-2019-19921, CVE-2026-47766.
    """
    try:
        return openat2(lower, name, os.O_PATH | os.O_DIRECTORY, STRICTLY_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            text = f"rootfs: its /{name} must be a directory, and is none"
            raise RefusedError(error.errno, text) from None
        raise


def make_mount_point(lower: int, upper: int, name: str) -> None:
    """In the upper layer: over inodes of ids it doesn't map, the jail's root has no power."""
    try:
        os.close(open_mount_point(lower, name))
    except FileNotFoundError:
        make_dirs(upper, name)


def make_way(lower: int, upper: int, path: str) -> None:
    """The directories that lead to a mount point, if it is missing, in the upper layer too.

    For the reason above: below a directory of the host's root nothing could be made later. They
    look as they do in the lower tree. With a link on the way it is left to that tree's owner.
    """
    modes: list[int] = []
    found = True
    *parents, _ = path.split("/")
    for depth in range(1, len(parents) + 1):
        try:
            fd = openat2(lower, "/".join(parents[:depth]), O_PATH_DIRECTORY, STRICTLY_IN_ROOT)
        except FileNotFoundError:
            modes, found = [*modes, 0o755], False
        except OSError:
            return
        else:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode) & 0o1777)
            os.close(fd)
    if found and exists(lower, path):
        return
    for depth, mode in enumerate(modes, 1):
        name = "/".join(parents[:depth])
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=upper)
            os.chmod(name, mode, dir_fd=upper)


def write_over(lower: int, upper: int, path: str, data: bytes) -> None:
    """A file in the upper layer: whatever lies at its place in the lower one, which may be a link
    to anywhere, is not looked at.
    """
    folder, _, _ = path.rpartition("/")
    mode = 0o755
    with contextlib.suppress(FileNotFoundError):
        fd = open_mount_point(lower, folder)
        mode = stat.S_IMODE(os.fstat(fd).st_mode) & 0o1777
        os.close(fd)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700, dir_fd=upper)
        os.chmod(folder, mode, dir_fd=upper)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=upper)
    os.fchmod(fd, 0o644)
    os.write(fd, data)
    os.close(fd)


def exists(root: int, path: str) -> bool:
    try:
        os.close(openat2(root, path, os.O_PATH, IN_ROOT))
    except OSError:
        return False
    return True


def make_dirs(dir_fd: int, path: str) -> None:
    """``mkdir -p`` below a tree that is still ours alone."""
    done = ""
    for part in path.split("/"):
        done = f"{done}/{part}" if done else part
        try:
            os.mkdir(done, 0o755, dir_fd=dir_fd)
        except FileExistsError:
            continue


def find_staging() -> int:
    """Any directory of the host to build under; the mount there is in our namespace only."""
    for path in STAGING:
        try:
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
    raise OSError(errno.ENOENT, f"none of {', '.join(STAGING)} is there to build under")
