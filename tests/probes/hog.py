"""Run inside: ``hog.py NAME BYTES`` has that much memory, of one kind, and then ends well."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
from typing import Any

MiB = 1 << 20
PAGE_BYTES = 4096
MAP_NORESERVE = 0x4000  # not in Python's mmap before 3.13
HELD: list[Any] = []


def anonymous(size: int) -> None:
    HELD.append(bytearray(size))


def many_processes(size: int) -> None:
    """Half of it in each of four children, none of which has too much."""
    reader, writer = os.pipe()
    children = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            HELD.append(bytearray(size // 2))
            os.close(writer)
            os.read(reader, 1)  # until the others have theirs
            os._exit(0)
        children.append(pid)
    os.close(reader)
    held = bytearray(size // 2)
    os.close(writer)
    for pid in children:
        os.waitpid(pid, 0)
    HELD.append(held)


def child_of_another_session(size: int) -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            HELD.append(bytearray(size))
            os.write(writer, b"x")
        os._exit(0)
    os.wait()
    os.read(reader, 1)


def vforked_child(size: int) -> None:
    """posix_spawn(3) is a vfork and an exec."""
    argv = [sys.executable, __file__, "anonymous", str(size)]
    os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)


def executed_anew(size: int) -> None:
    os.execv(sys.executable, [sys.executable, __file__, "anonymous", str(size)])


def shared_mapping(size: int) -> None:
    touch(mmap.mmap(-1, size))


def file_in_tmp(size: int) -> None:
    with open("/tmp/f", "wb") as file:
        fill(file.fileno(), size)


def mapped_file_in_shm(size: int) -> None:
    with open("/dev/shm/f", "w+b") as file:
        file.truncate(size)
        touch(mmap.mmap(file.fileno(), size))


def deleted_file(size: int) -> None:
    with open("/tmp/f", "wb") as file:
        os.unlink("/tmp/f")
        fill(file.fileno(), size)


def memfd(size: int) -> None:
    fill(os.memfd_create("f"), size)


def memfds_in_flight(size: int) -> None:
    """In nobody's descriptor table: sent, and not received."""
    for _ in range(size // (4 * MiB)):
        ours, theirs = socket.socketpair()
        fd = os.memfd_create("f")
        fill(fd, 4 * MiB)
        socket.send_fds(ours, [b"x"], [fd])
        os.close(fd)
        HELD.append((ours, theirs))


def system_v(size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0, ctypes.c_size_t(size), 0o1600)
    assert number >= 0, os.strerror(ctypes.get_errno())
    ctypes.memset(libc.shmat(number, None, 0), 1, size)


def pipes(size: int) -> None:
    """Until the kernel says no, or enough are full."""
    for _ in range(size // 65536):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        HELD.append((reader, writer))
        stuff(lambda data, fd=writer: os.write(fd, data))


def sockets(size: int) -> None:
    for _ in range(size // 65536):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        HELD.append((ours, theirs))
        stuff(ours.send)


def page_tables(size: int) -> None:
    """One page read in every two mebibytes: the zero page costs nothing, its table does."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    span = size // PAGE_BYTES * 2 * MiB
    area = mmap.mmap(-1, span, flags=flags)
    for offset in range(0, span, 2 * MiB):
        area[offset]
    HELD.append(area)


def touch(area: mmap.mmap) -> None:
    for offset in range(0, len(area), PAGE_BYTES):
        area[offset] = 1
    HELD.append(area)


def fill(fd: int, size: int) -> None:
    block = bytes(MiB)
    for _ in range(size // MiB):
        os.write(fd, block)


def stuff(write: Any) -> None:
    block = bytes(65536)
    try:
        while True:
            write(block)
    except BlockingIOError:
        return


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
