"""Which filter the agent has, and which its programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jail.errors import SpecError

if TYPE_CHECKING:
    from jail.policy.action import Report
    from jail.policy.load import Policy


class Filters(NamedTuple):
    """``sock_filter`` bytes, b"" for none."""

    agent: bytes = b""
    program: bytes = b""
    """what each program gets beside the agent's; b"" where that is the policy itself"""
    listens: bool = False
    """what is refused can be asked a listener"""


def make_filters(policy: Policy, report: Report) -> Filters:
    """For this machine. SpecError for a policy under which no program can start."""
    from jail.policy import agent
    from jail.policy.compile import compile_ruleset, read_target

    target, name = read_target(), policy.name
    ruleset = policy.read_rules(target)
    if missing := agent.find_missing(ruleset, target):
        raise SpecError(f"seccomp policy {name}: no program can run without {', '.join(missing)}")
    listens = report != "none"
    program = compile_ruleset(ruleset, target, report, name)
    if agent.is_enough(ruleset, target):
        return Filters(program, b"", listens)
    wide = compile_ruleset(agent.widen(ruleset, target), target, "none", name)
    return Filters(wide, program, listens)
