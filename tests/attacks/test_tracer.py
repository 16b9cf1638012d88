"""The agent that traces its programs is nobody's tool: what its filter refuses is never made,
a flood costs its own jail's time, and what the agent says of it is a claim.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import tests.hostile
from jail import ProtocolError, Supervisor, Verdict
from jail.agent import wire
from jail.agent.tracer import MAX_CALLS
from jail.host import read_facts
from jail.refused import check_refused
from tests.attacks.test_protocol import make_proc, run_against
from tests.hostile import HostileAgent
from tests.traced import open_traced, python, told

FLOOD: Final = """
import ctypes, os, threading
call = ctypes.CDLL(None).syscall
def ask():
    while True:
        call(165, b"source", b"/", b"t", 0, 0)
        call(272, 0x40000000)
for _ in range(3):
    if os.fork() == 0: break
for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
ask()
"""
"""mount and unshare; x86-64's numbers"""
ONLY_X86: Final = pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64's numbers")
TRACE: Final = 0x7FF00000
TRAP: Final = 0x00030000
MKDIR: Final = """
default = "allow"
[[rule]]
calls = ["mkdir", "mkdirat"]
action = { errno = "EXDEV" }
why = "a call whose making is seen"
[[rule]]
calls = ["ptrace"]
action = { errno = "EPERM" }
why = "so that it can be traced"
"""
NESTED: Final = """
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
load, jump, answer = 0x20, 0x15, 0x06
program = b"".join(struct.pack("=HBBI", *each) for each in (
    (load, 0, 0, 0), (jump, 0, 1, %d), (answer, 0, 0, %d), (answer, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(program, len(program))
prog = struct.pack("=H6xQ", 4, ctypes.addressof(buffer))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.create_string_buffer(prog, len(prog)), 0, 0) == 0
"""


@pytest.fixture
async def traced() -> AsyncGenerator[Supervisor, None]:
    async with open_traced() as supervisor:
        yield supervisor


@pytest.fixture
def refuses_mkdir(tmp_path: Path) -> str:
    path = tmp_path / "mkdir.toml"
    path.write_text(MKDIR)
    return str(path)


# --- What is refused is not made ----------------------------------------------------------------


async def test_no_signal_makes_a_refused_call_be_made(
    traced: Supervisor, refuses_mkdir: str
) -> None:
    """Stopped, continued, interrupted and killed while their calls are being refused."""
    code = """
import errno, os, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
asked, tell = os.pipe()
def ask():
    for number in range(10**9):
        try: os.mkdir("/tmp/made")
        except OSError as error: assert error.errno == errno.EXDEV, error
        else: os._exit(9)
        if number == 3: os.write(tell, b"x")
ended = []
for _ in range(60):
    if (pid := os.fork()) == 0: ask()
    os.read(asked, 1)
    for _ in range(20):
        for number in (signal.SIGUSR1, signal.SIGSTOP, signal.SIGUSR1, signal.SIGCONT):
            os.kill(pid, number)
    os.kill(pid, signal.SIGKILL)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert ended == [-9] * 60, ended
assert not os.path.exists("/tmp/made")
print("done")
"""
    result = await traced.run(python(code), seccomp=refuses_mkdir, timeout=30)
    assert (result.stderr, result.stdout) == (b"", b"done\n")
    (mkdir,) = result.denied
    assert mkdir.call in ("mkdir", "mkdirat")
    assert mkdir.action == "EXDEV"
    assert mkdir.count >= 60 * 4


LISTENER_ABOVE: Final = """
import os, sys, threading
import jail
from jail.agent.kernel import open_listener
from jail.kernel import listener
from jail.kernel.process import PR_SET_NO_NEW_PRIVS, prctl
from jail.policy.rule import Rule, Ruleset
from jail.policy.compile import compile_ruleset, read_target

opened, heard = threading.Event(), 0
def attend():
    global heard
    opened.wait()
    while True:
        if (asked := listener.receive_notification(fd)) is not None:
            listener.let_go_on(fd, asked.id)
            heard += 1

# Started before, so that it isn't under the filter.
threading.Thread(target=attend, daemon=True).start()
rule = Rule(("mkdir", "mkdirat"), "notify", ((),), "as a container manager does")
prctl(PR_SET_NO_NEW_PRIVS, 1)
fd = open_listener(compile_ruleset(Ruleset("allow", (rule,)), read_target(), "denied"))
opened.set()
script = "mkdir /tmp/made; echo $?; ls -d /tmp/made"
for policy in (sys.argv[1], "default"):
    before = heard
    result = jail.run(["sh", "-c", script], userns="single", seccomp=policy)
    print(result.stdout.split(), [each.call for each in result.denied], heard > before)
"""


async def test_a_listener_above_us_that_lets_calls_be_made_makes_none_that_is_refused(
    refuses_mkdir: str,
) -> None:
    """seccomp_unotify(2), SECCOMP_USER_NOTIF_FLAG_CONTINUE: it comes before a tracer's word."""
    argv = [sys.executable, "-c", LISTENER_ABOVE, refuses_mkdir]
    with trio.fail_after(30):
        done = await trio.run_process(argv, capture_stdout=True, check=True)
    refused, allowed = done.stdout.decode().splitlines()
    assert refused in ("[b'1'] ['mkdir'] True", "[b'1'] ['mkdirat'] True")
    assert allowed == "[b'0', b'/tmp/made'] [] True"


async def test_who_leaves_his_tracer_leaves_no_filter(
    traced: Supervisor, refuses_mkdir: str
) -> None:
    """clone(2), CLONE_UNTRACED: nobody takes its signals back, so what is refused ends it."""
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
pid = libc.syscall({clone}, 0x00800000 | 17, 0, 0, 0, 0)
if pid == 0:
    try: os.mkdir("/tmp/made")
    finally: os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.path.exists("/tmp/made"))
"""
    number = 56 if os.uname().machine == "x86_64" else 220
    source = python(code.replace("{clone}", str(number)))
    result = await traced.run(source, seccomp=refuses_mkdir)
    assert (result.stdout, result.denied, result.denied_partial) == (b"-31 False\n", (), True)


@pytest.mark.parametrize("how", ["ignored", "blocked", "handled"])
async def test_what_it_does_with_the_signal_is_all_the_same(
    traced: Supervisor, how: str, refuses_mkdir: str
) -> None:
    ways = {
        "ignored": "signal.signal(signal.SIGSYS, signal.SIG_IGN)",
        "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "handled": "signal.signal(signal.SIGSYS, lambda *_: os._exit(9))",
    }
    code = f"""
import errno, os, signal
{ways[how]}
for _ in range(100):
    try: os.mkdir("/tmp/made")
    except OSError as error: assert error.errno == errno.EXDEV
    else: os._exit(8)
print("done")
"""
    result = await traced.run(python(code), seccomp=refuses_mkdir)
    assert (result.stderr, result.stdout) == (b"", b"done\n")
    assert [each.count for each in result.denied] == [100]


async def test_a_signal_that_says_it_was_a_refusal_is_the_sender_s_own_loss(
    traced: Supervisor,
) -> None:
    """sigqueue(3): to itself it may lie. What it is said to have been refused is a claim."""
    code = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def lie(data, nr):
    info = struct.pack("=iii4xQiI", 31, data, 1, 0, nr, 0xC000003E).ljust(128, b"\\0")
    return libc.syscall({queue}, os.getpid(), os.getpid(), 31, info)
for nr in (-1, 0, 39, 272, 2**31 - 1, -2**31):
    lie(0x7000 | 1, nr)
    lie(0x7FFF, nr)
print("alive", flush=True)
lie(0, 272)
"""
    number = 297 if os.uname().machine == "x86_64" else 240
    result = await traced.run(python(code.replace("{queue}", str(number))))
    assert (result.stdout, result.signal) == (b"alive\n", 31)
    assert result.verdict is Verdict.SV


@ONLY_X86
@pytest.mark.parametrize("data", [0, 1, 13, 0x7001, 0xFFFF])
async def test_a_filter_of_its_own_that_asks_a_tracer_has_none(
    traced: Supervisor, data: int
) -> None:
    code = NESTED % (39, TRACE | data) + "print(libc.syscall(39), ctypes.get_errno())"
    result = await traced.run(python(code))
    assert (result.stdout, result.denied) == (b"-1 38\n", ())


@ONLY_X86
@pytest.mark.parametrize("data", [0, 1, 13, 0x6FFF, 0x7000, 0x8000, 0xFFFF])
async def test_a_filter_of_its_own_that_sends_a_signal_sends_it(
    traced: Supervisor, data: int
) -> None:
    code = NESTED % (39, TRAP | data) + "libc.syscall(39); print('alive')"
    result = await traced.run(python(code))
    assert (result.stdout, result.signal) == (b"", 31)


@ONLY_X86
async def test_one_that_uses_our_mark_is_refused_and_that_is_not_laid_to_the_policy(
    traced: Supervisor,
) -> None:
    code = NESTED % (39, TRAP | 0x7000 | 13) + "print(libc.syscall(39), ctypes.get_errno())"
    result = await traced.run(python(code))
    assert (result.stdout, result.denied) == (b"-1 13\n", ())


@ONLY_X86
async def test_a_filter_of_its_own_loosens_nothing(traced: Supervisor, refuses_mkdir: str) -> None:
    for answer in (TRACE, 0x7FFC0000, 0x7FFF0000, 0x00050000):
        code = NESTED % (83, answer) + (
            "print(libc.syscall(83, b'/tmp/made', 0o755), os.path.exists('/tmp/made'))"
        )
        result = await traced.run(python(code), seccomp=refuses_mkdir)
        assert result.stdout == b"-1 False\n"


async def test_no_program_is_a_tracer_or_reaches_the_one_there_is(traced: Supervisor) -> None:
    code = """
import ctypes, errno, os, signal
libc = ctypes.CDLL(None, use_errno=True)
found = []
for request, pid in ((0, 0), (16, 1), (0x4206, 1), (16, os.getppid()), (17, os.getpid())):
    found.append((libc.ptrace(request, pid, 0, 0), errno.errorcode[ctypes.get_errno()]))
assert found == [(-1, "EPERM")] * 5, found
for number in set(signal.valid_signals()):
    try: os.kill(1, number)
    except PermissionError: pass
for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/fd/3"):
    try: open(path, "rb").read(1)
    except OSError: continue
    raise AssertionError(path)
print("done")
"""
    async with traced.open_jail() as j:
        result = await j.run(python(code))
        assert (result.stderr, result.stdout) == (b"", b"done\n")
        assert told(result)["ptrace"] == ("EPERM", 5)
        assert (await j.run(["true"])).verdict is Verdict.OK


# --- Floods -------------------------------------------------------------------------------------


@ONLY_X86
async def test_a_flood_of_refused_calls_costs_its_jail_time_and_nobody_else(
    traced: Supervisor,
) -> None:
    seconds = 3.0
    before, began = time.process_time(), time.monotonic()
    result = await traced.run(["python3", "-c", FLOOD], timeout=seconds)
    spent = time.process_time() - before
    assert result.verdict is Verdict.TLE
    assert time.monotonic() - began < seconds + 2
    assert spent < 0.3 * seconds
    asked = told(result)
    assert set(asked) == {"mount", "unshare"}
    assert all(count > 100 for _, count in asked.values())


@ONLY_X86
async def test_a_flood_starves_no_other_run_of_its_jail(traced: Supervisor) -> None:
    async with traced.open_jail() as j, j.start(["python3", "-c", FLOOD]) as flood:
        with trio.fail_after(20):
            for _ in range(5):
                result = await j.run(["sh", "-c", "unshare -n true; true"])
                assert told(result) == {"unshare": ("EPERM", 1)}
            await j.put("file", b"data")
            assert await j.get("file") == b"data"
            late = await j.run(["sleep", "600"], timeout=0.2)
            assert late.verdict is Verdict.TLE
            flood.kill()
            ended = await flood.wait()
    assert set(told(ended)) == {"mount", "unshare"}


async def test_who_forks_and_executes_without_end_is_held_by_its_limits(
    traced: Supervisor,
) -> None:
    code = """
import os, threading
def churn():
    while True:
        pid = os.fork()
        if pid == 0:
            threading.Thread(target=lambda: os.execv("/bin/true", ["true"])).start()
            threading.Event().wait()
        os.waitpid(pid, 0)
for _ in range(3):
    if os.fork() == 0: break
churn()
"""
    result = await traced.run(python(code), timeout=1.5, pids_limit=32)
    assert result.verdict is Verdict.TLE


# --- What the agent says is a claim -------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The hostile jail's /proc: we are its init, and nothing else is in it."""
    return make_proc(tmp_path / "proc")


UNSHARED: Final = [272, 1, 3, 0x40000000, 0, 0, 0, 0, 0]
UNBELIEVABLE: Final[dict[str, list[list[int]]]] = {
    "nothing": [],
    "too_short": [UNSHARED[:-1]],
    "too_long": [[*UNSHARED, 0]],
    "empty": [[]],
    "twice_the_same": [UNSHARED, [*UNSHARED[:2], 5, *UNSHARED[3:]]],
    "too_many": [[nr, *UNSHARED[1:]] for nr in range(MAX_CALLS + 1)],
    "never": [[272, 1, 0, *UNSHARED[3:]]],
    "less_than_never": [[272, 1, -1, *UNSHARED[3:]]],
    "no_errno": [[272, 0, *UNSHARED[2:]]],
    "too_great_an_errno": [[272, 4096, *UNSHARED[2:]]],
    "no_number": [[-1, *UNSHARED[1:]]],
    "too_great_a_number": [[2**31, *UNSHARED[1:]]],
}


@pytest.mark.parametrize("what", UNBELIEVABLE)
def test_what_no_honest_agent_says_is_refused(what: str) -> None:
    check_refused([UNSHARED])
    with pytest.raises(ProtocolError):
        check_refused(UNBELIEVABLE[what])


async def say(agent: HostileAgent, *messages: Any) -> None:
    """About a program that has ended, and then its end."""
    request, program = await agent.start("true")
    program.wait()
    for make in messages:
        await agent.say(make(request.run))
    await agent.say(wire.Exited(request.run, 0, 0, 0, 0))


def claim(*calls: list[int], later: int = 0) -> Any:
    return lambda run: wire.Refused(run + later, list(calls))


async def test_refusals_that_nobody_asked_for_break_the_jail(proc: Path) -> None:
    """AG-07: here there is a listener."""

    async def answer(agent: HostileAgent) -> None:
        await say(agent, claim(UNSHARED))

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert "refusals that nobody asked for" in result.message
    assert hostile.was_killed


HOSTILE: Final = {
    "twice": [claim(UNSHARED), claim(UNSHARED)],
    "malformed": [claim(UNSHARED[:4])],
    "of_another_run": [claim(UNSHARED, later=1)],
    "flood": [claim(*UNBELIEVABLE["too_many"])],
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_one_that_traces_says_it_once_and_well(
    proc: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_taken(monkeypatch)

    async def answer(agent: HostileAgent) -> None:
        await say(agent, *HOSTILE[what])

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert "from inside the jail" in result.message
    assert hostile.was_killed


@ONLY_X86
async def test_a_claim_is_told_as_one_and_what_the_policy_allows_is_none(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies about calls, errnos and counts: the list is never said to be whole."""
    make_taken(monkeypatch)
    allowed = [39, 1, 7, 0, 0, 0, 0, 0, 0]
    another_errno = [165, 2, 7, 0, 0, 0, 0, 0, 0]
    wild = [101, 1, 2**62, -1, -(2**63), 2**63 - 1, 0, 0, 0]

    async def answer(agent: HostileAgent) -> None:
        await say(agent, claim(UNSHARED, allowed, another_errno, wild))

    result, _ = await run_against(proc, answer)
    assert result.verdict is Verdict.OK
    assert told(result) == {"unshare": ("EPERM", 3), "ptrace": ("EPERM", 2**62)}
    assert result.denied_partial


@pytest.mark.parametrize("run", [0, 1])
async def test_a_listener_is_not_expected_where_the_agent_traces(
    proc: Path, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_taken(monkeypatch)

    async def answer(agent: HostileAgent) -> None:
        request, fds = await agent.take()
        for fd in fds:
            os.close(fd)
        fd = os.open("/dev/null", os.O_RDONLY)
        await agent.say(wire.Listening(request.run if run else 0), fd)
        os.close(fd)

    result, hostile = await run_against(proc, answer)
    assert result.verdict is Verdict.IE
    assert hostile.was_killed


def make_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(read_facts(), listener_taken=True)
    monkeypatch.setattr(tests.hostile, "read_facts", lambda: facts)
