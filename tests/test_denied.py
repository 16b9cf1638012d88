"""What a program was refused is told: which call, with what, by which rule, how often."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import Supervisor, Verdict
from jail.denied import MAX_ENTRIES, MAX_EXAMPLES, Ledger
from jail.policy.judge import Judge
from jail.result import Result
from tests.command import run_jail
from tests.conftest import OpenJail
from tests.part import require

pytestmark = pytest.mark.beside

PTRACE = "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"
UNSHARE = "unshare -n true; unshare -n true; mount -t tmpfs none /mnt"


def python(code: str) -> list[str]:
    require("python3")
    return ["python3", "-c", code]


def write_policy(folder: Path, rules: str, default: str = '"allow"') -> str:
    path = folder / "own.toml"
    path.write_text(f"default = {default}\n{rules}")
    return str(path)


def rule(calls: Sequence[str], action: str, more: str = "") -> str:
    names = ", ".join(f'"{each}"' for each in calls)
    return f'[[rule]]\ncalls = [{names}]\naction = {action}\nwhy = "for this test"\n{more}\n'


def told(result: Result) -> dict[str, tuple[str, int]]:
    return {each.call: (each.action, each.count) for each in result.denied}


async def test_each_refusal_is_told_with_its_reason(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        result = await j.run(["sh", "-c", UNSHARE])
    assert told(result) == {"unshare": ("EPERM", 2), "mount": ("EPERM", 1)}
    assert not result.denied_partial
    unshare, mount = result.denied
    assert unshare.policy == "strict"  # whose words they are, and that default extends
    assert "CLONE_NEWNET" in unshare.examples[0]
    assert '"/mnt"' in mount.examples[0]
    assert "root" in mount.why
    assert "--seccomp" in mount.remedy


async def test_where_nothing_is_refused_nothing_is_told(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        result = await j.run(["true"])
    assert (result.denied, result.noted, result.denied_partial) == ((), (), False)


async def test_the_next_program_is_told_nothing_of_the_last_one(open_jail: OpenJail) -> None:
    async with open_jail() as j:
        first = await j.run(["unshare", "-n", "true"])
        second = await j.run(["true"])
    assert told(first) == {"unshare": ("EPERM", 1)}
    assert second.denied == ()


async def test_two_at_once_are_told_their_own(open_jail: OpenJail) -> None:
    """Also of what their children were refused."""
    found: dict[str, Result] = {}
    async with open_jail() as j:

        async def run(name: str, script: str) -> None:
            found[name] = await j.run(["sh", "-c", f"sleep 0.2; ({script}); true"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "one", "unshare -n true")
            nursery.start_soon(run, "other", "mount -t tmpfs none /mnt")
    assert told(found["one"]) == {"unshare": ("EPERM", 1)}
    assert told(found["other"]) == {"mount": ("EPERM", 1)}


async def test_what_libraries_ask_and_do_without_is_told_only_when_asked(
    supervisor: Supervisor,
) -> None:
    threads = python("import threading; t = threading.Thread(target=int); t.start(); t.join()")
    assert (await supervisor.run(threads)).denied == ()
    asked = await supervisor.run(threads, explain_denied=True)
    assert told(asked) == {"clone3": ("ENOSYS", 1)}


async def test_a_call_that_ends_the_program_is_named(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    policy = write_policy(tmp_path, rule(["ptrace"], '"kill"'))
    result = await supervisor.run(python(PTRACE), seccomp=policy)
    assert (result.verdict, result.signal) == (Verdict.SV, signal.SIGSYS)
    assert told(result) == {"ptrace": ("kill", 1)}
    assert "ptrace" in result.message


@pytest.mark.parametrize("deaf", ["SIG_IGN", "print"])
async def test_who_does_not_take_the_signal_is_ended_all_the_same(
    supervisor: Supervisor, tmp_path: Path, deaf: str
) -> None:
    policy = write_policy(tmp_path, rule(["ptrace"], '"kill"'))
    handler = f"signal.{deaf}" if deaf.startswith("SIG") else deaf
    code = f"import signal; signal.signal(signal.SIGSYS, {handler})\n{PTRACE}\nprint('alive')"
    result = await supervisor.run(python(code), seccomp=policy)
    assert (result.verdict, result.signal) == (Verdict.SV, signal.SIGSYS)
    assert result.stdout == b""


async def test_no_thread_goes_on_after_a_call_that_ends_the_program(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """The first thread would get a SIGSYS; the one that made the call must not outrun it."""
    policy = write_policy(tmp_path, rule(["ptrace"], '"kill"'))
    code = """
import ctypes, hashlib, threading
libc = ctypes.PyDLL(None)
def ask():
    libc.ptrace(0, 0, 0, 0)
    libc._exit(0)
for _ in range(4):
    threading.Thread(target=hashlib.sha256, args=(bytes(1 << 28),), daemon=True).start()
threading.Thread(target=ask).start()
threading.Event().wait()
"""
    for _ in range(10):
        result = await supervisor.run(python(code), seccomp=policy, timeout=20)
        assert (result.verdict, result.signal) == (Verdict.SV, signal.SIGSYS)


async def test_a_child_that_is_ended_is_its_parent_s_to_bury(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    policy = write_policy(tmp_path, rule(["ptrace"], '"kill"'))
    code = f"import os\nif os.fork() == 0: {PTRACE}\nprint(os.WTERMSIG(os.wait()[1]))"
    result = await supervisor.run(python(code), seccomp=policy)
    assert result.verdict is Verdict.OK
    assert result.stdout == b"9\n"
    assert told(result) == {"ptrace": ("kill", 1)}


async def test_a_call_to_be_noted_is_made_and_told(supervisor: Supervisor, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, rule(["uname"], '"notify"'))
    result = await supervisor.run(["uname"], seccomp=policy)
    assert result.stdout == b"Linux\n"
    assert result.denied == ()
    (noted,) = result.noted
    assert (noted.call, noted.action, noted.count) == ("uname", "notify", 1)


async def test_a_sigsys_without_a_rule_is_laid_to_a_foreign_abi(supervisor: Supervisor) -> None:
    result = await supervisor.run(["sh", "-c", "kill -SYS $$"])
    assert result.verdict is Verdict.SV
    assert told(result) == {"(foreign)": ("kill", 1)}


async def test_without_a_filter_there_is_nothing_to_tell(supervisor: Supervisor) -> None:
    result = await supervisor.run(["true"], seccomp="unconfined")
    assert (result.denied, result.denied_partial) == ((), False)


DEAF = """
import sys
import jail
from jail.agent.kernel import open_listener
from jail.kernel.process import PR_SET_NO_NEW_PRIVS, prctl

if sys.argv[1] == "taken":
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    listener = open_listener(bytes.fromhex("06000000 0000ff7f".replace(" ", "")))
result = jail.run(
    ["sh", "-c", "unshare -n true; echo $?"], userns="single", seccomp=sys.argv[2]
)
print(result.denied_partial, [each.call for each in result.denied], result.stdout, result.verdict)
"""


@pytest.mark.parametrize("narrow", [False, True])
async def test_where_the_only_listener_is_somebody_else_s_the_answers_are_the_same(
    tmp_path: Path, narrow: bool
) -> None:
    """seccomp(2): EBUSY. The list says then that it may not be whole."""
    policy = "default"
    if narrow:
        policy = write_policy(tmp_path, rule(["unshare", "pidfd_open"], '{ errno = "EPERM" }'))
    said = {}
    for whose in ("taken", "free"):
        done = await trio.run_process(
            [sys.executable, "-c", DEAF, whose, policy], capture_stdout=True, check=True
        )
        said[whose] = done.stdout.decode().strip()
    assert said["free"] == r"False ['unshare'] b'1\n' OK"
    # A program that may trace can't be traced, and what it was refused has no name then.
    names = "[]" if narrow else "['unshare']"
    assert said["taken"] == rf"True {names} b'1\n' OK"


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "none left"), ImportError("none left")])
async def test_who_can_t_find_the_reason_says_that_there_may_be_more(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The kernel answers ENOSYS then, to that call and to those that come."""

    def fail(*_: Any) -> None:
        raise error

    async with supervisor.open_jail() as j:
        with monkeypatch.context() as broken:
            broken.setattr(Judge, "rule", fail)
            result = await j.run(["sh", "-c", "unshare -n true; mount -t tmpfs none /mnt; true"])
        assert (result.verdict, result.denied, result.denied_partial) == (Verdict.OK, (), True)
        assert b"not implemented" in result.stderr
        assert (await j.run(["true"])).verdict is Verdict.OK


def test_the_command_prints_what_was_refused_when_asked() -> None:
    done = run_jail("--explain-denied", "--", "unshare", "-n", "true")
    assert done.status == 1
    assert "jail: denied: unshare(CLONE_NEWNET" in done.stderr
    assert "EPERM, once" in done.stderr
    assert "strict: " in done.stderr
    assert "allowed by: " in done.stderr
    quiet = run_jail("--", "unshare", "-n", "true")
    assert "denied" not in quiet.stderr


def test_the_command_says_so_where_nothing_was_refused() -> None:
    done = run_jail("--explain-denied", "--", "true")
    assert (done.status, done.stderr) == (0, "jail: denied: nothing\n")


def test_the_json_has_all_of_it() -> None:
    done = run_jail("--json", "-", "--", "unshare", "-n", "true")
    (denied,) = done.json["denied"]
    expected = {"call", "action", "policy", "why", "count", "examples", "remedy"}
    assert set(denied) == expected
    assert done.json["denied_partial"] is False


async def test_what_a_program_names_cannot_write_to_the_terminal(supervisor: Supervisor) -> None:
    result = await supervisor.run(["mount", "-t", "tmpfs", "\x1b]0;evil\x07\n", "/mnt"])
    (mount,) = result.denied
    assert all(char.isprintable() for char in mount.examples[0])


def test_a_ledger_stays_small_whatever_happens() -> None:
    ledger = Ledger()
    for number in range(4 * MAX_ENTRIES):
        for _ in range(3):
            ledger.note((f"call_{number}", "EPERM", "p", "w"), (), lambda: "x" * 100)
    assert len(ledger.list_denied()) == MAX_ENTRIES
    assert ledger.is_full
    asked: list[int] = []
    for number in range(10_000):

        def describe(number: int = number) -> str:
            asked.append(number)
            return str(number)

        ledger.note(("call_0", "EPERM", "p", "w"), (), describe)
    assert len(asked) <= 4 * MAX_EXAMPLES
    assert len(ledger.list_denied()[0].examples) <= MAX_EXAMPLES


def test_the_blocking_call_tells_too() -> None:
    result: Any = jail.run(["unshare", "-n", "true"])
    assert told(result) == {"unshare": ("EPERM", 1)}
