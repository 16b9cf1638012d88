"""Arguments that tell policies apart: what their conditions look for, and what is near it. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from jail.policy.rule import ALL_BITS, Condition, Rule, Ruleset, Target

MOST: Final = 4096
ARGS: Final = 6


def narrow(ruleset: Ruleset, target: Target, call: str) -> Ruleset:
    """Only what it says of one call on one target."""
    rules = (each for each in ruleset.rules if call in each.calls and each.is_for(target))
    return Ruleset(ruleset.default, tuple(rules))


def list_arguments(rules: Iterable[Rule]) -> Iterator[tuple[int, ...]]:
    """Combinations of what matters to these rules of one call: all, or so many of them."""
    choices: list[dict[int, None]] = [{0: None} for _ in range(ARGS)]
    for rule in rules:
        for condition in itertools.chain.from_iterable(rule.alternatives):
            choices[condition.arg] |= dict.fromkeys(_list_near(condition))
    yield from _combine([list(each) for each in choices])


def _list_near(condition: Condition) -> Iterator[int]:
    yield ALL_BITS
    for value in condition.values:
        yield value
        if condition.op == "masked_eq":
            lowest = condition.mask & -condition.mask
            yield value | (ALL_BITS & ~condition.mask)
            yield value ^ lowest
        else:
            yield from (value + 1 & ALL_BITS, value - 1 & ALL_BITS)


def _combine(choices: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    count = 1
    for each in choices:
        count *= len(each)
    if count <= MOST:
        yield from itertools.product(*choices)
        return
    dice = random.Random(count)  # the same ones each time
    for _ in range(MOST):
        yield tuple(dice.choice(each) for each in choices)
