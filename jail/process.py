"""A program in a living jail: started, watched, ended, and its books closed."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio

from jail.agent import wire
from jail.background import Background
from jail.cgroup.account import Account
from jail.cgroup.meter import LeafMeter
from jail.denied import Ledger
from jail.errors import JailBroken, ProgramError, ProtocolError, blame_host
from jail.kernel.process import is_pidfd, kill_pidfd, pidfd_info, read_pid, wait_status_parts
from jail.limit import Limits
from jail.meter import LOOK_SHARE, Meter
from jail.network.use import NetworkUse
from jail.refused import note_refused
from jail.result import Result, Verdict
from jail.stream import OutputStream
from jail.terminal import is_master, set_terminal_size
from jail.units import format_size
from jail.usage import Usage
from jail.verdict import Breach, Facts, decide
from jail.view import JailView

if TYPE_CHECKING:
    from jail.egress.book import Log

FIRST_LOOK_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.05
SHORTEST_PAUSE_S: Final = 0.002
FASTEST_GROWTH_BYTES_PER_S: Final = 4 * 2**30
KILL_GRACE_S: Final = 2.0
ENOENT_STATUS: Final = 127
OTHER_STATUS: Final = 126
LONGEST_REST_S: Final = 0.5
"""A program that makes looks long doesn't get all the more time without one."""
CPUS: Final = os.cpu_count() or 1


class Process:
    """A running program. ``stdin`` is a SendStream or None, ``stdout`` and ``stderr`` as trio's.

    Made by :meth:`jail.Jail.start`. ``await wait()`` gives the :class:`jail.Result` (without the
    output, which whoever reads the streams has).
    """

    def __init__(
        self, view: JailView, limits: Limits, background: Background, terminal: bool = False
    ) -> None:
        self._view = view
        self._on_terminal = terminal
        self._limits = limits
        self._background = background
        self._run = 0
        self.stdin: trio.abc.SendStream | None = None
        self.stdout: OutputStream | None = None
        self.stderr: OutputStream | None = None
        self._terminal_fd = -1
        self.pidfd = -1
        self._pid_inside = 0
        self._began = view.clock.now()
        self._ended_s = 0.0
        self._breaches: list[Breach] = []
        self._killed = False
        self._asked = False
        self._watched = False
        self._blindness = ""
        self._wake = trio.Event()
        self._started = trio.Event()
        self._has_run = False
        self._done = trio.Event()
        self._refusal: ProgramError | None = None
        self._result: Result | None = None
        self._facts: Facts | None = None
        self._meter = make_meter(view, limits, lambda: self._killed)
        self.ledger = Ledger()
        """what the policy refused it"""
        self._traffic: Log | None = None
        self._is_heard = False
        """a listener of its own has come"""
        self._is_told = False
        """the agent has said what it was refused"""

    @property
    def usage(self) -> Usage:
        """What it has used up to the last look."""
        return self._meter.usage

    @property
    def pid(self) -> int:
        """Of its first process, on the host; -1 before it has started and after it has ended."""
        return read_pid(self.pidfd) if self.pidfd >= 0 else -1

    @property
    def returncode(self) -> int | None:
        """As ``subprocess``: None while it runs, negative for a signal."""
        if self._result is None:
            return None
        if self._result.signal is not None:
            return -self._result.signal
        return self._result.exit_code

    async def wait(self) -> Result:
        """Until it has ended and nothing of it is left. ProgramError if it never started."""
        await self._done.wait()
        if self._view.network is not None and self._traffic is not None:
            await self._view.network.settle(self._traffic)
        return self.get_result()

    @property
    def is_gone(self) -> bool:
        """It has ended and nothing of it is left, or it never started."""
        return self._done.is_set()

    @property
    def is_judged(self) -> bool:
        """There is something to be said of it: how it ended, or which limit ended it."""
        return self._result is not None and self._result.verdict is not Verdict.IE

    def get_result(self) -> Result:
        """What ``wait`` gives, once it is gone."""
        if self._refusal is not None:
            raise self._refusal
        assert self._result is not None
        if self._traffic is None:
            return replace(self._result, network=NetworkUse(driver=self._view.driver))
        return replace(self._result, network=self._traffic.make_use(self._view.driver))

    @contextmanager
    def follow_traffic(self) -> Iterator[None]:
        """What it tries to reach meanwhile is written down, where anybody can tell."""
        if self._view.network is None:
            yield
            return
        from jail.egress.book import Log

        self._traffic = Log()
        with self._view.network.follow(self._traffic):
            yield

    async def wait_gone(self) -> None:
        """As ``wait``, whatever became of it."""
        await self._done.wait()

    async def wait_started(self) -> None:
        """Until it runs, or has run, or a limit has ended the jail before it could.

        ProgramError if it can't, JailBroken if the jail broke.
        """
        await self._started.wait()
        if self._refusal is not None:
            raise self._refusal
        if not self._has_run and self._result is not None and not self.is_judged:
            raise JailBroken(self._result.message)

    def send_signal(self, number: int) -> None:
        """To its first process; no-op when that has ended."""
        if self.pidfd >= 0:
            kill_pidfd(self.pidfd, number)

    def terminate(self) -> None:
        """SIGTERM to its first process."""
        self.send_signal(signal.SIGTERM)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal, if it has one, a new size: TIOCSWINSZ, ioctl_tty(2)."""
        if self._terminal_fd >= 0:
            set_terminal_size(self._terminal_fd, rows, columns)

    def kill(self) -> None:
        """End it and all it started; ``wait`` tells when that is done."""
        if self._done.is_set():
            return
        self._killed = True
        if not self._asked and not self._breaches:
            self._close_books(None, "ended before it was asked for")
            return
        if not self._view.is_built:
            self._view.kill()  # nothing else is in it, and there is nothing to watch it by
            return
        self.start_watch()
        self._wake.set()
        self._kill_first()

    def _kill_first(self) -> None:
        # In company the agent kills the tree: dead, the first process would show it no children.
        if not self._view.is_shared:
            self.send_signal(signal.SIGKILL)

    def breach(self, limit: str, *, soft: bool = False) -> None:
        """Write down that a limit was reached; a hard one ends the run."""
        if any(each.limit == limit for each in self._breaches):
            return
        at_s = self._view.clock.now() - self._began
        if self._facts is not None:
            # It has ended, and what it had written before is counted only now.
            self._breaches.append(Breach(limit, min(at_s, self._ended_s or at_s), soft))
            self._judge_again(self._facts)
            return
        self._breaches.append(Breach(limit, at_s, soft))
        if not soft:
            self.kill()

    # -- what the session tells ---------------------------------------------------------------

    def on_wait(self) -> None:
        """The agent doesn't read: its time runs all the same."""
        self.start_watch()

    def on_send(self) -> None:
        """The request is on its way: from here on there will be an answer."""
        self._asked = True

    def begin(self, run: int) -> None:
        """The run's number; what the jail has used so far is not this run's."""
        self._run = run
        with blame_host("cgroup" if self._view.leaf is not None else "watch"):
            self.start_clock()
        for other in self._view.running.values():
            other._meter.had_company = self._meter.had_company = True
        self._view.running[run] = self

    def start_clock(self, opening: Account | None = None) -> None:
        """Its time runs from here, as soon as there is a jail to run in."""
        self._began = self._view.clock.now()
        if self._view.is_built:
            self._meter.start(opening)

    def receive(self, message: Any, fds: list[int]) -> None:
        """Started, then Exited; or NotStarted. ProtocolError for what no honest agent says."""
        if isinstance(message, wire.Listening):
            self._accept_listener(fds[0])
        elif isinstance(message, wire.Started | wire.StartedTerminal):
            self._accept_start(message, fds)
        elif isinstance(message, wire.NotStarted):
            self._refuse(message)
        elif isinstance(message, wire.Refused):
            self._note_refused(message)
        else:
            self._accept_exit(message)

    def fail(self, error: Exception) -> None:
        """The session broke. Where we had to kill the jail for a limit, the limit is the cause."""
        if not self._done.is_set():
            self._close_books(None, self._blindness or str(error))

    def _accept_start(self, message: Any, fds: list[int]) -> None:
        if flaw := self._find_flaw(message, fds):
            for fd in fds:
                os.close(fd)
            raise ProtocolError(f"from inside the jail: {flaw}")
        self.pidfd, self._pid_inside = fds[0], message.pid
        self._has_run = True
        self._started.set()
        if len(fds) > 1:
            self._terminal_fd = fds[1]
        info = pidfd_info(self.pidfd)
        alive = info is not None and info.wait_status is None
        if alive and info is not None and info.ppid not in (self._view.init_pid, 0):
            raise ProtocolError("from inside the jail: a pidfd that is no child of the agent")
        if self._killed:
            self._kill_first()

    def _accept_listener(self, fd: int) -> None:
        """Of the filter that is this run's alone."""
        expects = self._view.is_filtered and not (self._view.hears_all or self._view.traces)
        if not expects or self._is_heard or self._started.is_set():
            os.close(fd)
            raise ProtocolError("from inside the jail: a listener that nobody expects")
        self._view.listen(fd, lambda _: (self.ledger,))
        self._is_heard = True

    def _note_refused(self, message: wire.Refused) -> None:
        """The agent's word, so the list is never said to be whole for it."""
        if not self._view.traces or self._is_told or self.pidfd < 0:
            raise ProtocolError("from inside the jail: refusals that nobody asked for")
        assert self._view.judge is not None
        self._is_told = True
        note_refused(message.calls, self._view.judge, self.ledger)

    def _find_flaw(self, message: Any, fds: list[int]) -> str:
        if self._started.is_set():
            return "a program that starts twice"
        if isinstance(message, wire.StartedTerminal) != self._on_terminal:
            return "a terminal that nobody asked for, or none where one was"
        if not is_pidfd(fds[0]):
            return "something else than a pidfd"
        if len(fds) > 1 and not is_master(fds[1]):
            return "something else than a terminal"
        return ""

    def _refuse(self, message: wire.NotStarted) -> None:
        if self._started.is_set():
            raise ProtocolError("from inside the jail: a program that didn't start after it did")
        status = ENOENT_STATUS if message.errno == errno.ENOENT else OTHER_STATUS
        self._refusal = ProgramError(message.detail[:1000], exit_status=status, errno=message.errno)
        self._finish()

    def _accept_exit(self, message: wire.Exited) -> None:
        self._ended_s = self._view.clock.now() - self._began
        if self.pidfd < 0:
            raise ProtocolError("from inside the jail: the end of a program before its start")
        if not is_dead(self.pidfd):
            raise ProtocolError("from inside the jail: the end of a program that still runs")
        self._close_books(message, None)

    # -- the task beside it -------------------------------------------------------------------

    def start_watch(self) -> None:
        """Begin to look at it; the first milliseconds of a program need no watching."""
        if not self._watched and self._view.is_built:
            self._watched = True
            self._background.start_soon(self._watch)
            self._background.start_soon(self._watch_clock)

    async def _watch(self) -> None:
        """Look, and end it when it is time; until it has ended."""
        pause = FIRST_LOOK_S
        while not self._done.is_set():
            if self._killed:
                await self._put_to_death()
                return
            with trio.move_on_after(self._cut_to_deadline(pause)):
                await self._wake.wait()
                continue
            looked = trio.current_time()
            try:
                await self._look()
            except OSError as error:
                # Nobody would hold its limits: out of descriptors, or of memory.
                self._blindness = f"can't watch it any more: {error.strerror}"
                self._view.kill()
                return
            took = trio.current_time() - looked - self._meter.searched_s
            pause = max(self._find_pause(), min(took * LOOK_SHARE, LONGEST_REST_S))

    async def _watch_clock(self) -> None:
        """However long a look takes, and a program can make it long: this waits for none."""
        limit = self._limits.wall_time_s
        if limit is None:
            return
        while not self._is_late() or self._stands_still():
            left = self._began + limit - self._view.clock.now()
            with trio.move_on_after(left if left > 0 else LONGEST_PAUSE_S):
                await self._done.wait()
                return
        self.breach("wall_time")

    def _stands_still(self) -> bool:
        """By what is known of it where nobody can look any more."""
        with suppress(OSError):
            return self._view.look_paused()
        return self._view.clock.is_paused

    def _cut_to_deadline(self, pause: float) -> float:
        if self._limits.wall_time_s is None:
            return pause
        left = self._began + self._limits.wall_time_s - self._view.clock.now()
        return max(0.0, min(pause, left))

    def _find_pause(self) -> float:
        """Until the soonest moment at which a limit could be reached."""
        pause = LONGEST_PAUSE_S
        limits, usage = self._limits, self.usage
        if limits.memory_bytes is not None and self._meter.watches_memory:
            room = limits.memory_bytes - usage.memory_bytes
            pause = min(pause, room / FASTEST_GROWTH_BYTES_PER_S)
        if limits.cpu_time_s is not None:
            pause = min(pause, (limits.cpu_time_s - usage.cpu_time_s) / CPUS)
        return max(pause, SHORTEST_PAUSE_S)

    async def _look(self) -> None:
        self._view.look_paused()
        if not self._has_run:  # nothing to look at; but an agent that never starts it is late, too
            if self._is_late():
                self.breach("wall_time")
            return
        others = [each._pid_inside for each in self._view.running.values() if each is not self]
        self._judge(await self._meter.look(filter(None, others)))

    def _judge(self, tasks: int) -> None:
        limits, usage = self._limits, self.usage
        self._note_disk()
        if limits.pids is not None and self._meter.is_short_of_tasks(tasks, limits.pids):
            self.breach("pids", soft=True)
        if self._meter.is_over_memory():
            self.breach("memory")
        elif limits.cpu_time_s is not None and usage.cpu_time_s > limits.cpu_time_s:
            self.breach("cpu_time")
        elif self._is_late():
            self.breach("wall_time")

    def _is_late(self) -> bool:
        limit = self._limits.wall_time_s
        return limit is not None and self._view.clock.now() - self._began >= limit

    def _note_disk(self) -> None:
        if self._limits.disk_bytes is not None and self._meter.is_disk_full():
            self.breach("disk", soft=True)

    async def _put_to_death(self) -> None:
        """Alone, by SIGKILL of the first process; in company by the agent; else the jail goes."""
        if self._view.is_shared:
            with suppress(JailBroken):
                await self._view.session.send(wire.KillTree(self._run))
        self._kill_first()
        with trio.move_on_after(KILL_GRACE_S):
            await self._done.wait()
        if not self._done.is_set():
            self._view.kill()

    def _close_books(self, exited: wire.Exited | None, failure: str | None) -> None:
        failure = self._take_final_use(exited) or failure
        if self._is_ended_by_limit() and not self._meter.find_failure():
            failure = None
        code = number = None
        if exited is not None:
            code, number = wait_status_parts(read_wait_status(self.pidfd, exited.status))
            number = self._name_signal(number)
        elif failure is None:
            number = signal.SIGKILL
        facts = Facts(
            exit_code=code,
            signal=number,
            ended_s=self._ended_s,
            breaches=tuple(self._breaches),
            failure=failure,
        )
        self._facts = facts
        verdict, limit = decide(facts)
        self._result = Result(
            verdict=verdict,
            exit_code=code,
            signal=number,
            wall_time_s=self._ended_s or self._view.clock.now() - self._began,
            cpu_time_s=self.usage.cpu_time_s,
            memory_peak_bytes=self.usage.memory_peak_bytes or None,
            processes_peak=self.usage.processes_peak,
            usage=self.usage,
            enforced_by=self._meter.adjust(self._view.enforced_by),
            cgroup=self._view.leaf_origin,
            message=failure or self._describe_end(limit),
            fault=self._find_fault(failure),
            killed=self._killed,
            limit=limit,
            context_switches_forced=None if exited is None else exited.switches,
            denied=self.ledger.list_denied(number, self._hears_kills()),
            noted=self.ledger.list_noted(),
            denied_partial=self._is_partly_heard(),
        )
        self._finish()

    def _describe_end(self, limit: str | None) -> str:
        text = describe_limit(limit, self._limits)
        calls = [each.examples[0] for each in self.ledger.list_denied() if each.action == "kill"]
        return f"{text}: {calls[-1]}" if calls and limit == "seccomp" else text

    def _name_signal(self, number: int | None) -> int | None:
        """What ended it for a call stands for the kernel's own kill."""
        if number == signal.SIGKILL and self.ledger.was_first_ended and not self._killed:
            return signal.SIGSYS
        return number

    def _is_partly_heard(self) -> bool:
        """There is a filter, and nobody to tell what it refused; or the list is full."""
        if not self._view.is_filtered:
            return False
        return self.ledger.is_full or not self._hears_kills()

    def _hears_kills(self) -> bool:
        """Nothing but a listener does."""
        return self._is_heard or self._view.is_heard

    def _is_ended_by_limit(self) -> bool:
        """One that was only noticed has ended nothing."""
        return any(not each.soft for each in self._breaches)

    def _find_fault(self, failure: str | None) -> str | None:
        if failure is None:
            return None
        return "host" if failure == self._meter.find_failure() else "sandbox"

    def _judge_again(self, facts: Facts) -> None:
        assert self._result is not None
        verdict, limit = decide(replace(facts, breaches=tuple(self._breaches)))
        message = self._result.message if limit is None else describe_limit(limit, self._limits)
        self._result = replace(self._result, verdict=verdict, limit=limit, message=message)

    def _finish(self) -> None:
        self._view.running.pop(self._run, None)
        self.release()
        self._started.set()
        self._done.set()
        self._wake.set()

    def _take_final_use(self, exited: wire.Exited | None) -> str:
        """Gives what ended it that was neither its doing nor a limit's."""
        if not self._view.is_built:
            return ""
        try:
            if exited is not None:
                self._meter.close(exited.cpu_us / 1e6, exited.maxrss_kib * 1024)
            elif self._view.leaf is not None:
                self._meter.close(0.0, 0)
        except OSError as error:
            return f"its books can't be read: {error.strerror}"
        self._note_memory()
        limit = self._limits.cpu_time_s
        if limit is not None and self.usage.cpu_time_s > limit and not self._breaches:
            self._breaches.append(Breach("cpu_time", self._ended_s))
        if exited is not None:
            self._note_disk()
        return self._meter.find_failure()

    def _note_memory(self) -> None:
        """The kernel kills first and tells then. What else was seen to end it meanwhile fell
        together with that: had it come before, there would have been nobody left to kill.
        """
        if self._view.leaf is None or not self._meter.is_over_memory():
            return
        others = [each.at_s for each in self._breaches if not each.soft]
        now = self._ended_s or self._view.clock.now() - self._began
        self._breaches.append(Breach("memory", min([now, *others])))

    def open_terminal(self) -> int:
        """Its terminal's master side, a copy of the caller's own; at its end if there is none."""
        if self._terminal_fd < 0:
            return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return os.dup(self._terminal_fd)

    def close(self) -> None:
        """Give the terminal's master side back."""
        fd, self._terminal_fd = self._terminal_fd, -1
        if fd >= 0:
            os.close(fd)

    def release(self) -> None:
        """Give the pidfd back."""
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


def make_meter(view: JailView, limits: Limits, is_killed: Callable[[], bool]) -> Meter:
    """By the kernel's books where the jail has a leaf, else by looking."""
    if view.leaf is None:
        return Meter(view, limits.memory_bytes, is_killed)
    return LeafMeter(view, view.leaf, limits.memory_bytes, is_killed)


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
        "memory": f"memory limit of {format_size(limits.memory_bytes or 0)} reached",
        "cpu_time": f"cpu time limit of {limits.cpu_time_s or 0:g} s reached",
        "wall_time": f"wall time limit of {limits.wall_time_s or 0:g} s reached",
        "output": f"output limit of {format_size(limits.output_bytes or 0)} reached",
        "disk": f"disk limit of {format_size(limits.disk_bytes or 0)} reached",
        "fsize": "file-size limit reached",
        "pids": f"limit of {limits.pids} processes reached",
        "seccomp": "ended by the system-call policy",
    }
    return texts[limit]
