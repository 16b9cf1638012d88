"""A program that gets more than it inherits: limits and a filter of its own, before it runs."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import signal
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from . import filter as filters
from . import kernel, tracer
from .filter import Filter

Action = tuple[Any, ...]
"""one of posix_spawn's file actions"""
ALL_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
REPORT: Final = struct.Struct("=ii")
"""an errno, and the listener's fd: what the child tells where a filter may forbid it to write"""
UNTRACED: Final = -2
"""in the fd's place: it can't be traced"""


def fork_exec(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    rlimits: Sequence[Sequence[int]],
    actions: Sequence[Action],
    own: Filter | None,
) -> tuple[int, int]:
    """(pid, listener's fd or -1) of a program that has been executed; OSError if it can't be.

    Until then the child has our table of descriptors, so its listener is ours as well, and no
    call that its filter could refuse is needed to hand it over.
    """
    image = kernel.Image(path, argv, env)
    with mmap.mmap(-1, mmap.PAGESIZE) as report, _keep_stdio():
        REPORT.pack_into(report, 0, 0, -1)
        pid = kernel.fork_sharing_files()
        if pid == 0:
            _become(image, rlimits, actions, own, report)
        code, listener_fd = REPORT.unpack_from(report)
    if code:
        os.waitpid(pid, 0)
        if listener_fd >= 0:
            os.close(listener_fd)
        raise OSError(code, os.strerror(code))
    return pid, listener_fd


def fork_traced(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    rlimits: Sequence[Sequence[int]],
    actions: Sequence[Action],
    own: Filter,
) -> int | None:
    """The pid of a program that we have traced since before its filter was there; OSError if it
    can't be executed. None where it can't be traced: then not an instruction of it has run.
    """
    image = kernel.Image(path, argv, env)
    with mmap.mmap(-1, mmap.PAGESIZE) as report:
        REPORT.pack_into(report, 0, 0, -1)
        pid = kernel.fork()
        if pid == 0:
            _become(image, rlimits, actions, own, report)
        is_executed = _await_exec(pid)
        code, mark = REPORT.unpack_from(report)
    if mark == UNTRACED or (is_executed and not _seize(pid)):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    if code:
        os.waitpid(pid, 0)
        raise OSError(code, os.strerror(code))
    return pid


def _await_exec(pid: int) -> bool:
    """Until it stops at its first instruction, by a SIGTRAP; False if it ended before.

    What we have of it by PTRACE_TRACEME has no options, so no other stop is ours: ptrace(2).
    """
    while True:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        if found is None or found.si_code != os.CLD_TRAPPED:
            return False
        if found.si_status == signal.SIGTRAP:
            return True
        number = 0 if found.si_status in tracer.STOPS else found.si_status
        with suppress(ProcessLookupError):  # killed meanwhile
            kernel.ptrace(kernel.PTRACE_CONT, pid, 0, number)


def _seize(pid: int) -> bool:
    """Trace it as one whose stops by signals work as if it weren't: PTRACE_SEIZE.

    Before it was executed it was as little ours to seize as we are, and a program that its user
    can't read never is. Stopped meanwhile, it can't ask its filter anything.
    """
    try:
        kernel.ptrace(kernel.PTRACE_DETACH, pid, 0, signal.SIGSTOP)
        kernel.ptrace(kernel.PTRACE_SEIZE, pid, 0, tracer.OPTIONS)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return True  # killed: it is told of as any other
    except OSError:
        return False
    return True


@contextmanager
def _keep_stdio() -> Iterator[None]:
    """The child puts the program's streams where ours are."""
    kept: list[int] = []
    try:
        for number in (0, 1, 2):
            kept.append(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3))
        yield
    finally:
        try:
            for number, fd in enumerate(kept):
                os.dup2(fd, number)
                os.close(fd)
        except OSError:
            os._exit(1)  # with a program's streams for ours nobody would see their end


def _become(
    image: kernel.Image,
    rlimits: Sequence[Sequence[int]],
    actions: Sequence[Action],
    own: Filter | None,
    report: mmap.mmap,
) -> None:
    """Never returns."""
    listener_fd = -1
    try:
        os.setsid()
        for kind, *rest in actions:
            _apply(kind, rest)
        # execve(2) sets those that have a handler to their default itself.
        for each in ALL_SIGNALS:
            if signal.getsignal(each) is signal.SIG_IGN:
                signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number, soft, hard in rlimits:
            _, most = resource.getrlimit(number)
            resource.setrlimit(number, (_least(soft, most), _least(hard, most)))
        if own is not None:
            if own.traces:
                listener_fd = UNTRACED
                kernel.ptrace(kernel.PTRACE_TRACEME, 0)
            listener_fd = filters.load(own)
            REPORT.pack_into(report, 0, 0, listener_fd)
        image.execute()
    except OSError as error:
        REPORT.pack_into(report, 0, error.errno or errno.EIO, listener_fd)
    except ValueError:  # what Python makes of setrlimit's EPERM and EINVAL
        REPORT.pack_into(report, 0, errno.EINVAL, listener_fd)
    finally:
        os._exit(127)


def _apply(kind: int, rest: Sequence[Any]) -> None:
    if kind == os.POSIX_SPAWN_DUP2:
        source, number = rest
        os.dup2(int(source), int(number))
    else:
        number, path, flags, mode = rest
        fd = os.open(str(path), int(flags), int(mode))
        if fd != number:
            os.dup2(fd, int(number))
            os.close(fd)
        else:
            os.set_inheritable(fd, True)


def _least(wanted: int, most: int) -> int:
    """RLIM_INFINITY is -1 in Python: it is the greatest, not the least."""
    if wanted == -1:
        return most
    return wanted if most == -1 else min(wanted, most)
