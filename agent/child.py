"""Starting a program: the spawn that inherits what the agent has already dropped."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Mapping, Sequence

from .filter import Filter
from .forked import ALL_SIGNALS, Action, fork_exec, fork_traced

HEAD_BYTES = 4096
PT_INTERP = 3

# asm-generic/ioctls.h; not in every Python.s termios.
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431


class NotExecutable(OSError):
    """The program can't be executed; ``strerror`` says what is missing, for a person."""


def spawn(
    argv: list[str],
    env: Mapping[str, str],
    cwd: str,
    rlimits: Sequence[Sequence[int]],
    actions: Sequence[Action],
    own: Filter | None = None,
) -> tuple[int, int]:
    """The pid of a new session leader with default signals, and the listener's fd of its ``own``
    filter, -1 for none; NotExecutable says why not.

    Ids, capabilities, filter and limits are this process's own and are inherited. posix_spawn
    vforks, so no page is copied; limits or a filter for the program alone need a fork of ours.
    """
    _enter(cwd)
    try:
        path = find_program(argv[0], env.get("PATH", ""))
        if own is not None and own.traces:
            traced = fork_traced(path, argv, env, rlimits, actions, own)
            if traced is not None:
                return traced, -1
            own = own._replace(traces=False)
        if rlimits or own is not None:
            return fork_exec(path, argv, env, rlimits, actions, own)
        pid = os.posix_spawn(
            path,
            argv,
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=ALL_SIGNALS,
        )
        return pid, -1
    except NotExecutable:
        raise
    except OSError as error:
        raise explain(error, argv[0]) from None
    finally:
        os.chdir("/")


def _enter(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        text = f"working directory {cwd}: {os.strerror(error.errno or errno.EIO)}"
        # Not ENOENT, whatever the kernel says: it isn't the program that is missing.
        raise NotExecutable(errno.ENOTDIR, text) from None


def find_program(name: str, search: str) -> str:
    """``execvp``'s search, done before the fork so that the reason can be told."""
    if "/" in name:
        return name
    denied = False
    for folder in search.split(":"):
        path = os.path.join(folder or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            denied = True
    if denied:
        raise NotExecutable(errno.EACCES, f"{name}: found in PATH, but not executable")
    raise NotExecutable(errno.ENOENT, f"{name}: not found in PATH ({search})")


def explain(error: OSError, name: str) -> NotExecutable:
    """ENOENT may mean the interpreter; the kernel doesn't say, the file's head does."""
    code = error.errno or errno.EIO
    text = f"{name}: {os.strerror(code)}"
    if os.path.isdir(name):
        return NotExecutable(errno.EACCES, f"{name}: is a directory")
    if code == errno.ENOENT and os.path.exists(name):
        missing = read_interpreter(name)
        code = errno.ENOEXEC
        text = f"{name}: its interpreter {missing or '(unknown)'} is not in the jail"
    elif code == errno.ENOEXEC:
        text = f"{name}: no program format that this machine runs (is a #! line missing?)"
    return NotExecutable(code, text)


def read_interpreter(path: str) -> str:
    """The program named by ``#!`` or by the ELF header's PT_INTERP; "" if there is none."""
    try:
        # What lies there by now may be a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES) or b""
    except OSError:
        return ""
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else ""
    return _read_elf_interpreter(head) if head.startswith(b"\x7fELF\x02\x01") else ""


def _read_elf_interpreter(head: bytes) -> str:
    try:
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for index in range(count):
            kind, _, offset, _, _, length = struct.unpack_from(
                "<IIQQQQ", head, table + index * size
            )
            if kind == PT_INTERP:
                return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    except struct.error:
        pass
    return ""


def stdio_actions(fds: Sequence[int]) -> list[Action]:
    """Three descriptors become 0, 1 and 2; every other one of ours is close-on-exec."""
    return [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]


def terminal_actions(path: str) -> list[Action]:
    """A new session leader that opens a terminal gets it as its controlling one: tty_ioctl(4)."""
    return [
        (os.POSIX_SPAWN_OPEN, 0, path, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]


def open_terminal(rows: int, columns: int) -> tuple[int, str]:
    """(master fd, path of the slave) of a new pseudo-terminal in the jail's own devpts."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        (index,) = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, struct.pack("I", 0)))
        size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
        fcntl.ioctl(master, termios.TIOCSWINSZ, size)
    except OSError:
        os.close(master)
        raise
    return master, f"/dev/pts/{index}"
