"""Where somebody above us has the only listener the agent traces its programs: refusals have
names all the same, and a traced program notices nothing.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jail
from jail import Jail, ProgramError, Supervisor, Verdict
from jail.agent.tracer import MAX_CALLS
from jail.host import read_facts
from jail.policy import agent
from jail.policy.rule import Condition, Rule, Ruleset, Target
from tests.part import require
from tests.traced import open_traced, python, told

OpenJail = Callable[..., AbstractAsyncContextManager[Jail]]
X86: Final = Target("x86_64", (6, 1))
UNSHARE: Final = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def unshare():
    return libc.unshare(0x40000000), ctypes.get_errno()
"""


@pytest.fixture
async def traced() -> AsyncGenerator[Supervisor, None]:
    async with open_traced() as supervisor:
        yield supervisor


async def test_a_refusal_is_named_with_its_reason_and_is_one_all_the_same(
    traced: Supervisor, userns: str
) -> None:
    script = "unshare -n true; echo $?; unshare -n true; mount -t tmpfs none /mnt; true"
    result = await traced.run(["sh", "-c", script], userns=userns)
    assert (result.verdict, result.stdout) == (Verdict.OK, b"1\n")
    assert told(result) == {"unshare": ("EPERM", 2), "mount": ("EPERM", 1)}
    assert result.denied_partial
    unshare, mount = result.denied
    assert unshare.examples == ("unshare(CLONE_NEWNET)",)
    assert "root" in mount.why


async def test_where_nothing_is_refused_nothing_is_told_but_it_may_not_be_all(
    traced: Supervisor,
) -> None:
    result = await traced.run(["true"])
    assert (result.denied, result.noted, result.denied_partial) == ((), (), True)


async def test_without_a_tracer_there_are_no_names(tmp_path: Path) -> None:
    """The control: the program may trace, so nobody can trace it. Its answers are the same."""
    path = tmp_path / "own.toml"
    path.write_text(
        'extends = "default"\n[[rule]]\ncalls = ["ptrace"]\naction = "allow"\nwhy = "a debugger"\n'
    )
    code = UNSHARE + "print(unshare(), libc.ptrace(0, 0, 0, 0))"
    async with open_traced() as supervisor:
        free = await supervisor.run(python(code), seccomp=str(path))
        held = await supervisor.run(python(code))
    assert (free.stdout, free.denied) == (b"(-1, 1) 0\n", ()) or free.denied != ()
    assert held.stdout == b"(-1, 1) -1\n"
    assert told(held) == {"unshare": ("EPERM", 1), "ptrace": ("EPERM", 1)}


async def test_threads_and_children_and_their_children_are_traced(traced: Supervisor) -> None:
    code = """
found = []
threads = [threading.Thread(target=lambda: found.append(unshare())) for _ in range(5)]
for each in threads: each.start()
for each in threads: each.join()
assert found == [(-1, 1)] * 5, found
if os.fork() == 0:
    if os.fork() == 0:
        assert unshare() == (-1, 1)
        os.execvp("unshare", ["unshare", "-n", "true"])
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    result = await traced.run(python(UNSHARE + code))
    assert (result.verdict, result.stdout) == (Verdict.OK, b"1\n")
    assert told(result) == {"unshare": ("EPERM", 7)}


async def test_a_thread_that_becomes_another_program_is_still_its_run_s(
    traced: Supervisor,
) -> None:
    code = """
script = "unshare -n true; echo $?"
run = lambda: os.execvp("sh", ["sh", "-c", script])
threading.Thread(target=run).start()
time.sleep(60)
"""
    result = await traced.run(python(UNSHARE + code), timeout=20)
    assert (result.verdict, result.stdout) == (Verdict.OK, b"1\n")
    assert told(result) == {"unshare": ("EPERM", 1)}


async def test_what_libraries_ask_and_do_without_is_told_only_when_asked(
    traced: Supervisor,
) -> None:
    threads = python("import threading; t = threading.Thread(target=int); t.start(); t.join()")
    assert (await traced.run(threads)).denied == ()
    asked = await traced.run(threads, explain_denied=True)
    assert told(asked) == {"clone3": ("ENOSYS", 1)}


async def test_runs_at_once_are_told_their_own(traced: Supervisor) -> None:
    """Also of what left its family."""
    found = {}
    scripts = {
        "one": "sleep 0.1; (unshare -n true); setsid sh -c '(unshare -n true) & wait'",
        "other": "sleep 0.1; mount -t tmpfs none /mnt",
        "third": "sleep 0.2",
    }
    async with traced.open_jail() as j:

        async def run(name: str) -> None:
            found[name] = told(await j.run(["sh", "-c", f"{scripts[name]}; true"]))

        async with trio.open_nursery() as nursery:
            for name in scripts:
                nursery.start_soon(run, name)
        after = await j.run(["true"])
    assert found == {
        "one": {"unshare": ("EPERM", 2)},
        "other": {"mount": ("EPERM", 1)},
        "third": {},
    }
    assert after.denied == ()


async def test_more_kinds_of_calls_than_are_told(traced: Supervisor) -> None:
    code = "\nfor nr in range(1000, 1000 + 3 * 64): libc.syscall(nr)"
    result = await traced.run(python(UNSHARE + code))
    assert result.verdict is Verdict.OK
    assert len(result.denied) == MAX_CALLS


async def test_a_program_that_can_t_be_executed_is_refused_as_ever(traced: Supervisor) -> None:
    async with traced.open_jail() as j:
        for path in ("/no/such/program", "/etc/passwd"):
            with pytest.raises(ProgramError):
                await j.run([path])
        await j.put("garbage", b"\x00\x01garbage", 0o755)
        with pytest.raises(ProgramError, match="no program format"):
            await j.run(["./garbage"])
        assert (await j.run(["true"])).verdict is Verdict.OK


async def test_who_can_t_be_read_can_t_be_traced_and_runs_all_the_same(
    traced: Supervisor,
) -> None:
    """ptrace(2): PTRACE_SEIZE of a process that isn't dumpable is for the mighty."""
    require("busybox")
    async with traced.open_jail(userns="single") as j:
        copy = 'mkdir own && cp "$(command -v busybox)" own && chmod 111 own/busybox'
        assert (await j.run(["sh", "-c", copy])).verdict is Verdict.OK
        result = await j.run(["own/busybox", "unshare", "-n", "true"])
        seen = await j.run(["busybox", "unshare", "-n", "true"])
    assert (result.exit_code, result.denied, result.denied_partial) == (1, (), True)
    assert b"Operation not permitted" in result.stderr
    assert told(seen) == {"unshare": ("EPERM", 1)}


# --- Nothing else is different ------------------------------------------------------------------

ENDS: Final = {
    "exit 7": (7, None),
    "kill -TERM $$": (None, signal.SIGTERM),
    "kill -KILL $$": (None, signal.SIGKILL),
    "kill -TRAP $$": (None, signal.SIGTRAP),
    "kill -SEGV $$": (None, signal.SIGSEGV),
    "(exit 3)": (3, None),
    "(kill -KILL $$)": (None, signal.SIGKILL),
    "trap 'exit 5' TERM; kill -TERM $$; exit 6": (5, None),
    "trap 'exit 5' TRAP; kill -TRAP $$; exit 6": (5, None),
}


@pytest.mark.parametrize("script", ENDS)
async def test_it_ends_as_it_would(traced: Supervisor, script: str) -> None:
    result = await traced.run(["sh", "-c", script])
    assert (result.exit_code, result.signal) == ENDS[script]


async def test_a_fault_is_the_program_s_own(traced: Supervisor) -> None:
    result = await traced.run(python("import ctypes; ctypes.string_at(0)"))
    assert (result.verdict, result.signal) == (Verdict.SG, signal.SIGSEGV)


UNNOTICED: Final = {
    "children_stop_and_go_on": """
import os, signal, time
ready, go = os.pipe()
if (pid := os.fork()) == 0:
    os.write(go, b"x")
    time.sleep(0.05)
    os._exit(3)
os.read(ready, 1)
os.kill(pid, signal.SIGSTOP)
status = os.waitpid(pid, os.WUNTRACED)[1]
assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
time.sleep(0.2)
assert os.waitpid(pid, os.WNOHANG | os.WUNTRACED) == (0, 0)
state = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
assert state in "tT", state
os.kill(pid, signal.SIGCONT)
assert os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1])
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
""",
    "a_stopped_child_can_be_killed": """
import os, signal, time
if (pid := os.fork()) == 0: time.sleep(60)
os.kill(pid, signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
os.kill(pid, signal.SIGKILL)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
""",
    "threads_stop_together": """
import os, signal, threading, time
if (pid := os.fork()) == 0:
    for _ in range(4): threading.Thread(target=time.sleep, args=(0.2,)).start()
    time.sleep(0.3)
    os._exit(4)
time.sleep(0.1)
for _ in range(20):
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    os.kill(pid, signal.SIGCONT)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
""",
    "timers_ring": """
import signal, time
rung = 0
def ring(*_):
    global rung
    rung += 1
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
end = time.monotonic() + 0.3
while time.monotonic() < end: pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert rung > 50, rung
""",
    "signals_bring_what_they_bring": """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
os.kill(os.getpid(), signal.SIGUSR1)
found = signal.sigwaitinfo([signal.SIGUSR1])
assert (found.si_pid, found.si_uid) == (os.getpid(), os.getuid())
pid = os.posix_spawnp("sh", ["sh", "-c", "exit 9"], os.environ)
found = signal.sigwaitinfo([signal.SIGCHLD])
assert (found.si_pid, found.si_status) == (pid, 9)
""",
    "a_handler_sees_who_sent_it": """
import os, signal
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
for _ in range(100):
    os.kill(os.getpid(), signal.SIGUSR1)
assert len(seen) == 100, len(seen)
""",
    "calls_are_started_again": """
import os, signal, threading, time
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)
ready, go = os.pipe()
me = os.getpid()
def disturb():
    for _ in range(50):
        os.kill(me, signal.SIGUSR1)
        time.sleep(0.001)
    os.write(go, b"x")
threading.Thread(target=disturb).start()
assert os.read(ready, 1) == b"x"
""",
    "programs_are_started_many_times": """
import subprocess
codes = [subprocess.run(["sh", "-c", f"exit {n}"]).returncode for n in range(40)]
assert codes == list(range(40)), codes
""",
    "vfork_waits": """
import os
for n in range(20):
    pid = os.posix_spawnp("sh", ["sh", "-c", f"exit {n}"], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == n
""",
    "who_is_left_behind_is_reaped": """
import os, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
end = time.monotonic() + 5
def find_others():
    return {int(each) for each in os.listdir("/proc") if each.isdigit()} - {1, os.getpid()}
while find_others() and time.monotonic() < end: time.sleep(0.01)
assert not find_others(), find_others()
""",
}


@pytest.mark.parametrize("what", UNNOTICED)
async def test_a_traced_program_notices_nothing(traced: Supervisor, what: str) -> None:
    result = await traced.run(python(UNNOTICED[what]), timeout=20)
    assert (result.stderr, result.verdict) == (b"", Verdict.OK)


JOBS: Final = """
import os, signal, sys, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.setpgid(0, 0)
    print("read", sys.stdin.readline().strip(), flush=True)
    os._exit(0)
status = os.waitpid(pid, os.WUNTRACED)[1]
assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTTIN, status
os.tcsetpgrp(0, pid)
os.kill(-pid, signal.SIGCONT)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
os.tcsetpgrp(0, os.getpgrp())
print("done", flush=True)
"""


async def test_a_terminal_s_jobs_are_controlled(traced: Supervisor) -> None:
    async with traced.open_jail() as j, j.start(python(JOBS), terminal=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = b""
        with trio.fail_after(20):
            await process.stdin.send_all(b"typed\n")
            while b"done" not in seen:
                seen += await process.stdout.receive_some()
            result = await process.wait()
    assert b"read typed" in seen
    assert result.verdict is Verdict.OK


async def test_the_supervisor_stops_and_ends_it_as_any(traced: Supervisor) -> None:
    async with traced.open_jail() as j, j.start(["sleep", "600"]) as process:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with trio.fail_after(10):
            result = await process.wait()
    assert result.signal == signal.SIGTERM


LIMITED: Final[dict[str, tuple[str, dict[str, Any], Verdict]]] = {
    "time": ("while True: pass", {"timeout": 0.3}, Verdict.TLE),
    "cpu": ("while True: pass", {"cpu_time": 0.3}, Verdict.TLE),
    "memory": ("x = []\nwhile True: x.append(b'x' * 2**20)", {"memory": "64m"}, Verdict.MLE),
    "output": ("while True: print('x' * 1000)", {"output_limit": "10k"}, Verdict.OLE),
}


@pytest.mark.parametrize("what", LIMITED)
async def test_limits_hold(traced: Supervisor, what: str) -> None:
    code, limits, verdict = LIMITED[what]
    result = await traced.run(python(f"{UNSHARE}unshare()\n{code}"), **limits)
    assert result.verdict is verdict
    assert told(result).get("unshare", ("EPERM", 1)) == ("EPERM", 1)


async def test_a_run_among_others_is_killed_with_its_family(traced: Supervisor) -> None:
    family = "sh -c 'sleep 600' & sleep 600 & wait"
    async with traced.open_jail() as j, trio.open_nursery() as nursery:
        async with j.start(["sleep", "600"]) as other:
            with trio.fail_after(20):
                late = await j.run(["sh", "-c", family], timeout=0.3)
            assert late.verdict is Verdict.TLE
            assert other.returncode is None
            left = await j.run(["sh", "-c", "grep -lx sleep /proc/[0-9]*/comm"])
            assert len(left.stdout.split()) == 1
            other.kill()
            await other.wait()
        nursery.cancel_scope.cancel()


# --- When it is done ----------------------------------------------------------------------------


def make_ruleset(default: str, *rules: Rule) -> Ruleset:
    return Ruleset(default, rules)


ALLOWED: Final = Rule(("ptrace",), "allow", ((),), "yes")
SOMETIMES: Final = Rule(("ptrace",), "allow", ((Condition(0, "eq", (0,)),),), "yes")
NEVER: Final = Rule(("ptrace",), "EPERM", ((),), "no")
PERHAPS_NOT: Final = Rule(("ptrace",), "EPERM", ((Condition(0, "eq", (0,)),),), "no")


@pytest.mark.parametrize(
    ("ruleset", "can"),
    [
        (make_ruleset("EPERM"), True),
        (make_ruleset("allow"), False),
        (make_ruleset("EPERM", ALLOWED), False),
        (make_ruleset("EPERM", SOMETIMES), False),
        (make_ruleset("allow", NEVER), True),
        (make_ruleset("allow", PERHAPS_NOT), False),
        (make_ruleset("EPERM", PERHAPS_NOT), True),
        (make_ruleset("allow", PERHAPS_NOT, SOMETIMES), False),
    ],
)
def test_who_may_trace_is_not_traced(ruleset: Ruleset, can: bool) -> None:
    assert agent.can_trace(ruleset, X86) is can


def test_only_a_tracing_agent_may_trace() -> None:
    refuses = make_ruleset("EPERM", NEVER)
    decided = {
        traces: agent.widen(refuses, X86, traces).decide(X86, "ptrace", (0,) * 6).action
        for traces in (False, True)
    }
    assert decided == {False: "trace", True: "allow"}


ASK: Final = """
import os, sys, time
from jail.agent.kernel import open_listener
from jail.host import read_facts
from jail.kernel.listener import is_listener_taken
from jail.kernel.process import PR_SET_NO_NEW_PRIVS, prctl

def read_state():
    lines = open("/proc/self/status").read().splitlines()
    words = "NoNewPrivs", "Seccomp", "Seccomp_filters", "Threads"
    return [each for each in lines if each.split(":")[0] in words], os.listdir("/proc/self/fd")

if sys.argv[1] == "taken":
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    listener = open_listener(bytes.fromhex("060000000000ff7f"))
before, end = read_state(), time.monotonic() + 10
found = is_listener_taken()
while read_state() != before and time.monotonic() < end:
    pass  # join() comes back before the kernel's thread has ended
print(found, read_state() == before, read_facts().listener_taken)
"""


@pytest.mark.parametrize(("whose", "is_taken"), [("free", False), ("taken", True)])
def test_whether_the_listener_is_taken_is_found_out_without_a_trace(
    whose: str, is_taken: bool
) -> None:
    argv = [sys.executable, "-c", ASK, whose]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"{is_taken} True {is_taken}\n"


async def test_where_a_listener_can_be_had_it_is_had() -> None:
    facts = replace(read_facts(), listener_taken=False)
    async with jail.open_supervisor(facts) as supervisor:
        result = await supervisor.run(["grep", "TracerPid", "/proc/self/status"])
    assert result.stdout.split() == [b"TracerPid:", b"0"]
    async with open_traced() as supervisor:
        result = await supervisor.run(["grep", "TracerPid", "/proc/self/status"])
    assert result.stdout.split() == [b"TracerPid:", b"1"]
