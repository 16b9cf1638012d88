"""The agent as the attacker: out of order, lying, stuffing descriptors, flooding.

It lives in the jail, so it must be able to spoil its own jail and nothing else: every lie is
found out or changes nothing that counts, every breach of the protocol ends that jail as broken,
no descriptor stays and nothing hangs.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.lowlevel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jail
from jail import (
    Jail,
    Limits,
    ProtocolError,
    Result,
    Supervisor,
    TransferError,
    Verdict,
)
from jail.agent import wire
from jail.agent.kernel import number
from jail.kernel.process import pidfd_info
from jail.session import Session
from tests.conftest import OpenJail
from tests.hostile import (
    HostileAgent,
    HostileJail,
    fds_to_bytes,
    open_hostile_jail,
    start_child,
    wait_dead,
)
from tests.part import not_exercised

MiB: Final = 1024 * 1024
PATIENCE_S: Final = 10


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The hostile jail's /proc: we are its init, and nothing else is in it."""
    return make_proc(tmp_path / "proc")


def make_proc(folder: Path) -> Path:
    folder.mkdir()
    (folder / "1").symlink_to(f"/proc/{os.getpid()}")
    return folder


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def run_against(
    proc: Path, answer: Callable[[HostileAgent], Awaitable[None]], limits: Limits = jail.UNLIMITED
) -> tuple[Result, HostileJail]:
    """Ask an agent for one program that answers in its own way; nothing takes long."""
    results: list[Result] = []
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc, limits) as hostile, trio.open_nursery() as nursery:

            async def ask() -> None:
                results.append(await hostile.jail.run(["program"]))

            nursery.start_soon(ask)
            await answer(hostile.agent)
    return results[0], hostile


# -- AG-07: out of order --------------------------------------------------------------------------

STRAY: Final[dict[str, list[Callable[[int], Any]]]] = {
    "an_end_before_the_start": [lambda run: wire.Exited(run, 0, 0, 0, 0)],
    "another_run_s_end": [lambda run: wire.Exited(run + 1, 0, 0, 0, 0)],
    "another_run_s_refusal": [lambda run: wire.NotStarted(run + 7, 2, "")],
    "run_minus_one": [lambda run: wire.Exited(-1, 0, 0, 0, 0)],
    "an_answer_to_no_request": [lambda _: wire.Done(99)],
    "an_answer_to_a_run": [lambda run: wire.Done(run)],
    "a_failure_of_no_request": [lambda _: wire.Failed(-(2**63), 1, "x")],
    "a_listing_that_nobody_wanted": [lambda _: wire.Listed(9, [["a", 0o100644, ""]])],
    "set_up_twice": [
        lambda _: wire.SetupFailed("a", 1, ""),
        lambda _: wire.SetupFailed("b", 1, ""),
    ],
}


@pytest.mark.parametrize("what", STRAY)
async def test_a_fact_that_nobody_waits_for_breaks_the_jail(proc: Path, what: str) -> None:
    """AG-07."""

    async def answer(agent: HostileAgent) -> None:
        request, fds = await agent.take()
        for fd in fds:
            os.close(fd)
        for make in STRAY[what]:
            await agent.say(make(request.run))

    result, hostile = await run_against(proc, answer)
    assert (result.verdict, result.exit_code) == (Verdict.IE, None)
    assert "from inside the jail" in result.message
    assert hostile.was_killed


async def test_a_gate_that_nobody_waits_for_breaks_the_jail(proc: Path) -> None:
    """And its descriptors are closed: a second one, or that of a jail without such a network."""
    before = count_fds()

    async def answer(agent: HostileAgent) -> None:
        _, fds = await agent.take()
        await agent.say(wire.Gated(), *([fds[0]] * wire.FDS[wire.Gated]))
        for fd in fds:
            os.close(fd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert "Gated that nobody asked for" in result.message
    assert hostile.was_killed
    assert count_fds() == before


async def test_an_end_while_the_program_runs_is_a_lie(proc: Path) -> None:
    """AG-07, AG-08."""

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.start("sleep", "600")
        await agent.say(wire.Exited(request.run, 0, 0, 0, 0))

    result, hostile = await run_against(proc, answer)
    assert (result.verdict, result.exit_code) == (Verdict.IE, None)
    assert "still runs" in result.message
    assert hostile.was_killed


@pytest.mark.parametrize("again", ["Started", "NotStarted", "StartedTerminal"])
async def test_a_start_is_told_once(proc: Path, again: str) -> None:
    """AG-07."""

    async def answer(agent: HostileAgent) -> None:
        request, program = await agent.start("sleep", "600")
        if again == "NotStarted":
            await agent.say(wire.NotStarted(request.run, 2, "no such program"))
            return
        pidfd = os.pidfd_open(program.pid)
        fds = (pidfd,) if again == "Started" else (pidfd, pidfd)
        await agent.say(wire.FACTS[again](request.run, program.pid), *fds)
        os.close(pidfd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert hostile.was_killed


async def test_an_end_told_twice_breaks_the_jail_but_not_the_result(proc: Path) -> None:
    """AG-07: after the exit there is nobody to tell."""
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:
            results: list[Result] = []

            async def ask() -> None:
                results.append(await hostile.jail.run(["program"]))

            nursery.start_soon(ask)
            request, program = await hostile.agent.start("true")
            await wait_dead(program)
            for _ in range(2):
                await hostile.agent.say(wire.Exited(request.run, 0, 0, 0, 0))
            await hostile.wait_killed()
            with pytest.raises(ProtocolError):
                await hostile.jail.run(["another"])
    assert results[0].verdict is Verdict.OK


async def test_a_start_and_an_end_in_one_breath_are_a_start_and_an_end(proc: Path) -> None:
    """AG-07: an honest agent's, of a program that dies at once."""
    require_kernel_s_word()
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:

            async def answer() -> None:
                request, program, pidfd = await hostile.agent.spawn("sh", "-c", "kill -KILL $$")
                await wait_dead(program)
                both = wire.Started(request.run, 2), wire.Exited(request.run, 9, 0, 0, 0)
                await hostile.agent.say_raw(b"".join(map(wire.pack_frame, both)), pidfd)
                os.close(pidfd)

            nursery.start_soon(answer)
            async with hostile.jail.start(["program"]) as process:
                result = await process.wait()
    assert (result.verdict, result.signal) == (Verdict.SG, signal.SIGKILL)


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_start_that_is_never_told_is_none(proc: Path, terminal: bool) -> None:
    """AG-07: the jail is ended in time, which is the verdict; there was no process to signal."""
    limits = Limits(wall_time_s=0.1, memory_bytes=None)
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc, limits) as hostile, trio.open_nursery() as nursery:

            async def fall_silent() -> None:
                _, fds = await hostile.agent.take()
                for fd in fds:
                    os.close(fd)
                await hostile.wait_killed()
                hostile.agent.hang_up()

            nursery.start_soon(fall_silent)
            async with hostile.jail.start(["program"], terminal=terminal) as process:
                result = await process.wait()
                process.terminate()
    assert (result.verdict, result.limit) == (Verdict.TLE, "wall_time")


async def test_a_terminal_that_was_not_asked_for_is_refused(proc: Path) -> None:
    """AG-07: and none where one was."""

    async def answer(agent: HostileAgent) -> None:
        request, _, pidfd = await agent.spawn("sleep", "600")
        master, slave = os.openpty()
        await agent.say(wire.StartedTerminal(request.run, 2), pidfd, master)
        for fd in (pidfd, master, slave):
            os.close(fd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert hostile.was_killed


@pytest.mark.parametrize("master", ["/dev/null", "/tmp"])
async def test_a_terminal_that_is_none_is_refused(proc: Path, master: str) -> None:
    """AG-07."""
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(jail.JailBroken):
                    async with hostile.jail.start(["program"], terminal=True):
                        raise AssertionError("it was taken for a terminal")

            nursery.start_soon(ask)
            request, _ = await hostile.agent.take()
            program = hostile.agent.adopt(start_child("sleep", "600"))
            pidfd, fd = os.pidfd_open(program.pid), os.open(master, os.O_RDONLY)
            await hostile.agent.say(wire.StartedTerminal(request.run, 2), pidfd, fd)
            os.close(pidfd)
            os.close(fd)
            await hostile.wait_killed()


WRONG_ANSWERS: Final[list[tuple[str, Any, tuple[Any, ...]]]] = [
    ("get", wire.Done, ()),
    ("get", wire.Listed, ([],)),
    ("get_tree", wire.Done, ()),
    ("get_tree", wire.Opened, ()),
    ("put_tree", wire.Opened, ()),
    ("put_tree", wire.Listed, ([],)),
    ("put", wire.Done, ()),
]


@pytest.mark.parametrize(("ask", "kind", "fields"), WRONG_ANSWERS)
async def test_an_answer_of_another_kind_is_none(
    proc: Path, tmp_path: Path, ask: str, kind: Any, fields: tuple[Any, ...]
) -> None:
    """AG-07."""

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        fds = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(wire.FDS.get(kind, 0))]
        await agent.say(kind(request.request, *fields), *fds)
        for fd in fds:
            os.close(fd)

    await transfer_against(proc, tmp_path, ask, answer, ProtocolError)


async def transfer_against(
    proc: Path,
    tmp_path: Path,
    ask: str,
    answer: Callable[[HostileAgent], Awaitable[None]],
    error: type[Exception],
) -> Exception:
    """One transfer of that kind; it fails with ``error``, and if that is the agent's, for good."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    asks: dict[str, Callable[[Jail], Awaitable[object]]] = {
        "get": lambda j: j.get("/work/file", 1000),
        "put": lambda j: j.put("/work/file", b"x"),
        "get_tree": lambda j: j.get_tree("/work", tmp_path / "target"),
        "put_tree": lambda j: j.put_tree(source, "/work/in"),
    }
    caught: list[Exception] = []
    with trio.fail_after(PATIENCE_S):
        async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:

            async def transfer() -> None:
                with pytest.raises(error) as info:
                    await asks[ask](hostile.jail)
                caught.append(info.value)
                nursery.cancel_scope.cancel()

            nursery.start_soon(transfer)
            await answer(hostile.agent)
            await trio.sleep_forever()
        if error is ProtocolError:
            assert hostile.was_killed
    return caught[0]


async def test_one_jail_s_agent_answers_for_no_other(proc: Path, tmp_path: Path) -> None:
    """AG-07: the numbers may be the same, the session isn't."""
    other = make_proc(tmp_path / "other")
    with trio.fail_after(PATIENCE_S):
        async with (
            open_hostile_jail(proc) as honest,
            open_hostile_jail(other) as hostile,
            trio.open_nursery() as nursery,
        ):
            results: list[Result] = []

            async def ask() -> None:
                results.append(await honest.jail.run(["program"]))

            nursery.start_soon(ask)
            request, program = await honest.agent.start("sh", "-c", "read x; exit 7")
            await hostile.agent.say(wire.NotStarted(request.run, 2, "no"))
            await hostile.wait_killed()
            assert honest.is_alive()
            program.kill()
            await wait_dead(program)
            await honest.agent.say(wire.Exited(request.run, 9, 0, 0, 0))
    assert results[0].verdict is not Verdict.IE


# A session against any sequence of facts, with a model of what each of them is.

REQUEST_KINDS: Final = {
    wire.MakeDir: wire.Done,
    wire.ListDir: wire.Listed,
    wire.OpenFile: wire.Opened,
}
FIELDS: Final[dict[Any, tuple[Any, ...]]] = {
    wire.Ready: (wire.PROTOCOL_VERSION, 0, 0, 0),
    wire.SetupFailed: ("step", 1, ""),
}
TAILS: Final[dict[Any, tuple[Any, ...]]] = {
    wire.Started: (2,),
    wire.StartedTerminal: (2,),
    wire.NotStarted: (2, ""),
    wire.Exited: (0, 0, 0, 0),
    wire.Opened: (),
    wire.Listed: ([],),
    wire.Done: (),
    wire.Failed: (5, "no"),
}
actions = st.one_of(
    st.tuples(st.just("open"), st.none(), st.none(), st.none()),
    st.tuples(st.just("ask"), st.sampled_from(list(REQUEST_KINDS)), st.none(), st.none()),
    st.tuples(
        st.just("say"),
        st.sampled_from([*FIELDS, *TAILS]),
        st.integers(0, 5),
        st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
    ),
)


class Record:
    """A run's receiver that takes everything, and closes it."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def receive(self, message: Any, fds: list[int]) -> None:
        self.heard.append(type(message).__name__)
        for fd in fds:
            os.close(fd)

    def fail(self, error: Exception) -> None:
        self.heard.append(type(error).__name__)


class Model:
    """What a session has to make of each fact."""

    def __init__(self) -> None:
        self.setup = True
        self.runs: dict[int, Record] = {}
        self.asked: dict[int, Any] = {}
        self.next = 0

    def take(self, kind: Any, number: int, extra_fds: int) -> bool:
        """Whether it is one that somebody waits for."""
        if extra_fds > 0 or (extra_fds < 0 and wire.FDS.get(kind, 0) > 0):
            return False
        if kind in FIELDS:
            expected, self.setup = self.setup, False
            return expected
        if kind in (wire.Started, wire.StartedTerminal):
            return number in self.runs
        if kind in (wire.Exited, wire.NotStarted):
            return self.runs.pop(number, None) is not None
        if kind in (wire.Failed, self.asked.get(number)):
            return self.asked.pop(number, None) is not None
        return False


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(actions, max_size=14))
def test_any_sequence_of_facts_is_taken_or_breaks_the_session(sequence: list[Any]) -> None:
    """AG-07: taken exactly where somebody waits for it, and never a descriptor too many."""
    before = count_fds()
    trio.run(play, sequence)
    assert count_fds() == before


async def play(sequence: list[Any]) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    session, agent, model = Session(ours), HostileAgent(theirs), Model()
    runs: list[tuple[Any, Record]] = []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.read)
            for what, kind, number, extra in sequence:
                if what == "say":
                    taken = model.take(kind, number, extra)
                    await say_fact(agent, kind, number, max(0, wire.FDS.get(kind, 0) + extra))
                    await wait_read(ours)
                    assert (session.broken is None) == taken
                    if not taken:
                        break
                elif what == "open":
                    model.next += 1
                    record = model.runs[model.next] = Record()
                    run = session.open_run(record)
                    assert run.__enter__() == model.next
                    runs.append((run, record))
                else:
                    model.next += 1
                    model.asked[model.next] = REQUEST_KINDS[kind]
                    nursery.start_soon(ask_quietly, session, kind)
                    await agent.take()
            nursery.cancel_scope.cancel()
    left = list(model.runs.values())
    session.close()
    agent.close()
    for run, _ in runs:
        run.__exit__(None, None, None)
    assert all(record.heard[-1].endswith(("Error", "Broken")) for record in left)


async def say_fact(agent: HostileAgent, kind: Any, number: int, count: int) -> None:
    fields = FIELDS[kind] if kind in FIELDS else (number, *TAILS[kind])
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    await agent.say(kind(*fields), *fds)
    for fd in fds:
        os.close(fd)


async def wait_read(sock: socket.socket) -> None:
    """Until the session has read all there is, and made of it what it makes."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while any(event & select.POLLIN for _, event in poll.poll(0)):
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()


async def ask_quietly(session: Session, kind: Any) -> None:
    fields = {wire.OpenFile: ("/x", False, 0), wire.MakeDir: ("/x", 0o755), wire.ListDir: ("/x",)}
    try:
        answer, fds = await session.ask(kind, *fields[kind])
    except (TransferError, jail.JailBroken):
        return
    assert type(answer) is REQUEST_KINDS[kind]
    for fd in fds:
        os.close(fd)


# -- AG-08: lies ----------------------------------------------------------------------------------


def require_kernel_s_word() -> None:
    """PIDFD_GET_INFO tells a dead process's status from Linux 6.15 on."""
    program = subprocess.Popen(["false"])
    pidfd = os.pidfd_open(program.pid)
    program.wait()
    info = pidfd_info(pidfd)
    os.close(pidfd)
    if info is None or info.wait_status is None:
        not_exercised("this kernel tells nobody but the parent how a process ended")


TRUTHS: Final = [
    ("exit 3", Verdict.RE, 3, None),
    ("kill -KILL $$", Verdict.SG, None, signal.SIGKILL),
    ("kill -SEGV $$", Verdict.SG, None, signal.SIGSEGV),
    ("exit 0", Verdict.OK, 0, None),
]
LIES: Final = [0, 7 << 8, 9, 0x7F, 0xFFFF, -1, 2**63 - 1]


@pytest.mark.parametrize("told", LIES)
@pytest.mark.parametrize(("script", "verdict", "code", "number"), TRUTHS)
async def test_how_a_program_ended_is_the_kernel_s_word(
    proc: Path, script: str, verdict: Verdict, code: int | None, number: int | None, told: int
) -> None:
    """AG-08: an exit status of 0 for a program that was killed, and the other way round."""
    require_kernel_s_word()

    async def answer(agent: HostileAgent) -> None:
        request, program = await agent.start("sh", "-c", script)
        await wait_dead(program)
        await agent.say(wire.Exited(request.run, told, -5, -7, -1))

    result, _ = await run_against(proc, answer)
    assert (result.verdict, result.exit_code, result.signal) == (verdict, code, number)
    assert result.cpu_time_s >= 0


LIMITED: Final = {
    "wall_time": (Limits(wall_time_s=0.3, memory_bytes=None), ["sleep", "600"], Verdict.TLE),
    "cpu_time": (
        Limits(cpu_time_s=0.3, memory_bytes=None),
        ["sh", "-c", "while :; do :; done"],
        Verdict.TLE,
    ),
    "memory": (
        Limits(memory_bytes=64 * MiB),
        ["python3", "-c", "b = []\nwhile len(b) < 999: b.append(bytearray(1 << 20))\ninput()"],
        Verdict.MLE,
    ),
    "output": (Limits(output_bytes=1000, memory_bytes=None), ["yes"], Verdict.OLE),
}


@pytest.mark.parametrize("limit", LIMITED)
async def test_a_limit_is_reached_whatever_the_agent_says_was_used(proc: Path, limit: str) -> None:
    """AG-08: no time, no memory, and it ended well."""
    limits, argv, verdict = LIMITED[limit]

    async def answer(agent: HostileAgent) -> None:
        request, program = await agent.start(*argv)
        (proc / "2").symlink_to(f"/proc/{program.pid}")
        await wait_dead(program)
        await agent.say(wire.Exited(request.run, 0, 0, 0, 0))

    result, _ = await run_against(proc, answer, limits)
    assert (result.verdict, result.limit, result.killed) == (verdict, limit, True)


async def test_a_forged_pidfd_of_somebody_else_s_process_is_refused(proc: Path) -> None:
    """AG-08: it would be waited for, and killed, in the program's place."""
    require_kernel_s_word()
    script = "sleep 600 & echo $!; wait"
    bystander = start_child("sh", "-c", script, stdout=subprocess.PIPE, start_new_session=True)
    assert bystander.stdout is not None
    grandchild = int(bystander.stdout.readline())

    async def answer(agent: HostileAgent) -> None:
        request, _, pidfd = await agent.spawn("sleep", "600")
        os.close(pidfd)
        forged = os.pidfd_open(grandchild)
        await agent.say(wire.Started(request.run, 2), forged)
        os.close(forged)

    try:
        result, hostile = await run_against(proc, answer)
        assert result.verdict is Verdict.IE
        assert hostile.was_killed
        os.kill(grandchild, 0)
    finally:
        os.killpg(bystander.pid, signal.SIGKILL)
        bystander.communicate()


NO_PIDFDS: Final[dict[str, Callable[[int], int]]] = {
    "a_device": lambda _: os.open("/dev/null", os.O_RDWR),
    "a_directory": lambda _: os.open("/", os.O_RDONLY),
    "its_proc_directory": lambda pid: os.open(f"/proc/{pid}", os.O_RDONLY),
    "an_event": lambda _: os.eventfd(1),
    "a_memfd": lambda _: os.memfd_create("pidfd:"),
}


@pytest.mark.parametrize("what", NO_PIDFDS)
async def test_a_pidfd_that_is_none_is_refused(proc: Path, what: str) -> None:
    """AG-08, AG-09: it couldn't be killed, and would look dead at once."""

    async def answer(agent: HostileAgent) -> None:
        request, program, pidfd = await agent.spawn("sleep", "600")
        forged = NO_PIDFDS[what](program.pid)
        await agent.say(wire.Started(request.run, 2), forged)
        for fd in (forged, pidfd):
            os.close(fd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert "pidfd" in result.message
    assert hostile.was_killed


NAMES: Final = ["..", ".", "", "/", "../../canary", "/etc/passwd", "a/b", "a\0b", "x/../../canary"]


@pytest.mark.parametrize("kind", [stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777])
@pytest.mark.parametrize("name", NAMES)
async def test_a_listed_name_leads_nowhere(
    proc: Path, tmp_path: Path, name: str, kind: int
) -> None:
    """AG-08: a path where a name should be."""
    canary = tmp_path / "canary"
    canary.write_text("untouched")

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        await agent.say(
            wire.Listed(request.request, [["good", 0o100644 & 0, ""], [name, kind, ""]])
        )

    await transfer_against(proc, tmp_path, "get_tree", answer, ProtocolError)
    assert canary.read_text() == "untouched"
    assert os.listdir(tmp_path / "target") == []


ODD_LISTINGS: Final = {
    "a_name_twice": [["a", stat.S_IFDIR, ""], ["a", stat.S_IFDIR, ""]],
    "a_name_too_long": [["x" * 300, stat.S_IFDIR, ""]],
    "more_than_anybody_has": [["x", stat.S_IFSOCK, ""]] * 100_001,
}


@pytest.mark.parametrize("what", ODD_LISTINGS)
async def test_an_impossible_listing_is_an_error_of_the_transfer(
    proc: Path, tmp_path: Path, what: str
) -> None:
    """AG-08."""

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        await agent.say(wire.Listed(request.request, ODD_LISTINGS[what]))
        while True:
            request, _ = await agent.take()
            await agent.say(wire.Listed(request.request, []))

    await transfer_against(proc, tmp_path, "get_tree", answer, TransferError)


async def test_a_tree_without_end_ends(proc: Path, tmp_path: Path) -> None:
    """AG-08: every directory holds another."""

    async def answer(agent: HostileAgent) -> None:
        while True:
            request, _ = await agent.take()
            await agent.say(wire.Listed(request.request, [["d", stat.S_IFDIR | 0o755, ""]]))

    error = await transfer_against(proc, tmp_path, "get_tree", answer, TransferError)
    assert "deep" in str(error)


async def test_a_listing_too_long_for_a_frame_is_an_error_of_the_transfer(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    """AG-02: an honest agent's, of a directory that a program made for it."""
    source = "import os\nfor n in range(1200): os.symlink('x' * 4000, f'{n}')"
    async with open_jail() as j:
        assert (await j.run(["python3", "-c", source])).ok
        with pytest.raises(TransferError, match="too long"):
            await j.get_tree("/work", tmp_path / "target")
        assert (await j.run(["true"])).ok


# -- AG-09: descriptors ---------------------------------------------------------------------------


def open_fifo() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def open_socket() -> int:
    return socket.socket(socket.AF_UNIX).detach()


def open_epoll() -> int:
    with select.epoll() as epoll:
        return os.dup(epoll.fileno())


NO_FILES: Final[dict[str, Callable[[], int]]] = {
    "a_directory": lambda: os.open("/", os.O_RDONLY),
    "a_fifo": open_fifo,
    "a_socket": open_socket,
    "a_device": lambda: os.open("/dev/zero", os.O_RDWR),
    "a_terminal": lambda: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
    "an_event": lambda: os.eventfd(0),
    "a_pidfd": lambda: os.pidfd_open(os.getpid()),
    "an_epoll": open_epoll,
    "a_link": lambda: os.open("/proc/self/exe", os.O_PATH | os.O_NOFOLLOW),
}


@pytest.mark.parametrize("ask", ["get", "put"])
@pytest.mark.parametrize("what", NO_FILES)
async def test_a_descriptor_of_no_file_is_neither_read_nor_written(
    proc: Path, tmp_path: Path, what: str, ask: str
) -> None:
    """AG-09, AG-08: it would block, or have an effect."""

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        fd = NO_FILES[what]()
        await agent.say(wire.Opened(request.request), fd)
        os.close(fd)

    await transfer_against(proc, tmp_path, ask, answer, ProtocolError)


UNUSABLE: Final = {
    "get": os.O_WRONLY,
    "put": os.O_RDONLY,
}


@pytest.mark.parametrize("path_only", [False, True])
@pytest.mark.parametrize("ask", UNUSABLE)
async def test_a_file_opened_the_wrong_way_is_an_error_of_the_transfer(
    proc: Path, tmp_path: Path, ask: str, path_only: bool
) -> None:
    """AG-09."""
    place = tmp_path / "place"
    place.write_text("before")

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        fd = os.open(place, os.O_PATH if path_only else UNUSABLE[ask])
        await agent.say(wire.Opened(request.request), fd)
        os.close(fd)

    error = await transfer_against(proc, tmp_path, ask, answer, TransferError)
    assert isinstance(error, TransferError)
    assert error.errno == errno.EBADF
    assert place.read_text() == "before"


async def test_a_giant_is_read_no_further_than_was_asked(proc: Path, tmp_path: Path) -> None:
    """AG-08: whatever its size is said to be."""
    giant = tmp_path / "giant"
    with giant.open("wb") as file:
        file.truncate(2**40)

    async def answer(agent: HostileAgent) -> None:
        request, _ = await agent.take()
        fd = os.open(giant, os.O_RDONLY)
        await agent.say(wire.Opened(request.request), fd)
        os.close(fd)

    error = await transfer_against(proc, tmp_path, "get", answer, TransferError)
    assert "more than 1000 bytes" in str(error)


@pytest.mark.parametrize("count", [1, 7, 9, 253])
async def test_stuffing_descriptors_leaves_none_behind(count: int) -> None:
    """AG-09: CVE-2020-12049's class. Whole sessions of it, and the number stays what it was."""
    frame = wire.pack_frame(wire.Done(1))
    before = count_fds()
    for _ in range(40):
        ours, theirs = socket.socketpair()
        session = Session(ours)
        null = os.open("/dev/null", os.O_RDONLY)
        fds = [null] * (count - 1) + [theirs.fileno()]
        with theirs:
            for part in (frame[:3], frame[3:5], frame[5:]):
                theirs.sendmsg([part], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds_to_bytes(fds))])
        os.close(null)
        with trio.fail_after(PATIENCE_S):
            await session.read()
        assert isinstance(session.broken, ProtocolError)
        session.close()
    assert count_fds() == before


async def test_descriptors_of_honest_answers_are_closed(proc: Path, tmp_path: Path) -> None:
    """AG-09: ten thousand of them, one after another."""
    (tmp_path / "file").write_text("content")
    with trio.fail_after(30):
        async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:

            async def serve() -> None:
                fd = os.open(tmp_path / "file", os.O_RDONLY)
                try:
                    while True:
                        request, _ = await hostile.agent.take()
                        os.lseek(fd, 0, os.SEEK_SET)
                        await hostile.agent.say(wire.Opened(request.request), fd)
                finally:
                    os.close(fd)

            nursery.start_soon(serve)
            await hostile.jail.get("/x")
            before = count_fds()
            for _ in range(2000):
                assert await hostile.jail.get("/x") == b"content"
            assert count_fds() == before
            nursery.cancel_scope.cancel()


# -- AG-10: in the agent's place ------------------------------------------------------------------

AMBUSH: Final = """
import ctypes, os, signal, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, done):
    try: done(); print(name, 'DONE')
    except OSError as error: print(name, 'refused', error.errno)
def call(*args):
    if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), '')
tried('fds', lambda: os.listdir(f'/proc/{pid}/fd'))
tried('fd_0', lambda: os.open(f'/proc/{pid}/fd/0', os.O_RDONLY))
tried('environment', lambda: open(f'/proc/{pid}/environ', 'rb').read())
tried('limits', lambda: call(PRLIMIT64, pid, 7, b'\\0' * 16, 0))
tried('memory', lambda: open(f'/proc/{pid}/mem', 'rb+'))
tried('getfd', lambda: call(438, os.pidfd_open(pid), 0, 0))
tried('ptrace', lambda: call(PTRACE, 0x4206, pid, 0, 0))
for number in sorted(signal.valid_signals()):
    tried('kill', lambda: os.kill(pid, number))
""".replace("PRLIMIT64", str(number(302, 261))).replace("PTRACE", str(number(101, 117)))
NUKE: Final = """
import os, signal
# Through a pidfd they may be sent, and the kernel drops them: pid_namespaces(7).
for number in sorted(signal.valid_signals()):
    try: signal.pidfd_send_signal(os.pidfd_open(1), number)
    except OSError: pass
try: os.kill(-1, 9)
except OSError: pass
"""


async def test_a_program_can_neither_end_nor_hold_nor_rob_its_agent(open_jail: OpenJail) -> None:
    """AG-10: CVE-2020-15257's class. The agent works on as if nothing had been."""
    bystander = start_child("sleep", "600")
    try:
        command = [sys.executable, "-c", AMBUSH, str(bystander.pid)]
        outside = await trio.run_process(command, capture_stdout=True)
    finally:
        bystander.kill()
        bystander.wait()
    signals = len(signal.valid_signals())
    if outside.stdout.count(b"kill DONE") < signals or b"fds DONE" not in outside.stdout:
        not_exercised("a user here has no power over his own processes")
    async with open_jail() as j:
        result = await j.run(["python3", "-c", AMBUSH, "1"])
        assert b"DONE" not in result.stdout, result.stdout.decode()
        assert result.stdout.count(b"refused") == signals + 7, result.stdout.decode()
        for _ in range(3):
            await j.run(["python3", "-c", NUKE])
            assert (await j.run(["echo", "still here"])).stdout == b"still here\n"


async def test_what_a_program_says_in_the_agent_s_words_is_its_output(open_jail: OpenJail) -> None:
    """AG-10: frames on every descriptor it has, and on every one it might have."""
    frames = b"".join(
        wire.pack_frame(each)
        for each in (wire.Exited(1, 0, 0, 0, 0), wire.Exited(2, 0, 0, 0, 0), wire.Ready(1, 0, 0, 0))
    )
    source = (
        "import os,sys\n"
        f"frames = {frames!r}\n"
        "for fd in range(4096):\n"
        "  try: os.write(fd, frames)\n"
        "  except OSError: pass\n"
        "os._exit(3)\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
        assert (result.verdict, result.exit_code) == (Verdict.RE, 3)
        assert (result.stdout, result.stderr) == (frames, frames)
        assert (await j.run(["true"])).ok


async def test_no_socket_of_the_session_has_a_name_to_connect_to(open_jail: OpenJail) -> None:
    """AG-10: nothing to race for: no path, no abstract name, nothing listens."""
    source = (
        "import os\n"
        "print([l.split()[7:] for l in open('/proc/net/unix').read().splitlines()[1:]])\n"
        "print(sorted(os.listdir('/proc/self/fd')))\n"
    )
    async with open_jail() as j:
        result = await j.run(["python3", "-c", source])
    named, fds = result.stdout.decode().splitlines()
    assert set(eval(named)) == set() or all(not each for each in eval(named))
    assert eval(fds) == ["0", "1", "2", "3"], "the last one is the listing's own"


# -- AG-11: floods --------------------------------------------------------------------------------


def read_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


FLOODS: Final = {
    "facts_nobody_asked_for": lambda: wire.pack_frame(wire.Done(1)) * 10_000,
    "one_frame_without_end": lambda: wire.HEADER.pack(wire.MAX_FRAME_BYTES) + b"\x91" * 10 * MiB,
    "empty_frames": lambda: bytes(4 * MiB),
    "largest_facts": lambda: wire.pack_frame(wire.Failed(1, 1, "x" * 4_000_000)) * 4,
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_facts_ends_its_jail_and_is_read_no_further(
    proc: Path, flood: str, supervisor: Supervisor
) -> None:
    """AG-11: nothing is heaped up, and others are served meanwhile."""
    data = FLOODS[flood]()
    async with supervisor.open_jail() as sibling, open_hostile_jail(proc) as hostile:
        assert (await sibling.run(["true"])).ok
        before, ended = read_peak_bytes(), threading.Event()
        thread = threading.Thread(target=pour, args=(hostile.agent.sock, data, ended))
        thread.start()
        try:
            with trio.fail_after(PATIENCE_S):
                await hostile.wait_killed()
                for _ in range(5):
                    assert (await sibling.run(["echo", "fine"])).stdout == b"fine\n"
            assert read_peak_bytes() - before < 64 * MiB
        finally:
            ended.set()
            thread.join()


def pour(sock: socket.socket, data: bytes, ended: threading.Event) -> None:
    """Again and again, until told to stop; the socket doesn't block."""
    view = memoryview(data)
    while not ended.is_set():
        try:
            view = view[sock.send(view) :] or memoryview(data)
        except BlockingIOError:
            ended.wait(0.001)
        except OSError:
            return


async def test_answers_of_the_largest_size_are_not_kept(proc: Path) -> None:
    """AG-11."""
    detail = "x" * (wire.MAX_FRAME_BYTES - 100)
    async with open_hostile_jail(proc) as hostile, trio.open_nursery() as nursery:

        async def serve() -> None:
            while True:
                request, _ = await hostile.agent.take()
                await hostile.agent.say(wire.Failed(request.request, 1, detail))

        nursery.start_soon(serve)
        before = 0
        for number in range(40):
            with trio.fail_after(PATIENCE_S), pytest.raises(TransferError) as caught:
                await hostile.jail.get("/x")
            assert len(str(caught.value)) <= 1000
            if number == 9:
                before = read_peak_bytes()
        assert read_peak_bytes() - before < 16 * MiB
        nursery.cancel_scope.cancel()


# -- AG-12: other versions ------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 2, -1, 2**40])
async def test_an_agent_of_another_version_is_refused(version: int) -> None:
    """AG-12: and what it brought is closed."""
    before = count_fds()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    session, agent = Session(ours), HostileAgent(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.read)
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(wire.FDS[wire.Ready])]
        await agent.say(wire.Ready(version, 0, 0, 0), *fds)
        for fd in fds:
            os.close(fd)
        with trio.fail_after(PATIENCE_S), pytest.raises(ProtocolError, match="version"):
            await session.wait_ready()
        nursery.cancel_scope.cancel()
    session.close()
    agent.close()
    assert count_fds() == before


async def test_a_supervisor_of_another_version_gets_no_jail(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AG-12: init says so before it builds anything."""
    monkeypatch.setattr(wire, "PROTOCOL_VERSION", 2)
    with pytest.raises(jail.HostError, match="version 2"):
        async with supervisor.open_jail(hostname="another"):
            raise AssertionError("it was let in")


@pytest.mark.parametrize("body", [b"\x92\xa7Unheard\x01", b"\x91\xa4Exec", b"\xc0", b""])
async def test_an_unknown_message_breaks_the_jail(proc: Path, body: bytes) -> None:
    """AG-12, AG-01."""

    async def answer(agent: HostileAgent) -> None:
        _, fds = await agent.take()
        for fd in fds:
            os.close(fd)
        await agent.say_raw(wire.HEADER.pack(len(body)) + body)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert hostile.was_killed
