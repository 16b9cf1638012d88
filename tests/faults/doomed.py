"""A supervisor that has a bad day, again and again: killed, or failed by one of its system calls.

``python -m tests.faults.doomed deaths|errors USERNS FOLDER`` tells of each day, as JSON. They are
forks of one process that has everything imported, so that a day costs what a supervisor does.
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
from jail.inputs import read_inputs
from jail.kernel.process import prctl
from jail.spec import make_spec
from jail.supervisor import open_supervisor
from tests.faults.strace import ATTACH_S, Fault, Trace, is_held, start_strace
from tests.oracle import PR_SET_CHILD_SUBREAPER

DAY_S: Final = 20.0
GONE_S: Final = 5.0
ENOUGH: Final = 3
"""days with survivors: each costs those five seconds"""
EACH: Final = 6
"""deaths at one kind of call, spread over all there are"""
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


ERRORS: Final[dict[str, str]] = {
    "clone3": "EAGAIN",
    "mkdir": "ENOSPC",
    "openat": "EMFILE",
    "pidfd_open": "EMFILE",
    "pipe2": "EMFILE",
    "recvmsg": "ENOMEM",
    "sendmsg": "ENOBUFS",
    "sendto": "ENOBUFS",
    "socketpair": "EMFILE",
    "vfork": "EAGAIN",
}


class Day(NamedTuple):
    """How it ended, what the supervisor said of it, and who was left after five seconds."""

    fault: str
    killed: bool
    said: str
    left: list[str]


async def live(userns: str, born: list[bool]) -> None:
    """What a supervisor does in its life, daemons and time limits included."""
    born.append(True)
    async with open_supervisor() as supervisor:
        async with supervisor.open_jail(userns=userns) as j:
            await j.put("x", "y")
            await j.run(["sh", "-c", "sleep 60 & (setsid sleep 60 &) ; :"])
            async with j.start(["sh", "-c", "setsid sleep 60"]):
                pass
            await j.run(["sleep", "60"], timeout=0.02)
        async with supervisor.open_jail(userns=userns):
            pass


def be_supervisor(userns: str, start_fd: int, said: Path) -> NoReturn:
    """Begins to live when a byte comes; an exception's name and text are its last words."""
    born: list[bool] = []
    try:
        os.read(start_fd, 1)
        trio.run(live, userns, born)
    except jail.JailError as error:
        said.write_text(f"JailError: {error}")
    except trio.TrioInternalError as error:
        said.write_text(f"trio: {error}")
    except BaseException as error:
        said.write_text(f"{type(error).__name__ if born else 'trio'}: {error}")
    finally:
        os._exit(0)


def live_under(fault: Fault | None, userns: str, folder: Path) -> tuple[int, Day]:
    """The supervisor's pid, and its day."""
    start_r, start_w = os.pipe()
    said, trace = folder / "said", folder / "trace"
    said.write_text("")
    pid = os.fork()
    if pid == 0:
        be_supervisor(userns, start_r, said)
    options = fault.to_options() if fault else []
    tracer = start_strace(trace, pid, options, follow=False)
    deadline = time.monotonic() + ATTACH_S
    while not is_held(pid, tracer):
        assert tracer.poll() is None, "the tracer gave up"
        assert time.monotonic() < deadline, "no tracer came"
        time.sleep(0.001)
    os.write(start_w, b".")
    status = wait_for_end(pid, said)
    tracer.wait()
    for fd in (start_r, start_w):
        os.close(fd)
    assert tracer.stderr is not None
    tracer.stderr.close()
    return pid, Day(str(fault), os.WIFSIGNALED(status), said.read_text(), bury_orphans())


def wait_for_end(pid: int, said: Path) -> int:
    """Its wait status; who takes longer than a day is killed."""
    deadline = time.monotonic() + DAY_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    said.write_text("it hangs")
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


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


def make_faults(kind: str, calls: Counter[str]) -> Iterator[Fault]:
    for call, count in calls.items():
        action = "signal=KILL" if kind == "deaths" else f"error={ERRORS.get(call)}"
        if call in LOOKING if kind == "deaths" else call not in ERRORS:
            continue
        each = EACH if kind == "deaths" else count
        numbers = {1 + i * (count - 1) // max(each - 1, 1) for i in range(each)}
        yield from (Fault(call, when, action) for when in sorted(numbers))


def main(kind: str, userns: str, folder: Path) -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    read_inputs(make_spec(), read_facts())
    pid, day = live_under(None, userns, folder)
    days = [day]
    calls = Trace(folder / "trace", pid).count_calls(pid)
    for fault in make_faults(kind, calls):
        days.append(live_under(fault, userns, folder)[1])
        if sum(bool(day.left) for day in days) >= ENOUGH:
            break
    print(json.dumps(days))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
