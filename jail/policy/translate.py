"""One call's rules, which are tried from the top, as rules that have no order. Pure.

Where exactness would take more of them than libseccomp and the kernel can bear, less is allowed,
never more; and it is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from jail.policy.region import Box, Cube, TooManyError, make_boxes, meets, subtract
from jail.policy.rule import ALL_BITS, PASSING, Condition, Rule

DEPTHS: Final = (64, 22, 16, 8, 4, 1)
"""bits by which a value is told from a refused one, lowest first; ids of processes have 22"""


class Comparison(NamedTuple):
    """As libseccomp has them; with "masked_eq" the mask comes first."""

    arg: int
    op: str
    value: int
    value_two: int = 0


class Part(NamedTuple):
    """A rule without an order: what is done where all comparisons hold."""

    action: str
    comparisons: tuple[Comparison, ...]
    why: str


class Budget(NamedTuple):
    """How many parts one rule may become."""

    passing: int
    refusing: int


@dataclass(frozen=True)
class Translation:
    """What a call's rules become, and what of them could not be said."""

    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()


def translate(rules: Sequence[Rule], default: str, budget: Budget) -> Translation:
    """Parts of which none meets another that has another action; the rest is the default's."""
    rules = _drop_idle(rules, default)
    if len({merge(rule.action) for rule in rules}) == 1:
        return Translation(tuple(dict.fromkeys(itertools.chain(*map(_keep, rules)))))
    taken: list[tuple[str, Box]] = []
    parts: list[Part] = []
    notes: list[str] = []
    for rule in rules:
        action = merge(rule.action)
        for conjunction in rule.alternatives:
            try:
                boxes = make_boxes(conjunction)
            except TooManyError:
                return _refuse(rules, default)
            if action != merge(default):
                earlier = [box for other, box in taken if other != action]
                found, note = _take_away(rule, conjunction, boxes, earlier, default, budget)
                if found is None:
                    return _refuse(rules, default)
                parts += found
                notes += [note] if note else []
            taken += [(action, box) for box in boxes]
    return Translation(tuple(dict.fromkeys(parts)), tuple(dict.fromkeys(notes)))


def _drop_idle(rules: Sequence[Rule], default: str) -> list[Rule]:
    """Without what stands behind a rule that always holds, and without last ones that say what
    the default says."""
    kept = []
    for rule in rules:
        kept.append(rule)
        if rule.is_always():
            break
    while kept and merge(kept[-1].action) == merge(default):
        kept.pop()
    return kept


def _keep(rule: Rule) -> Iterator[Part]:
    """The rule as it is."""
    for conjunction in rule.spread_values():
        yield Part(merge(rule.action), tuple(map(_compare, conjunction)), rule.why)


def merge(action: str) -> str:
    """Docker has no notify: there the call is made and nobody told."""
    return "allow" if action == "notify" else action


def _take_away(
    rule: Rule,
    conjunction: Sequence[Condition],
    boxes: list[Box],
    earlier: list[Box],
    default: str,
    budget: Budget,
) -> tuple[list[Part] | None, str]:
    """One alternative without what is decided before it, and what is to be said of that.

    None if nothing can be told apart.
    """
    touching = [each for each in earlier if any(meets(each, box) for box in boxes)]
    if not touching:
        return list(_keep(replace(rule, alternatives=(tuple(conjunction),)))), ""
    is_passing, can_be_less = rule.action in PASSING, default not in PASSING
    most = budget.passing if is_passing else budget.refusing
    for depth in DEPTHS if is_passing and can_be_less else DEPTHS[:1]:
        try:
            left = subtract(boxes, touching, most, depth)
        except TooManyError:
            continue
        note = "" if depth == DEPTHS[0] else f"refuses too what differs above bit {depth - 1} only"
        action = merge(rule.action)
        return [Part(action, tuple(map(_compare_cube, box)), rule.why) for box in left], note
    if is_passing or not can_be_less:
        return None, ""
    return [], f"answers {default} instead of {rule.action}"


def _refuse(rules: Sequence[Rule], default: str) -> Translation:
    """The call as a whole, which is less than the policy allows."""
    notes = ("is refused as a whole: its conditions would be too many",)
    if default not in PASSING:
        return Translation((), notes)
    refusing = [rule for rule in rules if rule.action not in PASSING]
    action, why = (refusing[0].action, refusing[0].why) if refusing else ("EPERM", notes[0])
    return Translation((Part(action, (), why),), notes)


def _compare(condition: Condition) -> Comparison:
    (value,) = condition.values
    if condition.op == "masked_eq":
        return Comparison(condition.arg, condition.op, condition.mask, value)
    return Comparison(condition.arg, condition.op, value)


def _compare_cube(place: tuple[int, Cube]) -> Comparison:
    """Masked, even where a comparison of size would do with one: of rules with different actions
    that compare sizes, libseccomp 2.5.4 makes a filter that says something else.
    """
    arg, (mask, value) = place
    if mask == ALL_BITS:
        return Comparison(arg, "eq", value)
    return Comparison(arg, "masked_eq", mask, value)
