"""The file that a process is executed from, where that must not be the user's own to change."""

from __future__ import annotations

import errno
import fcntl
import os

COPY_CHUNK_BYTES = 1 << 30
MFD_EXEC = 0x10  # not in Python's os
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_own(path: str) -> bool:
    """Whether a program with our uid could change the file or its mode."""
    return os.stat(path).st_uid == os.geteuid() or os.access(path, os.W_OK)


def copy_to_memory(path: str) -> int:
    """A sealed copy of a program, to be executed in its place; the fd is the caller's.

    A program whose ``#!`` is /proc/self/exe gets hold of the file that its agent was started
    from, on the host's own mount. If that is ours (~/.pyenv, conda, uv), so would be the power
    over it: the class of CVE-2019-5736.
    """
    writer = open_memory(os.path.basename(path))
    try:
        with open(path, "rb") as file:
            while os.sendfile(writer, file.fileno(), None, COPY_CHUNK_BYTES):
                pass
        fcntl.fcntl(writer, fcntl.F_ADD_SEALS, ALL_SEALS)
        # What is open for writing can't be executed: execve(2), ETXTBSY.
        return os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writer)


def open_memory(name: str) -> int:
    """``memfd_create(2)`` of something executable; kernels before 6.3 need not be told."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)
