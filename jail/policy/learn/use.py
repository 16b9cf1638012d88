"""Uses of a call of which only the telling arguments are known, held against conditions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from jail.policy.learn.note import Values
from jail.policy.learn.table import LONG, TELLING
from jail.policy.rule import Condition

Conjunction = tuple[Condition, ...]
Met = Mapping[Conjunction, Sequence[tuple[Values, Conjunction]]]
"""for each list of conditions, the uses that it may be true of, and what is unknown then"""
ORDERED: Final = ("ne", "lt", "le", "gt", "ge")


def find_met(call: str, seen: Iterable[Values], alternatives: Iterable[Conjunction]) -> Met:
    """The alternatives that may be true of one of these uses."""
    uses = sorted(seen)
    found: dict[Conjunction, list[tuple[Values, Conjunction]]] = {}
    for conditions in alternatives:
        for values in uses:
            rest = find_rest(call, values, conditions)
            if rest is not None:
                found.setdefault(conditions, []).append((values, rest))
    return found


def find_rest(call: str, values: Values, conditions: Conjunction) -> Conjunction | None:
    """Those that the noted arguments leave open; None if one of them is false."""
    known = {arg: (value, mask) for (arg, mask), value in zip(TELLING[call], values, strict=True)}
    rest = []
    for each in conditions:
        holds = _holds(each, *known.get(each.arg, (0, 0)))
        if holds is False:
            return None
        if holds is None:
            rest.append(each)
    return tuple(rest)


def _holds(condition: Condition, value: int, known: int) -> bool | None:
    """None if that depends on bits that aren't ``known``."""
    looked_at = condition.mask if condition.op == "masked_eq" else LONG
    if not looked_at & ~known:
        return condition.holds([0] * condition.arg + [value])
    if condition.op in ORDERED:
        return None
    if all((each ^ value) & looked_at & known for each in condition.values):
        return False
    return None


def join_values(call: str, seen: Iterable[Values]) -> tuple[Conjunction, ...]:
    """Conditions that are true of exactly these uses."""
    telling, uses = TELLING[call], sorted(seen)
    if len(telling) == 1:
        ((arg, mask),) = telling
        return ((_compare(arg, mask, tuple(value for (value,) in uses)),),)
    return tuple(tuple(_compare_all(call, values)) for values in uses)


def join_met(call: str, met: Met, uses: set[Values]) -> tuple[Conjunction, ...]:
    """Conditions that are true of these ``uses`` where those are that they were held against."""
    found = [pair for pairs in met.values() for pair in pairs if pair[0] in uses]
    certain = {values for values, rest in found if not rest}
    joined = list(join_values(call, certain)) if certain else []
    for values, rest in found:
        if values not in certain:
            joined.append(tuple(_merge(call, values, rest)))
    return tuple(dict.fromkeys(joined))


def _compare_all(call: str, values: Values) -> Iterator[Condition]:
    for (arg, mask), value in zip(TELLING[call], values, strict=True):
        yield _compare(arg, mask, (value,))


def _compare(arg: int, mask: int, values: tuple[int, ...]) -> Condition:
    return (
        Condition(arg, "eq", values) if mask == LONG else Condition(arg, "masked_eq", values, mask)
    )


def _merge(call: str, values: Values, rest: Conjunction) -> Iterator[Condition]:
    """One condition an argument, as libseccomp wants it."""
    left = {each.arg: each for each in rest}
    for own in _compare_all(call, values):
        other = left.pop(own.arg, None)
        if other is None:
            yield own
        elif other.op in ORDERED:
            yield other
        else:
            yield _merge_masks(own, other)
    yield from left.values()


def _merge_masks(own: Condition, other: Condition) -> Condition:
    ours, theirs = _mask_of(own), _mask_of(other)
    (value,) = own.values
    fitting = [each for each in other.values if not (each ^ value) & ours & theirs]
    return _compare(own.arg, ours | theirs, tuple(dict.fromkeys(each | value for each in fitting)))


def _mask_of(condition: Condition) -> int:
    return condition.mask if condition.op == "masked_eq" else LONG
