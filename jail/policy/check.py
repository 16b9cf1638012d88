"""What is odd about a policy that can be used all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jail.policy import agent
from jail.policy.libseccomp import knows_call
from jail.policy.load import Policy
from jail.policy.rule import Rule, Ruleset, Target
from jail.policy.telling import list_arguments, narrow

OWN_FILTER: Final = (
    "it leaves out what our agent needs: each program gets it before it runs, the agent a wider one"
)


def find_notes(policy: Policy, target: Target) -> Iterator[str]:
    """A sentence each."""
    ruleset = policy.read_rules(target)
    for index, rule in enumerate(ruleset.rules, 1):
        if rule.policy == policy.name and policy.bases and rule.is_for(target):
            yield from _find_repeated(policy, ruleset, target, index, rule)
    own = [rule for rule in ruleset.rules if rule.policy == policy.name]
    calls = {call for rule in own for call in rule.calls}
    newer = [call for call in sorted(calls) if not knows_call(call, target.machine)]
    if newer:
        yield f"passes over what this libseccomp does not know: {', '.join(newer)}"
    if not agent.is_enough(ruleset, target):
        yield OWN_FILTER


def _find_repeated(
    policy: Policy, ruleset: Ruleset, target: Target, index: int, rule: Rule
) -> Iterator[str]:
    calls = [call for call in rule.calls if _is_repeated(policy, ruleset, target, call, rule)]
    if calls:
        bases = " or ".join(each.name for each in policy.bases)
        yield f"rule {index}: {', '.join(calls)}: nothing that {bases} does not say already"


def _is_repeated(policy: Policy, ruleset: Ruleset, target: Target, call: str, rule: Rule) -> bool:
    """Whether all that it decides is decided the same way by the bases, if it isn't there."""
    whole = narrow(ruleset, target, call)
    others = Ruleset(whole.default, tuple(each for each in whole.rules if each is not rule))
    for args in list_arguments(whole.rules):
        if whole.decide(target, call, args).rule is not rule:
            continue
        found = others.decide(target, call, args).rule
        if found is None or found.policy == policy.name:
            return False
        if (found.action, found.quiet) != (rule.action, rule.quiet):
            return False
    return True
