"""Rules that decide nothing: those that an earlier one forestalls, those that a base has too. Pure.

It errs on one side: what is refused here is dead for certain; not all that is dead is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from jail.errors import SpecError
from jail.policy.rule import ALL_BITS, COMPARE, Condition, Rule

Conjunction = tuple[Condition, ...]
ByCall = dict[str, list[tuple[str, Rule]]]
"""each call's rules from the top, with the words that say where they stand"""


def sort_by_call(rules: Iterable[tuple[str, Rule]]) -> ByCall:
    """The rules of each call."""
    found: ByCall = {}
    for where, rule in rules:
        for call in rule.calls:
            found.setdefault(call, []).append((where, rule))
    return found


def refuse_shadowed(rules: ByCall) -> None:
    """SpecError for a condition that is never looked at, or never holds where it is."""
    for call, own in rules.items():
        if len(own) == 1 and len(own[0][1].alternatives) == 1:
            continue
        seen: list[tuple[str, Rule, Conjunction]] = []
        for where, rule in own:
            for later in rule.alternatives:
                _refuse_behind(seen, call, where, rule, later)
                seen.append((where, rule, later))


def _refuse_behind(
    seen: list[tuple[str, Rule, Conjunction]], call: str, where: str, rule: Rule, later: Conjunction
) -> None:
    for earlier_where, earlier_rule, earlier in seen:
        if not _is_wherever(earlier_rule, rule):
            continue
        if not earlier:
            raise SpecError(f"{where}: {call} is already decided by {earlier_where}")
        if earlier == later:
            raise SpecError(f"{where}: {call} with this very condition came before")
        if implies(later, earlier):
            raise SpecError(
                f"{where}: {call}: when this holds ({_format(later)}), {earlier_where} has decided"
                f" already ({_format(earlier)})"
            )


def _is_wherever(earlier: Rule, later: Rule) -> bool:
    """Whether every machine and kernel that has the later rule has the earlier one."""
    guards = earlier.machines, earlier.min_kernel
    return guards in (((), None), (later.machines, later.min_kernel))


def implies(later: Conjunction, earlier: Conjunction) -> bool:
    """Whether ``earlier`` holds whenever ``later`` does, as far as this can see."""
    return all(any(_implies(one, each) for one in later) for each in earlier)


def _implies(later: Condition, earlier: Condition) -> bool:
    if later.arg != earlier.arg:
        return False
    if _is_masked(earlier):
        mask = _mask(earlier)
        return (
            _is_masked(later)
            and mask & ~_mask(later) == 0
            and all(each & mask in earlier.values for each in later.values)
        )
    bound = earlier.values[0]
    if later.op == "eq":
        return all(COMPARE[earlier.op](each, bound) for each in later.values)
    if later.op == "masked_eq":
        return earlier.op == "ne" and all(each != bound & later.mask for each in later.values)
    return _implies_by_range(later, earlier)


def _implies_by_range(later: Condition, earlier: Condition) -> bool:
    if "ne" in (later.op, earlier.op):
        return later == earlier
    inner, outer = _range(later), _range(earlier)
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _range(condition: Condition) -> tuple[int, int]:
    value = condition.values[0]
    return {
        "lt": (0, value - 1),
        "le": (0, value),
        "gt": (value + 1, ALL_BITS),
        "ge": (value, ALL_BITS),
    }[condition.op]


def _is_masked(condition: Condition) -> bool:
    return condition.op in ("eq", "masked_eq")


def _mask(condition: Condition) -> int:
    return condition.mask if condition.op == "masked_eq" else ALL_BITS


OPERATORS: Final = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _format(conjunction: Conjunction) -> str:
    return ", ".join(map(_format_one, conjunction))


def _format_one(each: Condition) -> str:
    left = f"arg{each.arg} & {each.mask:#x}" if each.op == "masked_eq" else f"arg{each.arg}"
    return f"{left} {OPERATORS.get(each.op, '==')} {'|'.join(map(hex, each.values))}"


def refuse_repeated(own: ByCall, base: Sequence[Rule], base_name: str) -> None:
    """SpecError where the last that is said of a call is what the base says of it first."""
    theirs = sort_by_call(("", rule) for rule in base)
    for call, rules in own.items():
        first = [_what_it_does(rule) for _, rule in theirs.get(call, [])]
        mine = [_what_it_does(rule) for _, rule in rules]
        for count in range(1, len(mine) + 1):
            if mine[-count:] == first[:count]:
                raise SpecError(f"{rules[-1][0]}: {call}: says what {base_name} says already")


def _what_it_does(rule: Rule) -> tuple[object, ...]:
    return rule.alternatives, rule.action, rule.quiet, rule.machines, rule.min_kernel


def override(own: ByCall, base: Iterable[Rule]) -> list[Rule]:
    """The base's rules without the calls that are decided before, wherever the rule is."""
    left = []
    for rule in base:
        calls = tuple(call for call in rule.calls if not _is_dead(rule, own.get(call, [])))
        if calls:
            left.append(rule if len(calls) == len(rule.calls) else replace(rule, calls=calls))
    return left


def _is_dead(rule: Rule, earlier: list[tuple[str, Rule]]) -> bool:
    """Whether each of its alternatives is decided by one of the earlier rules."""
    deciding = [
        conjunction
        for _, each in earlier
        if _is_wherever(each, rule)
        for conjunction in each.alternatives
    ]
    return bool(deciding) and all(
        any(implies(later, each) for each in deciding) for later in rule.alternatives
    )
