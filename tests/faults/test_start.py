"""A program that could not be started as it should be is not started, and nobody says it was.

Every system call that the agent makes from the request to the exit fails once, and every one
that the new process makes before its exec. Both ways of starting are tried: ``posix_spawn``, and
the fork that limits of the program's own need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jail
from jail import Jail, Supervisor
from tests.faults.birth import (
    READY,
    Kind,
    Nursery,
    describe_difference,
    every_init_is_new,
    forget,
    read_report,
)
from tests.faults.strace import Fault, Trace, count_reliable, make_faults, open_strace
from tests.part import require

START_S: Final = 20.0

AGENT: Final[dict[str, tuple[str, ...]]] = {
    "access": ("EACCES",),
    "clone": ("EAGAIN", "ENOMEM", "EPERM"),
    "clone3": ("EAGAIN", "ENOMEM", "EPERM"),
    "dup2": ("EBUSY", "EMFILE", "EINTR"),
    "fcntl": ("EMFILE", "EINVAL"),
    "kill": ("EPERM",),
    "pidfd_open": ("EMFILE", "ENOMEM", "EPERM"),
    "pipe2": ("EMFILE", "ENFILE"),
    "poll": ("ENOMEM", "EINTR"),
    "read": ("EAGAIN", "EINTR"),
    "recvmsg": ("ENOMEM", "EMFILE", "EINTR"),
    "sendmsg": ("ENOBUFS", "EPIPE", "ETOOMANYREFS", "EINTR"),
    "wait4": ("EINTR",),
}
PROGRAM: Final[dict[str, tuple[str, ...]]] = {
    "dup2": ("EBUSY", "EMFILE", "EINTR"),
    "execve": ("EACCES", "ENOMEM", "EAGAIN", "E2BIG"),
    "prlimit64": ("EPERM", "EINVAL"),
    "setsid": ("EPERM",),
}
HARMLESS: Final[dict[str, str]] = {
    "chdir": "to a directory that was opened before, and to /, which always is",
    "close": "the descriptor is gone, whatever the kernel answers: close(2)",
    "gettid": "can't fail",
    "restart_syscall": "a poll that went on after the tracer came",
    "rt_sigaction": "can't fail with a signal that is one",
    "rt_sigprocmask": "can't fail with a mask that is one",
    "set_robust_list": "of no use to who has one thread",
    **dict.fromkeys(("ioctl", "lseek", "newfstatat"), "Python looks at a descriptor or a path"),
    **dict.fromkeys(("brk", "mmap", "mprotect", "munmap", "madvise", "futex"), "Python's memory"),
}
WAYS: Final[dict[str, Mapping[str, Any]]] = {"spawn": {}, "fork": {"ulimits": {"nofile": 64}}}


@dataclass
class Stage:
    """One way to start a program, and how it is when nothing fails."""

    nursery: Nursery
    kind: Kind
    folder: Path
    forbids: int = 0
    """which of init's prctl calls forbids a tracer"""
    agent: Counter[str] = field(default_factory=Counter)
    program: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def open_jail(self) -> AsyncGenerator[Jail, None]:
        """Its agent may be traced: the call that forbids it was made to do nothing."""
        lie = ["-e", "trace=prctl", "-e", f"inject=prctl:retval=0:when={self.forbids}"]
        opening = self.nursery.supervisor.open_jail(**self.kind.options)
        async with AsyncExitStack() as life:
            async with self.nursery.trace(self.kind, lie):
                j = await life.enter_async_context(opening)
            yield j

    @asynccontextmanager
    async def trace(
        self, j: Jail, options: Sequence[str] = (), *, follow: bool
    ) -> AsyncGenerator[Trace, None]:
        path = self.folder / "agent-trace"
        async with open_strace(path, j.init_pid, options, follow=follow) as trace:
            yield trace

    async def learn(self) -> None:
        """Look at a start that nothing happens to."""
        async with self.nursery.trace(self.kind) as trace, self.open_untraceable() as j:
            init = j.init_pid
        calls = [call.text for call in trace.list_calls(init, READY) if call.call == "prctl"]
        self.forbids = 1 + next(i for i, text in enumerate(calls) if "PR_SET_DUMPABLE" in text)
        async with self.open_jail() as j:
            async with self.trace(j, follow=True) as trace:
                await j.run(["true"])
            self.agent = trace.count_calls(j.init_pid)
            (program,) = {line.pid for line in trace.read()} - {j.init_pid}
            self.program = trace.count_calls(program, until="execve(")
            self.kind.report = await read_report(j)
        assert self.kind.witness

    def open_untraceable(self) -> AbstractAsyncContextManager[Jail]:
        return self.nursery.supervisor.open_jail(**self.kind.options)

    async def start_under(self, fault: Fault, *, follow: bool) -> Mapping[str, Any] | None:
        """The report of a program that was started under a fault; None if the fault never came."""
        forget(self.kind)
        async with self.open_jail() as j:
            async with self.trace(j, fault.to_options(), follow=follow) as trace:
                with trio.fail_after(START_S):
                    report = await read_report(j)
            return report if trace.count_injected() else None

    async def find_flaw(self, fault: Fault, *, follow: bool) -> str:
        """What is wrong with how a start took a fault, "" for nothing."""
        try:
            report = await self.start_under(fault, follow=follow)
        except jail.JailBroken as error:
            return "" if str(error) else "not a word"
        except jail.ProgramError:
            return "said not to be started, but ran" if self.kind.witness else ""
        except AssertionError as error:
            return str(error)
        if report is None:
            return "the call was not made any more"
        difference = describe_difference(self.kind.report, report)
        return f"a weaker start: {difference}" if difference else ""


@pytest.fixture(params=WAYS)
async def stage(
    request: pytest.FixtureRequest,
    supervisor: Supervisor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    require("strace")
    every_init_is_new(monkeypatch)
    out = tmp_path / "out"
    out.mkdir()
    options = {"userns": "single", "volumes": [f"{out}:/out"], **WAYS[request.param]}
    stage = Stage(
        Nursery(supervisor, tmp_path, "init"), Kind("host", "single", options, out), tmp_path
    )
    await stage.learn()
    return stage


async def fail_each(
    stage: Stage, calls: Mapping[str, int], faults: Mapping[str, tuple[str, ...]], *, follow: bool
) -> None:
    flaws = []
    for call, errnos in faults.items():
        for fault in make_faults(call, calls.get(call, 0), errnos):
            if flaw := await stage.find_flaw(fault, follow=follow):
                flaws.append(f"{fault}: {flaw}")
    assert not flaws, "\n".join(flaws)


async def test_every_call_of_a_start_is_one_that_is_made_to_fail(stage: Stage) -> None:
    assert stage.agent.keys() - AGENT.keys() - HARMLESS.keys() - {"prlimit64"} == set()
    assert stage.program.keys() - PROGRAM.keys() - HARMLESS.keys() == set()


async def test_a_failed_call_of_the_agent_is_no_start_that_pretends(stage: Stage) -> None:
    await fail_each(stage, stage.agent, AGENT, follow=False)


async def test_a_failed_call_before_the_exec_is_no_start(stage: Stage) -> None:
    await fail_each(stage, stage.program, PROGRAM, follow=True)


async def test_an_agent_killed_at_any_call_is_no_result(stage: Stage) -> None:
    for call in AGENT:
        for when in range(1, 1 + count_reliable(call, stage.agent[call])):
            with pytest.raises(jail.JailBroken, match=r"\w"):
                await stage.start_under(Fault(call, when, "signal=KILL"), follow=False)
