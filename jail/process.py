"""A program in a living jail: started, watched, ended, and its books closed."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import trio

from jail import watch
from jail.agent import wire
from jail.background import open_background
from jail.errors import JailBroken, ProtocolError
from jail.kernel.process import kill_pidfd, pidfd_info, wait_status_parts
from jail.result import Result
from jail.session import Call, Session
from jail.spec import Limits, ProgramSpec
from jail.stream import OutputStream
from jail.units import format_size
from jail.verdict import Breach, Facts, decide

FIRST_LOOK_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.05
SHORTEST_PAUSE_S: Final = 0.002
FASTEST_GROWTH_BYTES_PER_S: Final = 4 * 2**30
KILL_GRACE_S: Final = 2.0
CPUS: Final = os.cpu_count() or 1
LOOK_SHARE: Final = 20
"""A look at a jail of many processes takes long; at most one part in so many goes into looking."""


@dataclass
class Usage:
    """What a run has used so far. Seconds and bytes."""

    cpu_time_s: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes_peak: int = 1


@dataclass(frozen=True)
class JailView:
    """What a process needs of its jail, and no more."""

    session: Session
    init_pid: int
    proc_fd: int
    scratch_fd: int
    enforced_by: Mapping[str, str]
    kill: Any
    """kills the whole jail, synchronously"""
    running: set[int] = field(default_factory=set)
    """numbers of the runs now under way"""


class Process:
    """A running program. ``stdin`` is a SendStream or None, ``stdout`` and ``stderr`` as trio's.

    Made by :meth:`jail.Jail.start`. ``await wait()`` gives the :class:`jail.Result` (without the
    output, which whoever reads the streams has).
    """

    def __init__(
        self,
        view: JailView,
        run: int,
        call: Call,
        limits: Limits,
        stdout: OutputStream | None,
        stderr: OutputStream | None,
    ) -> None:
        self._view = view
        self._run = run
        self._call = call
        self._limits = limits
        self.stdin: trio.abc.SendStream | None = None
        self.stdout = stdout
        self.stderr = stderr
        self.terminal_fd: int | None = None
        self.pidfd = -1
        self._pid_inside = 0
        self._began = trio.current_time()
        self._ended_s = 0.0
        self._breaches: list[Breach] = []
        self._killed = False
        self._doomed = trio.Event()
        self._exited = trio.Event()
        self._result: Result | None = None
        self._book = watch.CpuBook()
        self._last_forced: int | None = None
        self.usage = Usage()

    @property
    def returncode(self) -> int | None:
        """As ``subprocess``: None while it runs, negative for a signal."""
        if self._result is None:
            return None
        if self._result.signal is not None:
            return -self._result.signal
        return self._result.exit_code

    @property
    def breached(self) -> bool:
        return bool(self._breaches)

    async def wait(self) -> Result:
        """Until it has ended and nothing of it is left."""
        await self._exited.wait()
        assert self._result is not None
        return self._result

    def send_signal(self, number: int) -> None:
        """To its first process; no-op when that has ended."""
        if self._result is None and self.pidfd >= 0:
            kill_pidfd(self.pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started; ``wait`` tells when that is done."""
        self._killed = True
        self._doomed.set()

    def breach(self, limit: str, *, soft: bool = False) -> None:
        """Write down that a limit was reached; a hard one ends the run."""
        if soft and any(each.limit == limit for each in self._breaches):
            return
        self._breaches.append(Breach(limit, trio.current_time() - self._began, soft))
        if not soft:
            self.kill()

    # -- the task beside it -------------------------------------------------------------------

    def accept_start(self, message: Any, fds: list[int]) -> None:
        """Take the pidfd, after the kernel has said that it is a process of this jail."""
        self.pidfd, self._pid_inside = fds[0], message.pid
        info = pidfd_info(self.pidfd)
        alive = info is not None and info.wait_status is None
        if alive and info is not None and info.ppid not in (self._view.init_pid, 0):
            raise ProtocolError("from inside the jail: a pidfd that is no child of the agent")

    async def supervise(self) -> None:
        """Look, judge, kill when it is time; then close the books. Raises nothing of its own."""
        failure: str | None = "the jail was closed"
        exited: wire.Exited | None = None
        try:
            async with open_background() as nursery:
                nursery.start_soon(self._watch)
                exited = await self._wait_exit()
                failure = None
        except (JailBroken, OSError) as error:
            # Where we had to kill the whole jail for a limit, the limit is the cause.
            failure = None if self.breached else str(error)
            self._view.kill()
        finally:
            self._close_books(exited, failure)

    async def _wait_exit(self) -> wire.Exited:
        message, _ = await self._call.get()
        self._ended_s = trio.current_time() - self._began
        if not isinstance(message, wire.Exited):
            raise ProtocolError(f"from inside the jail: {type(message).__name__} of a running program")
        if not is_dead(self.pidfd):
            raise ProtocolError("from inside the jail: the end of a program that still runs")
        return message

    async def _watch(self) -> None:
        """Sampling, for as long as it runs; :meth:`_judge` decides."""
        pause = FIRST_LOOK_S
        while True:
            with trio.move_on_after(self._cut_to_deadline(pause)):
                await self._doomed.wait()
            if self._doomed.is_set():
                await self._put_to_death()
                return
            looked = trio.current_time()
            await self._look()
            pause = max(self._find_pause(), (trio.current_time() - looked) * LOOK_SHARE)

    def _cut_to_deadline(self, pause: float) -> float:
        if self._limits.wall_time_s is None:
            return pause
        left = self._began + self._limits.wall_time_s - trio.current_time()
        return max(0.0, min(pause, left))

    def _find_pause(self) -> float:
        """Until the soonest moment at which a limit could be reached."""
        pause = LONGEST_PAUSE_S
        limits, usage = self._limits, self.usage
        if limits.memory_bytes is not None:
            room = limits.memory_bytes - usage.memory_bytes
            pause = min(pause, room / FASTEST_GROWTH_BYTES_PER_S)
        if limits.cpu_time_s is not None:
            pause = min(pause, (limits.cpu_time_s - usage.cpu_time_s) / CPUS)
        return max(pause, SHORTEST_PAUSE_S)

    async def _look(self) -> None:
        stats = watch.read_stats(self._view.proc_fd)
        if len(self._view.running) > 1:
            family = watch.find_descendants(stats, self._pid_inside)
            stats = {pid: stat for pid, stat in stats.items() if pid in family}
        others = [pid for pid in stats if pid != 1]
        usage = self.usage
        usage.cpu_time_s = max(usage.cpu_time_s, self._book.update(stats))
        usage.processes_peak = max(usage.processes_peak, len(others))
        usage.memory_bytes = await self._measure(others)
        usage.memory_peak_bytes = max(usage.memory_peak_bytes, usage.memory_bytes)
        self._judge(sum(stats[pid].threads for pid in others))

    async def _measure(self, pids: list[int]) -> int:
        """The cheap sum; the exact one before anybody is killed for it."""
        total = watch.read_memory(self._view.proc_fd, pids)
        limit = self._limits.memory_bytes
        if limit is None or total <= limit:
            return total
        proc_fd = self._view.proc_fd
        return await trio.to_thread.run_sync(watch.read_exact_memory, proc_fd, pids)

    def _judge(self, tasks: int) -> None:
        limits, usage = self._limits, self.usage
        self._note_disk()
        if limits.pids is not None and tasks >= limits.pids:
            self.breach("pids", soft=True)
        if limits.memory_bytes is not None and usage.memory_bytes > limits.memory_bytes:
            self.breach("memory")
        elif limits.cpu_time_s is not None and usage.cpu_time_s > limits.cpu_time_s:
            self.breach("cpu_time")
        elif self._is_late():
            self.breach("wall_time")

    def _is_late(self) -> bool:
        limit = self._limits.wall_time_s
        return limit is not None and trio.current_time() - self._began >= limit

    def _note_disk(self) -> None:
        if self._limits.disk_bytes is None:
            return
        free = os.fstatvfs(self._view.scratch_fd)
        if free.f_bavail == 0 or free.f_favail == 0:
            self.breach("disk", soft=True)

    async def _put_to_death(self) -> None:
        """The first process by our own hand, what descends from it by the agent's, or the jail."""
        if len(self._view.running) > 1:
            await self._view.session.send(wire.KillTree(self._run))
        kill_pidfd(self.pidfd)
        await trio.sleep(KILL_GRACE_S)
        self._view.kill()

    def _close_books(self, exited: wire.Exited | None, failure: str | None) -> None:
        code = number = None
        if exited is not None:
            code, number = wait_status_parts(read_wait_status(self.pidfd, exited.status))
            self._take_final_use(exited)
        facts = Facts(
            exit_code=code,
            signal=number,
            ended_s=self._ended_s,
            breaches=tuple(self._breaches),
            failure=failure,
        )
        verdict, limit = decide(facts)
        self._result = Result(
            verdict=verdict,
            exit_code=code,
            signal=number,
            wall_time_s=self._ended_s or trio.current_time() - self._began,
            cpu_time_s=self.usage.cpu_time_s,
            memory_peak_bytes=self.usage.memory_peak_bytes or None,
            processes_peak=self.usage.processes_peak,
            enforced_by=dict(self._view.enforced_by),
            message=failure or describe_limit(limit, self._limits),
            killed=self._killed,
            limit=limit,
            context_switches_forced=self._last_forced,
        )
        self.release()
        self._exited.set()

    def _take_final_use(self, exited: wire.Exited) -> None:
        """The kernel's books of init beside the agent's word: the greater counts."""
        usage = self.usage
        if len(self._view.running) == 1:
            usage.cpu_time_s = max(
                usage.cpu_time_s, self._book.update(watch.read_stats(self._view.proc_fd))
            )
        usage.cpu_time_s = max(usage.cpu_time_s, exited.cpu_us / 1e6)
        usage.memory_peak_bytes = max(usage.memory_peak_bytes, exited.maxrss_kib * 1024)
        self._last_forced = exited.switches
        limits = self._limits
        if limits.cpu_time_s is not None and usage.cpu_time_s > limits.cpu_time_s:
            if not self._breaches:
                self.breach("cpu_time")
        self._note_disk()

    def open_books(self) -> None:
        """Before the program starts: what the jail has used so far is not this run's."""
        self._book.open(watch.read_stats(self._view.proc_fd))

    def release(self) -> None:
        """Give the pidfd back."""
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


def is_dead(pidfd: int) -> bool:
    """A pidfd is readable once its process has ended: pidfd_open(2)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def read_wait_status(pidfd: int, told: int) -> int:
    """The kernel's own word where it gives it (6.15), else the agent's."""
    info = pidfd_info(pidfd)
    if info is not None and info.wait_status is not None:
        return info.wait_status
    return told & 0xFFFF


def describe_limit(limit: str | None, limits: Limits) -> str:
    """A sentence for people."""
    if limit is None:
        return ""
    texts = {
        "memory": lambda: f"memory limit of {format_size(limits.memory_bytes or 0)} reached",
        "cpu_time": lambda: f"cpu time limit of {limits.cpu_time_s:g} s reached",
        "wall_time": lambda: f"wall time limit of {limits.wall_time_s:g} s reached",
        "output": lambda: f"output limit of {format_size(limits.output_bytes or 0)} reached",
        "disk": lambda: f"disk limit of {format_size(limits.disk_bytes or 0)} reached",
        "fsize": lambda: "file-size limit reached",
        "pids": lambda: f"limit of {limits.pids} processes reached",
        "seccomp": lambda: "ended by the system-call policy",
    }
    return texts[limit]()


def merge_limits(jail: Limits, program: ProgramSpec) -> Limits:
    """The jail's limits with the program's own where it has some."""
    changes: dict[str, Any] = {}
    for name in ("wall_time_s", "cpu_time_s", "output_bytes"):
        value = getattr(program, name)
        if value is not None:
            changes[name] = value
    return replace(jail, **changes) if changes else jail
