"""From what was seen to rules: what it needs beyond the base, and of the base what it doesn't need.

Pure. What was seen is decided by the result as the ceiling decided it then, and nothing that the
ceiling refuses is allowed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from jail.policy.learn.note import Learned, Values
from jail.policy.learn.table import FLOOR, FLOOR_CALLS, FLOOR_USES, TELLING
from jail.policy.learn.use import find_met, find_rest, join_met, join_values
from jail.policy.rule import PASSING, Condition, Ruleset, Target
from jail.policy.shadow import Conjunction, implies

ALWAYS: Final = ((),)
USED: Final = "used, and in no other way"
DEFAULT: Final = "so by default, where it was learned"
UNTAKEABLE: Final = ("trap", "trace")
"""actions that no policy file can say"""
REFUSAL: Final = "EPERM"
ABSENCE: Final = "ENOSYS"


@dataclass(frozen=True)
class Piece:
    """What is said of one call: one rule, unless others say the same for the same reason."""

    call: str
    action: str
    alternatives: tuple[tuple[Condition, ...], ...]
    why: str
    optional: bool = False
    quiet: bool = False
    machines: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None

    def is_of(self, other: Piece) -> bool:
        """Whether it is what is left of the other one."""
        return replace(self, alternatives=()) == replace(other, alternatives=())

    def is_wherever(self, later: Piece) -> bool:
        """Whether every machine and kernel that has the later one has this."""
        guards = self.machines, self.min_kernel
        return guards in (((), None), (later.machines, later.min_kernel))

    @property
    def effect(self) -> tuple[object, ...]:
        """What the loader compares with the base's."""
        return self.alternatives, self.action, self.quiet, self.machines, self.min_kernel


def find_floor(ceiling: Ruleset, target: Target) -> frozenset[str]:
    """Those of FLOOR that the ceiling allows whatever their arguments; and what starts anything."""
    allowed = {call for call in FLOOR_CALLS if is_always_allowed(ceiling, target, call)}
    return frozenset(allowed | {"execve"})


def find_floor_uses(ceiling: Ruleset, target: Target) -> dict[str, set[Values]]:
    """Those of FLOOR_USES that the ceiling allows, whatever the other arguments."""
    found: dict[str, set[Values]] = {}
    for call, uses in FLOOR_USES.items():
        allowed = {each for each in uses if is_use_allowed(ceiling, target, call, each)}
        if allowed:
            found[call] = allowed
    return found


def is_use_allowed(ruleset: Ruleset, target: Target, call: str, values: Values) -> bool:
    """Whether the first rule there that may hold for it holds for certain, and allows it."""
    for rule in ruleset.rules:
        if call in rule.calls and rule.is_for(target):
            open_ends = [find_rest(call, values, each) for each in rule.alternatives]
            if () in open_ends:
                return rule.action == "allow"
            if any(each is not None for each in open_ends):
                return False
    return ruleset.default == "allow"


def is_always_allowed(ruleset: Ruleset, target: Target, call: str) -> bool:
    """Whether its first rule there allows it, and without a condition."""
    for rule in ruleset.rules:
        if call in rule.calls and rule.is_for(target):
            return rule.action == "allow" and rule.is_always()
    return ruleset.default == "allow"


def make_pieces(
    learned: Learned, base: Ruleset, ceiling: Ruleset, target: Target
) -> Iterator[Piece]:
    """In the order in which they must be tried; what the base says already is left out."""
    floor, uses = find_floor(ceiling, target), find_floor_uses(ceiling, target)
    made = [
        *_make_floor(floor, base, target),
        *_copy_beyond(learned, ceiling),
        *_make_narrow(learned, uses, base, ceiling),
        *_refuse_unused(learned.seen | floor | uses.keys(), base),
    ]
    by_call: dict[str, list[Piece]] = {}
    for each in made:
        by_call.setdefault(each.call, []).append(each)
    for pieces in by_call.values():
        pieces[:] = _leave_to_base(list(_drop_dead(pieces)), base)
    for each in made:
        pieces = by_call[each.call]
        if pieces and pieces[0].is_of(each):
            yield pieces.pop(0)


def _drop_dead(pieces: list[Piece]) -> Iterator[Piece]:
    """Without what an earlier one forestalls: a ceiling of Docker's may say things twice."""
    before: list[tuple[Piece, Conjunction]] = []
    for piece in pieces:
        left = []
        for each in piece.alternatives:
            if not any(one.is_wherever(piece) and implies(each, its) for one, its in before):
                left.append(each)
                before.append((piece, each))
        if left:
            yield replace(piece, alternatives=tuple(left))


def _leave_to_base(pieces: list[Piece], base: Ruleset) -> list[Piece]:
    """Without a tail that repeats how the base begins: it goes on from there anyway."""
    call = pieces[0].call
    theirs = [
        (rule.alternatives, rule.action, rule.quiet, rule.machines, rule.min_kernel)
        for rule in base.rules
        if call in rule.calls
    ]
    for count in range(len(pieces), 0, -1):
        if [each.effect for each in pieces[-count:]] == theirs[:count]:
            return _leave_to_base(pieces[:-count], base) if len(pieces) > count else []
    return pieces


def _make_floor(floor: frozenset[str], base: Ruleset, target: Target) -> Iterator[Piece]:
    for why, calls in FLOOR.items():
        for call in calls:
            if call in floor and not is_always_allowed(base, target, call):
                yield Piece(call, "allow", ALWAYS, why)


def _copy_beyond(learned: Learned, ceiling: Ruleset) -> Iterator[Piece]:
    """All that the ceiling says of what the base would have decided otherwise."""
    open_calls = {call for call in learned.beyond if call not in TELLING and is_named(call)}
    for rule in ceiling.rules:
        for call in sorted(open_calls.intersection(rule.calls)):
            yield Piece(
                call,
                take_action(rule.action),
                rule.alternatives,
                f"used; {learned.ceiling} has it for: {rule.why}",
                rule.optional,
                rule.quiet,
                rule.machines,
                rule.min_kernel,
            )
            if rule.is_always() and not rule.machines and rule.min_kernel is None:
                open_calls.discard(call)
    for call in sorted(open_calls):
        why = f"tried; {learned.ceiling} has no rule for it"
        yield Piece(call, take_action(ceiling.default), ALWAYS, why)


def take_action(action: str) -> str:
    """As a policy file can say it."""
    return REFUSAL if action in UNTAKEABLE else action


def is_named(call: str) -> bool:
    """Not ``syscall_999``: a number that libseccomp has no name for."""
    return not call.startswith("syscall_")


def _make_narrow(
    learned: Learned, uses: dict[str, set[Values]], base: Ruleset, ceiling: Ruleset
) -> Iterator[Piece]:
    """Of calls that are many in one exactly the uses that were seen, and those of the floor."""
    for call in sorted((learned.seen & TELLING.keys()) | uses.keys()):
        made = learned.values.get(call, set()) | uses.get(call, set())
        tried = {values for name, values in learned.refused if name == call}
        yield from _join_neighbours(_narrow_ceiling(call, made, tried, ceiling))
        if may_pass(base, call):
            yield Piece(call, REFUSAL, ALWAYS, "its other uses: not needed")


def _join_neighbours(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Of those that differ in their conditions only, one."""
    for _, group in itertools.groupby(pieces, key=lambda each: replace(each, alternatives=())):
        first, *more = group
        alternatives = [one for each in (first, *more) for one in each.alternatives]
        yield replace(first, alternatives=tuple(dict.fromkeys(alternatives)))


def _narrow_ceiling(
    call: str, made: set[Values], tried: set[Values], ceiling: Ruleset
) -> Iterator[Piece]:
    """What the ceiling says of these uses, in its order: it allows what was made, no others."""
    left = made | tried
    for rule in ceiling.rules:
        met = find_met(call, left, rule.alternatives) if call in rule.calls else {}
        if not met:
            continue
        passes = rule.action in PASSING
        alternatives = join_met(call, met, made) if passes else tuple(met)
        if alternatives:
            yield Piece(
                call,
                take_action(rule.action),
                alternatives,
                USED if passes else rule.why,
                quiet=rule.quiet,
                machines=rule.machines,
                min_kernel=rule.min_kernel,
            )
        if not rule.machines and rule.min_kernel is None:
            left -= {values for found in met.values() for values, rest in found if not rest}
    left &= made if ceiling.default in PASSING else tried
    if left:
        yield Piece(call, take_action(ceiling.default), join_values(call, left), DEFAULT)


def may_pass(ruleset: Ruleset, call: str) -> bool:
    """Whether some use of it passes somewhere."""
    if ruleset.default in PASSING:
        return True
    return any(call in rule.calls and rule.action in PASSING for rule in ruleset.rules)


def _refuse_unused(needed: set[str], base: Ruleset) -> Iterator[Piece]:
    unused: dict[str, bool] = {}
    for rule in base.rules:
        for call in rule.calls if rule.action in PASSING else ():
            if call not in needed:
                unused[call] = unused.get(call, False) or rule.optional
    for call in sorted(unused, key=lambda name: (unused[name], name)):
        yield Piece(call, ABSENCE, ALWAYS, "never used", optional=unused[call])
