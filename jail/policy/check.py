"""What is odd about a policy that can be used all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jail.policy import agent
from jail.policy.libseccomp import knows_call
from jail.policy.load import Policy
from jail.policy.rule import PASSING, Rule, Ruleset, Target
from jail.policy.telling import list_arguments, narrow

OWN_FILTER: Final = (
    "it leaves out what our agent needs: each program gets it before it runs, the agent a wider one"
)


def find_notes(policy: Policy, target: Target) -> Iterator[str]:
    """A sentence each."""
    ruleset = policy.read_rules(target)
    own = [rule for rule in ruleset.rules if rule.policy == policy.name]
    if policy.bases:
        first, *others = policy.bases
        base = Policy(first.name, first.text, tuple(others)).read_rules(target)
        yield from _find_repeated(own, base, target, first.name)
    calls = {call for rule in own for call in rule.calls}
    newer = [call for call in sorted(calls) if not knows_call(call, target.machine)]
    if newer:
        yield f"passes over what this libseccomp does not know: {', '.join(newer)}"
    if not agent.is_enough(ruleset, target):
        yield OWN_FILTER


def _find_repeated(own: list[Rule], base: Ruleset, target: Target, name: str) -> Iterator[str]:
    for index, rule in enumerate(own, 1):
        others = Ruleset("", (*own[: index - 1], *own[index:], *base.rules))
        whole = Ruleset("", (*own, *base.rules))
        calls = [
            call
            for call in rule.calls
            if _is_repeated(
                rule, narrow(whole, target, call), narrow(others, target, call), target, call
            )
        ]
        if calls and rule.is_for(target):
            yield f"rule {index}: {', '.join(calls)}: nothing that {name} does not say already"


def _is_repeated(rule: Rule, whole: Ruleset, others: Ruleset, target: Target, call: str) -> bool:
    """Whether all that it decides is decided the same way if it isn't there, and by the base."""
    for args in list_arguments(whole.rules):
        if whole.decide(target, call, args).rule is not rule:
            continue
        found = others.decide(target, call, args).rule
        if found is None or found.policy == rule.policy:
            return False
        if _what_is_told(found) != _what_is_told(rule):
            return False
    return True


def _what_is_told(rule: Rule) -> tuple[object, ...]:
    """Whoever is refused something is told why; of what is allowed nothing is said."""
    return rule.action, rule.quiet, "" if rule.action in PASSING else rule.why
