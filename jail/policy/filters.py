"""Which filter the agent has, and which its programs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from jail.errors import SpecError

if TYPE_CHECKING:
    from jail.policy.action import Report
    from jail.policy.load import Policy
    from jail.policy.rule import Ruleset, Target

INTERNET: Final = (2, 10)
"""AF_INET, AF_INET6"""
STREAMS: Final = tuple(1 | flags for flags in (0, 0o4000, 0o2000000, 0o2004000))
"""SOCK_STREAM, with and without SOCK_NONBLOCK and SOCK_CLOEXEC"""
TCP: Final = (0, 6)
"""IPPROTO_TCP, and what stands for it"""


class Filters(NamedTuple):
    """``sock_filter`` bytes, b"" for none."""

    agent: bytes = b""
    program: bytes = b""
    """what each program gets beside the agent's; b"" where that is the policy itself"""
    listens: bool = False
    """what is refused can be asked a listener"""
    traces: bool = False
    """it is asked a tracer: the agent"""
    refuses_tcp: bool = False
    """no program has a socket that TCP could go through"""


def make_filters(policy: Policy, report: Report) -> Filters:
    """For this machine. SpecError for a policy under which no program can start.

    Where a tracer is to be told and can't be, it is a listener: init does without if it must.
    """
    from jail.policy import agent
    from jail.policy.action import HEARD
    from jail.policy.compile import compile_ruleset, read_target

    target, name = read_target(), policy.name
    ruleset = policy.read_rules(target)
    if missing := agent.find_missing(ruleset, target):
        raise SpecError(
            f"seccomp policy {name}: no program can run without {', '.join(missing)}: allow it"
        )
    asked = policy.read_filter(target)
    traces = report in HEARD and agent.can_trace(asked, target)
    listens = report != "none" and not traces
    told = report if traces else HEARD.get(report, report)
    program = compile_ruleset(asked, target, told, name)
    refuses_tcp = not may_open_tcp(ruleset, target)
    if not traces and agent.is_enough(asked, target):
        return Filters(program, b"", listens, traces, refuses_tcp)
    if not traces and (unheard := agent.find_unheard(asked, target)):
        raise SpecError(
            f"seccomp policy {name}: {' and '.join(unheard)} must be allowed or logged, without a "
            "condition: a program that has a filter of its own starts before anybody can be asked"
        )
    wide = compile_ruleset(agent.widen(ruleset, target, traces), target, "none", name)
    return Filters(wide, program, listens, traces, refuses_tcp)


def may_open_tcp(ruleset: Ruleset, target: Target) -> bool:
    """Whether it allows a socket for TCP, in one of the ways in which one asks for it."""
    return any(
        ruleset.decide(target, "socket", args).passes
        for args in itertools.product(INTERNET, STREAMS, TCP)
    )
