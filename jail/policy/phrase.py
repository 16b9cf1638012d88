"""The conditions of a rule, as one reads them: ``arg0 has CLONE_NEWUSER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jail.policy.describe import name_mask, name_value
from jail.policy.rule import ALL_BITS, Condition, Rule, Target

LOW_HALF: Final = 0xFFFFFFFF
SIGNS: Final = {"ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def phrase_alternatives(rule: Rule) -> list[str]:
    """One text for each, in the names that the arguments of the rule's first call have."""
    return [phrase_conditions(rule.calls[0], each) for each in rule.alternatives if each]


def phrase_conditions(call: str, conditions: Sequence[Condition]) -> str:
    """All that must hold."""
    return " and ".join(_phrase(call, each, _find_before(each, conditions)) for each in conditions)


def _find_before(condition: Condition, conditions: Sequence[Condition]) -> tuple[int, ...]:
    """What is known of the arguments before this one: its numbers' names depend on them."""
    known = {each.arg: each.values[0] for each in conditions}
    if not any(arg in known for arg in range(condition.arg)):
        return ()
    return tuple(known.get(arg, 0) for arg in range(condition.arg))


def _phrase(call: str, condition: Condition, before: tuple[int, ...]) -> str:
    mask = condition.mask if condition.op == "masked_eq" else ALL_BITS
    names = [name_value(call, condition.arg, value, mask, before) for value in condition.values]
    arg = f"arg{condition.arg}"
    if condition.op in SIGNS:
        return f"{arg} {SIGNS[condition.op]} {names[0]}"
    if mask not in (ALL_BITS, LOW_HALF):
        if condition.values == (mask,) and mask.bit_count() == 1:
            return f"{arg} has {names[0]}"
        arg = f"{arg} & {_spread(name_mask(call, condition.arg, mask))}"
    return f"{arg} == {names[0]}" if len(names) == 1 else f"{arg} in ({', '.join(names)})"


def _spread(names: str) -> str:
    """With places where a line can be broken."""
    if "|" not in names:
        return names
    spread = names.replace("|", " | ")
    return spread if spread.startswith("~(") else f"({spread})"


def phrase_guards(rule: Rule, target: Target) -> list[str]:
    """Where it is, if it isn't everywhere."""
    found = []
    if rule.machines:
        found.append(f"on {' and '.join(rule.machines)}")
    if rule.min_kernel:
        found.append(f"from Linux {rule.min_kernel[0]}.{rule.min_kernel[1]} on")
    if found and not rule.is_for(target):
        found.append("not here")
    return found
