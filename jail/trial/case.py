"""Which calls put a policy to the test, and what their answers mean. Pure.

Of each rule, for each of its calls: one that it decides, for every alternative and value, and that
one again with each argument spoilt that a condition looks at. Of the default: every number that no
rule has a name for.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from jail.policy.rule import ALL_BITS, PASSING, Condition, Ruleset, Target

ERRNO_SHIFT: Final = 2000
"""added to what the filter answers, so that it can be told from what the kernel says"""
ARGS: Final = 6
NOBODY: Final = 0x3FFFFFFF
"""no process has this id: it is above PID_MAX_LIMIT"""
HARMLESS: Final = ALL_BITS
"""no descriptor, no address, no size"""
SIGNAL_ARG: Final = {
    "kill": 1,
    "tkill": 1,
    "tgkill": 2,
    "rt_sigqueueinfo": 1,
    "rt_tgsigqueueinfo": 2,
}
SIGNALS: Final = range(1, 65)
FILLED: Final[Mapping[str, Mapping[int, int]]] = {
    **{call: dict.fromkeys(range(arg), NOBODY) for call, arg in SIGNAL_ARG.items()},
    "clone": {0: 0, 1: 0, 2: 0, 3: 0, 4: 0},
}
"""other arguments than HARMLESS ones"""
NEVER_MADE: Final = ("sync",)
"""it would write back all of the host's disks"""
UNFILTERED: Final = {"x86_64": (335, 336), "aarch64": ()}
"""uretprobe (Linux 6.14) and uprobe (6.18): the kernel lets them past every filter, since it puts
them into programs itself. From anywhere else they are SIGILL and ENXIO."""
BEYOND: Final = 64
"""numbers above the last one that has a name"""
PID_MASK: Final = 0xFFFFFFFF

Kind = Literal["held", "spoilt", "default", "never", "unfiltered"]


class Case(NamedTuple):
    """One call, and what must become of it."""

    call: str
    number: int
    args: tuple[int, ...]
    expected: str
    kind: Kind
    rule: int | None
    """the index of the rule that it is tried for"""
    spoilt: int | None = None
    """the argument that was spoilt"""

    @property
    def is_safe(self) -> bool:
        """Whether it can be made without harm to what else lives in the jail or on the host."""
        if self.call in NEVER_MADE or self.kind in ("never", "unfiltered"):
            return False
        if self.call in SIGNAL_ARG:
            at = SIGNAL_ARG[self.call]
            to = {each & PID_MASK for each in self.args[:at]}
            return self.args[at] not in SIGNALS or to <= {0, NOBODY}
        return True


@dataclass(frozen=True)
class Answer:
    """What was seen: "returned" (with an errno), "signal", "ended", "blocked"."""

    what: str
    number: int

    def to_action(self) -> str:
        """ "made", "killed", or the name of the errno that the filter gave."""
        if self.what == "signal" and self.number == 31:  # SIGSYS, on both machines
            return "killed"
        if self.what == "returned" and self.number >= ERRNO_SHIFT:
            number = self.number - ERRNO_SHIFT
            return errno.errorcode.get(number, f"errno {number}")
        return "made"

    def __str__(self) -> str:
        action = self.to_action()
        if action != "made":
            return action
        if self.what == "returned":
            return (
                f"made ({errno.errorcode.get(self.number, self.number) if self.number else 'OK'})"
            )
        return f"made ({self.what} {self.number})"


def name_expected(action: str) -> str:
    """An action of a policy, as an answer shows it."""
    if action in PASSING:
        return "made"
    if action in ("kill", "trap"):
        return "killed"
    return "ENOSYS" if action == "trace" else errno.errorcode[getattr(errno, action)]


def make_cases(ruleset: Ruleset, target: Target, numbers: Mapping[str, int]) -> Iterator[Case]:
    """All of them; calls that this machine does not have are not among ``numbers``.

    One of kind "never" has no arguments: earlier rules leave nothing for its alternative.
    """
    for index, rule in enumerate(ruleset.rules):
        for call in rule.calls if rule.is_for(target) else ():
            if call in numbers:
                for conjunction in rule.spread_values():
                    yield from _try_alternative(ruleset, target, numbers, index, call, conjunction)
    named = {call for rule in ruleset.rules if rule.is_for(target) for call in rule.calls}
    by_number = {number: call for call, number in numbers.items()}
    for number in range(max(by_number) + BEYOND):
        if by_number.get(number) not in named:
            yield make_plain_case(ruleset, target, number, by_number.get(number))


def make_plain_case(ruleset: Ruleset, target: Target, number: int, name: str | None) -> Case:
    """The call with that number, with harmless arguments; None: nobody here knows a name for it."""
    call = name or f"call {number}"
    args = tuple(_fill(call, arg) for arg in range(ARGS))
    decision = ruleset.decide(target, call, args)
    index = next((at for at, rule in enumerate(ruleset.rules) if rule is decision.rule), None)
    kind: Kind = "unfiltered" if number in UNFILTERED[target.machine] else "default"
    return Case(call, number, args, name_expected(decision.action), kind, index)


def _try_alternative(
    ruleset: Ruleset,
    target: Target,
    numbers: Mapping[str, int],
    index: int,
    call: str,
    conjunction: Sequence[Condition],
) -> Iterator[Case]:
    rule = ruleset.rules[index]
    for args in _find_holding(ruleset, call, conjunction):
        decision = ruleset.decide(target, call, args)
        if decision.rule is rule:
            break
    else:
        yield Case(call, numbers[call], (), "", "never", index)
        return
    made = name_expected(decision.action)
    yield Case(call, numbers[call], args, made, "held", index)
    for condition in conjunction:
        for value in itertools.islice(_list_breaking(condition), 1):
            spoilt = (*args[: condition.arg], value, *args[condition.arg + 1 :])
            action = ruleset.decide(target, call, spoilt).action
            expected = name_expected(action)
            yield Case(call, numbers[call], spoilt, expected, "spoilt", index, condition.arg)


def _find_holding(
    ruleset: Ruleset, call: str, conjunction: Sequence[Condition]
) -> Iterator[tuple[int, ...]]:
    """Arguments with which the conditions hold, harmless ones first; others pass by other rules."""
    choices: list[list[int]] = [[_fill(call, arg)] for arg in range(ARGS)]
    for rule in ruleset.rules:
        for other in itertools.chain(*rule.alternatives) if call in rule.calls else ():
            choices[other.arg] += itertools.islice(_list_breaking(other), 2)
    for condition in conjunction:
        choices[condition.arg] = [
            *_list_holding(condition),
            *(each for each in choices[condition.arg] if _holds(condition, each)),
        ]
    yield from itertools.islice(itertools.product(*map(dict.fromkeys, choices)), 5000)


def _fill(call: str, arg: int) -> int:
    return FILLED.get(call, {}).get(arg, HARMLESS)


def _holds(condition: Condition, value: int) -> bool:
    return condition.holds((0,) * condition.arg + (value,))


def _list_holding(condition: Condition) -> Iterable[int]:
    return (each for each in _list_near(condition) if _holds(condition, each))


def _list_breaking(condition: Condition) -> Iterable[int]:
    return (each for each in _list_near(condition) if not _holds(condition, each))


def _list_near(condition: Condition) -> Iterator[int]:
    for value in condition.values:
        yield value
        if condition.op == "masked_eq":
            bits = condition.mask
            while bits:
                yield value ^ (bits & -bits)
                bits &= bits - 1
            yield value | (ALL_BITS & ~condition.mask)
        else:
            yield from (value - 1 & ALL_BITS, value + 1 & ALL_BITS)
    yield from (0, ALL_BITS)
