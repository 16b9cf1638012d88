"""A policy is the program's, exactly: where it is narrower than our agent needs, the agent has
another filter, and each program gets the policy before it runs.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import pytest
import trio

from jail import Jail, ProgramError, SpecError, Supervisor, Verdict
from jail.agent import filter as agent_filter
from jail.policy import action, agent
from jail.policy.load import load_policy
from jail.policy.rule import Rule, Ruleset, Target
from tests.command import run_jail
from tests.conftest import OpenJail
from tests.part import require

pytestmark = pytest.mark.beside

X86: Final = Target("x86_64", (6, 1))
NARROW: Final = """
default = { errno = "ENOSYS" }
[[rule]]
calls = [
    "execve", "exit_group", "brk", "mmap", "munmap", "mprotect", "openat", "read", "write", "close",
    "newfstatat", "fstat", "pread64", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
    "prlimit64", "getrandom", "access", "faccessat", "rt_sigaction", "rt_sigprocmask", "getuid",
    "geteuid", "getgid", "getegid", "getpid", "getppid", "getcwd", "fcntl", "dup2", "dup3", "lseek",
    "ioctl", "futex", "uname", "fadvise64",
]
action = "allow"
why = "what cat and echo live on"
"""
"""no clone, no wait4, no kill, no pidfd_open, no recvmsg: the agent could do nothing under it"""
NARROWING: Final = """
calls = ["pidfd_open"]
action = { errno = "EPERM" }
why = "what the agent can't do without"
"""


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    path = tmp_path / "narrow.toml"
    path.write_text(NARROW)
    return str(path)


async def test_a_program_has_the_policy_and_no_call_of_the_agent_s(
    open_jail: OpenJail, narrow: str
) -> None:
    async with open_jail(seccomp=narrow) as j:
        fine = await j.run(["cat"], input=b"hello")
        forks = await j.run(["sh", "-c", "true & echo $?"])
    assert (fine.verdict, fine.stdout, fine.denied) == (Verdict.OK, b"hello", ())
    assert forks.verdict is Verdict.RE
    assert {each.call for each in forks.denied} & {"clone", "vfork", "fork"}


async def test_everything_else_of_such_a_jail_works(
    open_jail: OpenJail, narrow: str, tmp_path: Path
) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub/file").write_text("in the tree")
    (source / "link").symlink_to("sub/file")
    async with open_jail(seccomp=narrow) as j:
        await j.put("note", "a note", 0o640)
        assert (await j.run(["cat", "note"])).stdout == b"a note"
        await j.put_tree(source, "tree")
        assert await j.get("tree/sub/file") == b"in the tree"
        assert await j.get_tree("tree", tmp_path / "back") == ["link"]
        with pytest.raises(ProgramError) as caught:
            await j.run(["/no/such/program"])
        assert caught.value.errno == errno.ENOENT
        late = await j.run(["dd", "if=/dev/zero", "of=/dev/null"], timeout=0.2)
        assert late.verdict is Verdict.TLE
        async with j.start(["cat"], terminal=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send_all(b"typed\n\x04")
            assert b"typed" in await process.stdout.receive_some()
            result = await process.wait()
        assert result.verdict is Verdict.OK


async def test_many_at_once_have_a_filter_each(open_jail: OpenJail, narrow: str) -> None:
    async with open_jail(seccomp=narrow) as j:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(check_cat, j, b"%d" % number)
        status = await j.run(["cat", "/proc/self/status"])
        own = await j.run(["cat", "/proc/self/status"])
    assert find_filters(status.stdout) == find_filters(own.stdout) == 2


async def check_cat(j: Jail, data: bytes) -> None:
    result = await j.run(["cat"], input=data)
    assert (result.stdout, result.denied, result.denied_partial) == (data, (), False)


def find_filters(status: bytes) -> int:
    lines = [line.split() for line in status.splitlines()]
    return next(int(words[1]) for words in lines if words and words[0] == b"Seccomp_filters:")


async def test_where_the_policy_is_enough_for_the_agent_there_is_one_filter(
    supervisor: Supervisor,
) -> None:
    result = await supervisor.run(["cat", "/proc/self/status"])
    assert find_filters(result.stdout) == 1


async def test_limits_of_the_program_s_own_go_with_either(
    supervisor: Supervisor, narrow: str
) -> None:
    for policy in ("default", narrow):
        limits = ["cat", "/proc/self/limits"]
        result = await supervisor.run(limits, seccomp=policy, ulimits={"nofile": 33})
        (line,) = [each for each in result.stdout.splitlines() if b"open files" in each]
        assert line.split()[3:5] == [b"33", b"33"]


async def test_standard_streams_of_the_agent_are_its_own_again(
    supervisor: Supervisor, narrow: str
) -> None:
    """The child puts the program's where they were: after it has started they are put back."""
    async with supervisor.open_jail(seccomp=narrow) as j:
        async with j.start(["cat"]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.aclose()
            assert await process.stdout.receive_some() == b""  # nobody else holds the pipe
            await process.wait()
        assert (await j.run(["true"])).verdict is Verdict.OK


@pytest.mark.parametrize("missing", ["execve", "exit_group"])
async def test_a_policy_under_which_nothing_can_run_is_refused(
    supervisor: Supervisor, tmp_path: Path, missing: str
) -> None:
    path = tmp_path / "none.toml"
    action = '{ errno = "EPERM" }'
    path.write_text(
        f'default = "allow"\n[[rule]]\ncalls = ["{missing}"]\naction = {action}\nwhy = "no"\n'
    )
    with pytest.raises(SpecError, match=missing):
        await supervisor.run(["true"], seccomp=str(path))
    done = run_jail("--seccomp", str(path), "--", "true")
    assert done.status == 125
    assert missing in done.stderr


async def test_who_can_t_be_executed_leaves_no_listener(
    supervisor: Supervisor, narrow: str
) -> None:
    require("busybox")
    async with supervisor.open_jail(seccomp=narrow) as j:
        await j.put("text", "no program", 0o755)
        for _ in range(20):
            with pytest.raises(ProgramError):
                await j.run(["./text"])
        result = await j.run(["cat", "/proc/self/status"])
    assert result.verdict is Verdict.OK


UNHEARD: Final = {
    "noted": '[[rule]]\ncalls = ["{call}"]\naction = "notify"\nwhy = "tell me"',
    "by_a_condition": """[[rule]]
calls = ["{call}"]
action = "kill"
when = [{{ arg = 0, op = "gt", value = 1 }}]
why = "not so"
""",
}
"""rules that ask while the agent, who has the listener, stands still"""


@pytest.mark.parametrize("call", agent.OPENING)
@pytest.mark.parametrize("how", UNHEARD)
async def test_a_start_that_would_wait_for_an_answer_for_ever_is_refused(
    supervisor: Supervisor, tmp_path: Path, how: str, call: str
) -> None:
    path = tmp_path / "asks.toml"
    asks = UNHEARD[how].format(call=call)
    path.write_text(f'default = "allow"\n{asks}\n[[rule]]\n{NARROWING}')
    with trio.fail_after(20), pytest.raises(SpecError, match=f"{call} must be allowed"):
        await supervisor.run(["true"], seccomp=str(path))


async def test_all_but_the_start_can_be_noted(supervisor: Supervisor, tmp_path: Path) -> None:
    path = tmp_path / "noted.toml"
    starting = 'calls = ["execve", "exit_group"]\naction = "allow"\nwhy = "the start"'
    path.write_text(f'default = "notify"\n[[rule]]\n{starting}\n')
    result = await supervisor.run(["true"], seccomp=str(path))
    assert result.verdict is Verdict.OK
    assert {"brk", "mmap", "close"} <= {each.call for each in result.noted}
    with trio.fail_after(20), pytest.raises(ProgramError):
        await supervisor.run(["/no/such/program"], seccomp=str(path))


# -- deciding it ----------------------------------------------------------------------------------


def test_the_shipped_default_is_enough_for_the_agent() -> None:
    assert agent.is_enough(load_policy("default").ruleset, X86)


@pytest.mark.parametrize("call", agent.list_calls(X86))
def test_one_call_less_and_it_is_not(call: str) -> None:
    without = Ruleset("allow", (Rule((call,), "EPERM", ((),), "no"),))
    assert agent.is_enough(Ruleset("allow", ()), X86)
    assert not agent.is_enough(without, X86)


def test_the_agent_s_own_filter_is_the_policy_and_what_it_needs() -> None:
    kept = Rule(("ptrace",), "allow", ((),), "yes")
    wide = agent.widen(Ruleset("EPERM", (kept, Rule(("mount",), "kill", ((),), "no"))), X86)
    decided = {call: wide.decide(X86, call, (0,) * 6).action for call in ("ptrace", "mount", "bpf")}
    assert decided == {"ptrace": "allow", "mount": "trace", "bpf": "trace"}
    assert all(wide.decide(X86, call, (0,) * 6).action == "allow" for call in agent.list_calls(X86))
    assert wide.decide(X86, "clone", (agent.POSIX_SPAWN,)).action == "allow"
    assert wide.decide(X86, "clone", (0x10000000,)).action == "trace"


def test_agent_and_supervisor_mean_the_same_by_a_return() -> None:
    assert agent_filter.USER_NOTIF == action.USER_NOTIF
    assert agent_filter.KILL_MARK == action.KILL_DATA
    for data in (action.NOTIFY_DATA, action.KILL_DATA, errno.EPERM, errno.ENOSYS):
        value = action.USER_NOTIF | data
        code = agent_filter.INSTRUCTION.pack(agent_filter.RETURN, 0, 0, value)
        (_, _, _, silenced), *_ = agent_filter.INSTRUCTION.iter_unpack(agent_filter.silence(code))
        assert silenced == action.silence_return(value)
    assert (agent_filter.TRAP, agent_filter.TRAP_MARK) == (action.TRAP, action.TRAP_MARK)
    marked = action.TRAP | action.TRAP_MARK | errno.EPERM
    others = (
        action.TRAP,
        action.TRAP | 1,
        action.TRAP | action.TRAP_MARK,
        action.TRACE,
        action.ALLOW,
        action.KILL_PROCESS,
    )
    for value in (marked, *others):
        code = agent_filter.INSTRUCTION.pack(agent_filter.RETURN, 0, 0, value)
        (_, _, _, silenced), *_ = agent_filter.INSTRUCTION.iter_unpack(agent_filter.silence(code))
        assert silenced == action.silence_return(value)
        assert (silenced == value) is (value != marked)
