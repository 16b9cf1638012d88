"""The listener that tells of refusals is nobody's weapon: not against the supervisor's time or
memory, not against neighbours, not against the answer itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pytest
import trio

from jail import Supervisor, Verdict
from jail.agent import wire
from jail.denied import MAX_ENTRIES, MAX_EXAMPLES
from jail.listening import BURST, RATE_PER_S
from tests.attacks.test_protocol import make_proc, run_against
from tests.conftest import OpenJail
from tests.hostile import HostileAgent
from tests.part import require

FLOOD: Final = """
import ctypes, os, threading
call = ctypes.CDLL(None).syscall
def ask():
    number = 0
    while True:
        call(165, b"source %d" % number, b"/" + b"x" * 300, b"t", 0, 0)
        call(272, 0x40000000)
        number += 1
for _ in range(3):
    if os.fork() == 0: break
for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
ask()
"""
"""mount and unshare; x86-64's numbers"""
SIGNALLED: Final = """
import collections, ctypes, errno, signal
libc = ctypes.CDLL(None, use_errno=True)
rung = 0
def ring(*_):
    global rung
    rung += 1
signal.signal(signal.SIGALRM, ring)
signal.siginterrupt(signal.SIGALRM, {interrupts})
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
found = collections.Counter()
for _ in range(1000):
    libc.unshare(0x40000000)
    found[errno.errorcode[ctypes.get_errno()]] += 1
assert rung > 5
print(*sorted(found))
"""
NARROW: Final = """
default = "allow"
[[rule]]
calls = ["pidfd_open", "unshare"]
action = { errno = "EPERM" }
why = "one that the agent can't do without, and one to ask for"
"""


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    path = tmp_path / "narrow.toml"
    path.write_text(NARROW)
    return str(path)


@pytest.fixture(autouse=True)
def _python() -> None:
    require("python3")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64's numbers")
@pytest.mark.parametrize("filters", ["shared", "own"])
async def test_a_flood_of_refused_calls_costs_its_program_time_and_nobody_else(
    supervisor: Supervisor, narrow: str, filters: str
) -> None:
    """Sixteen threads that do nothing else: the supervisor spends little, and keeps little."""
    seconds = 4.0
    before, began = time.process_time(), time.monotonic()
    policy = "default" if filters == "shared" else narrow
    result = await supervisor.run(["python3", "-c", FLOOD], seccomp=policy, timeout=seconds)
    spent = time.process_time() - before
    assert result.verdict is Verdict.TLE
    assert spent < 0.5 * seconds
    asked = sum(each.count for each in result.denied)
    most = BURST + RATE_PER_S * (time.monotonic() - began)
    assert 100 < asked <= most * 1.1
    assert len(result.denied) <= MAX_ENTRIES
    for each in result.denied:
        assert len(each.examples) <= MAX_EXAMPLES
        assert all(len(text) < 1000 for text in each.examples)


@pytest.mark.parametrize("interrupts", [False, True])
async def test_a_call_that_signals_interrupt_gets_its_answer_all_the_same(
    supervisor: Supervisor, interrupts: bool
) -> None:
    """As other calls that wait: with SA_RESTART it goes on, without it may be EINTR: signal(7)."""
    code = SIGNALLED.replace("{interrupts}", str(interrupts))
    result = await supervisor.run(["python3", "-c", code])
    assert result.stderr == b""
    answers = set(result.stdout.decode().split())
    assert answers == {"EPERM"} or (interrupts and answers == {"EINTR", "EPERM"})
    assert [each.call for each in result.denied] == ["unshare"]


@pytest.mark.parametrize("filters", ["shared", "own"])
async def test_no_program_has_the_listener(open_jail: OpenJail, narrow: str, filters: str) -> None:
    """FD-01: neither the first program nor a later one, nor what they start."""
    policy = "default" if filters == "shared" else narrow
    listing = ["sh", "-c", "ls /proc/self/fd; ls -l /proc/self/fd | grep -c seccomp; true"]
    async with open_jail(seccomp=policy) as j:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(j.run, ["sleep", "0.3"])
                result = await j.run(listing)
            assert result.stdout == b"0\n1\n2\n3\n0\n"


async def test_a_program_that_dies_while_it_waits_is_forgotten(supervisor: Supervisor) -> None:
    code = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        while True: libc.unshare(0x40000000)
    time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print("done")
"""
    result = await supervisor.run(["python3", "-c", code])
    assert (result.verdict, result.stdout) == (Verdict.OK, b"done\n")
    assert {each.call for each in result.denied} == {"unshare"}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The hostile jail's /proc: we are its init, and nothing else is in it."""
    return make_proc(tmp_path / "proc")


LISTENERS: Final = {
    "before_the_jail_s_own": [0],
    "of_the_jail_again": [0, 0],
    "of_a_run_under_the_jail_s": [1],
    "of_a_run_that_is_not": [7],
    "of_run_minus_one": [-1],
}


@pytest.mark.parametrize("what", LISTENERS)
async def test_a_listener_that_nobody_expects_breaks_the_jail(proc: Path, what: str) -> None:
    """AG-07, AG-09: and its descriptor is closed."""

    async def answer(agent: HostileAgent) -> None:
        request, fds = await agent.take()
        for fd in fds:
            os.close(fd)
        for run in LISTENERS[what]:
            fd = os.open("/dev/null", os.O_RDONLY)
            await agent.say(wire.Listening(request.run if run == 1 else run), fd)
            os.close(fd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert "from inside the jail" in result.message
    assert hostile.was_killed
