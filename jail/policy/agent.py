"""What our agent needs of a filter, beside what the policy leaves its programs. Pure data.

Where a policy allows all of it, the agent stands under the policy itself and programs inherit
that. Else the agent has a wider filter, and each program gets its policy before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from jail.policy.rule import PASSING, Condition, Rule, Ruleset, Target

CLONE_NEW: Final = 0x7E020000
SIGCHLD: Final = 17
POSIX_SPAWN: Final = 0x4100 | SIGCHLD
FORK: Final = 0x4400 | SIGCHLD
AT_FDCWD: Final = 2**64 - 100
O_CREAT: Final = 0o100
EVERY_PROCESS: Final = 2**64 - 1
PR_SET_NAME: Final = 15
# asm-generic/ioctls.h: what makes a terminal
TIOCGPTN: Final = 0x80045430
TIOCSPTLCK: Final = 0x40045431
TIOCSWINSZ: Final = 0x5414

CALLS: Final = [
    "brk",
    "close",
    "close_range",
    "chdir",
    "dup",
    "dup2",
    "dup3",
    "execve",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fcntl",
    "fstat",
    "ftruncate",
    "futex",
    "getcwd",
    "getdents64",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "lseek",
    "madvise",
    "mkdirat",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "openat",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe2",
    "ppoll",
    "prlimit64",
    "read",
    "readlinkat",
    "recvmsg",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
    "sendmsg",
    "sendto",
    "setsid",
    "signalfd4",
    "statx",
    "symlinkat",
    "umask",
    "wait4",
    "waitid",
    "write",
]
ONLY_X86: Final = [
    "access",
    "dup2",
    "fork",
    "mkdir",
    "open",
    "poll",
    "readlink",
    "stat",
    "lstat",
    "symlink",
    "vfork",
]
EXAMPLES: Final[tuple[tuple[str, tuple[int, ...]], ...]] = (
    ("clone", (POSIX_SPAWN,)),
    ("clone", (FORK,)),
    ("kill", (EVERY_PROCESS, 9)),
    ("kill", (2, 9)),
    ("fchmod", (3, 0o644)),
    ("openat", (AT_FDCWD, 0, O_CREAT, 0o644)),
    ("mkdirat", (AT_FDCWD, 0, 0o755)),
    ("prctl", (PR_SET_NAME,)),
    ("ioctl", (3, TIOCGPTN)),
    ("ioctl", (3, TIOCSPTLCK)),
    ("ioctl", (3, TIOCSWINSZ)),
)
"""calls whose arguments policies look at"""
SHOWN: Final = Condition(0, "masked_eq", (0,), CLONE_NEW)
OPENING: Final = ("execve", "exit_group")
"""what no program can start, or end, without"""
UNASKED: Final = ("allow", "log")
"""actions that no listener is asked for"""


def list_calls(target: Target) -> Sequence[str]:
    """Names of those that take part in it there."""
    names = [name for name in CALLS if target.machine == "x86_64" or name != "dup2"]
    return [*names, *ONLY_X86] if target.machine == "x86_64" else names


def is_enough(ruleset: Ruleset, target: Target) -> bool:
    """Whether the agent can live under this policy."""
    asked = [(name, (0,) * 6) for name in list_calls(target)]
    return all(
        ruleset.decide(target, call, args).action == "allow" for call, args in (*asked, *EXAMPLES)
    )


def find_missing(ruleset: Ruleset, target: Target) -> list[str]:
    """What a program can't be without, and this policy refuses."""
    return [each for each in OPENING if not ruleset.decide(target, each, (0,) * 6).passes]


def find_unheard(ruleset: Ruleset, target: Target) -> list[str]:
    """What a program with a filter of its own might have to ask for before anybody can hear it.

    The agent has the listener, and stands still until the program has been executed or has ended.
    """
    return [each for each in OPENING if not _is_never_asked(ruleset, target, each)]


def _is_never_asked(ruleset: Ruleset, target: Target, call: str) -> bool:
    for rule in ruleset.rules:
        if call in rule.calls and rule.is_for(target):
            if rule.action not in UNASKED:
                return False
            if rule.is_always():
                return True
    return ruleset.default in UNASKED


def can_trace(ruleset: Ruleset, target: Target) -> bool:
    """Whether the agent may be its programs' tracer: a task has one only, ptrace(2), so it may
    not where a program can be another's.
    """
    rules = [each for each in ruleset.rules if "ptrace" in each.calls and each.is_for(target)]
    if any(each.action in PASSING for each in rules):
        return False
    return ruleset.default not in PASSING or any(each.is_always() for each in rules)


def widen(ruleset: Ruleset, target: Target, traces: bool = False) -> Ruleset:
    """The filter of the agent where its programs have one of their own.

    It refuses by SECCOMP_RET_TRACE, which without a tracer is ENOSYS: the least that refuses, so
    what the program's own filter says to the same call comes before it, a question as well
    (seccomp(2), “Return values”).
    """
    names = (*list_calls(target), *(call for call, _ in EXAMPLES if call != "clone"), "seccomp")
    if traces:
        names = (*names, "ptrace")
    own = (
        Rule(tuple(dict.fromkeys(names)), "allow", ((),), "the agent's own work"),
        Rule(("clone",), "allow", ((SHOWN,),), "programs are started"),
    )
    default = "allow" if ruleset.default in PASSING else "trace"
    return Ruleset(default, (*own, *map(_soften, ruleset.rules)))


def _soften(rule: Rule) -> Rule:
    if rule.action in PASSING:
        return replace(rule, action="allow")
    return replace(rule, action="trace")
