"""The jails' leaves below the delegated cgroup: made here, since a child is born into one."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final, NamedTuple

BOOKS: Final = ("cpu.stat", "memory.current")
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LeafError(OSError):
    """No leaf could be made."""

    step: Final = "cgroup"


class Leaf(NamedTuple):
    """A cgroup of its own, empty or with an init in it; ``fd`` is its directory."""

    number: int
    fd: int


class Leaves:
    """Owns ``parent_fd``. ``prefix`` is the supervisor's own: nobody else makes such names."""

    def __init__(self, parent_fd: int, prefix: str) -> None:
        self._parent_fd = parent_fd
        self._prefix = prefix
        self._next = 0

    def make(self) -> Leaf:
        """LeafError: EAGAIN where an ancestor allows no more, or none as deep as this."""
        number = self._next
        self._next += 1
        name = f"{self._prefix}{number}"
        try:
            os.mkdir(name, 0o755, dir_fd=self._parent_fd)
        except OSError as error:
            raise LeafError(error.errno, error.strerror) from None
        try:
            return Leaf(number, os.open(name, DIRECTORY, dir_fd=self._parent_fd))
        except OSError as error:
            os.rmdir(name, dir_fd=self._parent_fd)
            raise LeafError(error.errno, error.strerror) from None

    def let_go(self, leaf: Leaf, *, remove: bool) -> None:
        """Its init has been reaped, or there is none."""
        os.close(leaf.fd)
        if remove:
            self.remove(leaf.number)

    def remove(self, number: int) -> None:
        """Of one that nobody is in, or has a use for."""
        with suppress(OSError):
            os.rmdir(f"{self._prefix}{number}", dir_fd=self._parent_fd)

    def close(self) -> None:
        """What the supervisor, which has gone, hasn't removed. Their tasks have been reaped."""
        for name in os.listdir(self._parent_fd):
            if name.startswith(self._prefix) and name.removeprefix(self._prefix).isdigit():
                with suppress(OSError):
                    os.rmdir(name, dir_fd=self._parent_fd)
        os.close(self._parent_fd)


def write_setting(leaf_fd: int, name: str, value: str, optional: bool) -> None:
    """One write(2), before anything untrusted is in the leaf."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=leaf_fd)
    except FileNotFoundError:
        if optional:
            return
        raise
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def open_books(leaf_fd: int, first_fd: int) -> int:
    """Init's own view of what it uses, from ``first_fd`` on: it will lose sight of the tree.

    Gives the first free number after them. Without the memory controller there is nothing to
    read of that.
    """
    # One of them may have a number that is wanted.
    leaf_fd = fcntl.fcntl(leaf_fd, fcntl.F_DUPFD_CLOEXEC, first_fd + len(BOOKS))
    for number, name in enumerate(BOOKS, first_fd):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=leaf_fd)
        except FileNotFoundError:
            fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        if fd != number:
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
    return first_fd + len(BOOKS)


def read_books(first_fd: int) -> tuple[int, int, int]:
    """Microseconds, those of the kernel among them, and bytes: up to here nobody's but init's."""
    cpu, memory = (os.pread(first_fd + each, 4096, 0) for each in range(len(BOOKS)))
    table = dict(line.split(b" ", 1) for line in cpu.splitlines() if b" " in line)
    return int(table[b"usage_usec"]), int(table[b"system_usec"]), int(memory or 0)
