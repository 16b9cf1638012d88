"""Our own terminal, while a program in a jail has one: raw, and put back as it was."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DEFAULT_SIZE = (24, 80)
TIOCGPTN = 0x80045430  # asm-generic/ioctls.h; not in every Python's termios


@contextmanager
def open_raw(fd: int) -> Iterator[None]:
    """No line editing, no echo, no signals by keys: those are the jail's terminal's business."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        with suppress(termios.error):  # it has been hung up
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def read_terminal_size(fd: int) -> tuple[int, int]:
    """(rows, columns); 24 by 80 where ``fd`` is no terminal or knows no size."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return DEFAULT_SIZE
    return size.lines or DEFAULT_SIZE[0], size.columns or DEFAULT_SIZE[1]


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; the program gets its SIGWINCH from the kernel: ioctl_tty(2)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))


def is_master(fd: int) -> bool:
    """Whether it is the master side of a pseudo-terminal."""
    try:
        fcntl.ioctl(fd, TIOCGPTN, b"\0" * 4)
    except OSError:
        return False
    return True
