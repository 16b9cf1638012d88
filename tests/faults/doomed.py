"""A supervisor that is killed at one of its own system calls, again and again.

``python -m tests.faults.doomed USERNS FOLDER`` prints what was left behind each time, as JSON.
Forks of one process that has everything imported, so that a death costs what a supervisor does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import trio

import jail
from jail.host import read_facts
from jail.kernel.process import prctl
from jail.supervisor import read_filter
from tests.faults.strace import ATTACH_S, Fault, Trace, read_tracer, start_strace
from tests.oracle import PR_SET_CHILD_SUBREAPER

GONE_S: Final = 5.0
EACH: Final = 6
"""deaths at calls of one kind, spread over all there are"""
LOOKING: Final = frozenset(
    [
        "brk",
        "mmap",
        "munmap",
        "mprotect",
        "madvise",
        "mremap",
        "futex",
        "read",
        "pread64",
        "lseek",
        "access",
        "readlink",
        "close",
        "newfstatat",
        "fstat",
        "stat",
        "statfs",
        "getdents64",
        "getcwd",
        "uname",
        "getpid",
        "gettid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getgroups",
        "getsockname",
        "getsockopt",
        "getpeername",
        "getrandom",
        "sysinfo",
        "clock_nanosleep",
        "rt_sigaction",
        "rt_sigprocmask",
        "restart_syscall",
        "exit_group",
        "exit",
        "prlimit64",
        "umask",
        "sched_yield",
        "sched_getaffinity",
        "set_robust_list",
        "rseq",
        "gettimeofday",
        "clock_gettime",
        "sigaltstack",
    ]
)


class Death(NamedTuple):
    """One that was: whether by our hand, and who was left after five seconds."""

    fault: str
    killed: bool
    left: list[str]


async def live(userns: str) -> None:
    """What a supervisor does in its life, daemons and time limits included."""
    async with jail.open_supervisor() as supervisor:
        async with supervisor.open_jail(userns=userns) as j:
            await j.put("x", "y")
            await j.run(["sh", "-c", "sleep 60 & (setsid sleep 60 &) ; :"])
            async with j.start(["sh", "-c", "setsid sleep 60"]):
                pass
            await j.run(["sleep", "60"], timeout=0.02)
        async with supervisor.open_jail(userns=userns):
            pass


def fork_supervisor(userns: str, start_fd: int) -> int:
    """It begins to live when a byte comes."""
    pid = os.fork()
    if pid == 0:
        be_supervisor(userns, start_fd)
    return pid


def be_supervisor(userns: str, start_fd: int) -> NoReturn:
    status = 1
    try:
        os.read(start_fd, 1)
        trio.run(live, userns)
        status = 0
    finally:
        os._exit(status)


def die(userns: str, trace: Path, options: list[str]) -> tuple[int, int, list[str]]:
    """(pid, wait status, the names of those who outlived it)."""
    start_r, start_w = os.pipe()
    pid = fork_supervisor(userns, start_r)
    tracer = start_strace(trace, pid, options, follow=False)
    deadline = time.monotonic() + ATTACH_S
    while not read_tracer(pid):
        assert tracer.poll() is None, "the tracer gave up"
        assert time.monotonic() < deadline, "no tracer came"
        time.sleep(0.001)
    os.write(start_w, b".")
    _, status = os.waitpid(pid, 0)
    tracer.wait()
    for fd in (start_r, start_w):
        os.close(fd)
    assert tracer.stderr is not None
    tracer.stderr.close()
    return pid, status, bury_orphans()


def bury_orphans() -> list[str]:
    """All orphans below us come to us; the names of those who are still there in the end."""
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
        except ChildProcessError:
            return []
    return end_orphans()


def end_orphans() -> list[str]:
    names = []
    for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        names.append(Path(f"/proc/{word}/comm").read_text().strip())
        os.kill(int(word), signal.SIGKILL)
        os.waitpid(int(word), 0)
    return names


def make_deaths(calls: Counter[str]) -> Iterator[Fault]:
    for call, count in calls.items():
        if call not in LOOKING:
            numbers = {1 + i * (count - 1) // max(EACH - 1, 1) for i in range(EACH)}
            yield from (Fault(call, when, "signal=KILL") for when in sorted(numbers))


def main(userns: str, folder: Path) -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    read_filter("default", read_facts())
    pid, status, left = die(userns, folder / "whole", [])
    assert status == 0, f"a supervisor that nobody kills: {status}"
    deaths = [Death("none", False, left)]
    for fault in make_deaths(Trace(folder / "whole", pid).count_calls(pid)):
        _, status, left = die(userns, folder / "trace", fault.to_options())
        deaths.append(Death(str(fault), os.WIFSIGNALED(status), left))
    print(json.dumps(deaths))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
