"""What a policy is made of: rules, tried from the top. Pure data."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "eq": operator.eq,
    "masked_eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
ALL_BITS: Final = 2**64 - 1
MACHINES: Final = ("x86_64", "aarch64")
"""those that policies are compiled for, as ``uname -m`` says"""
PASSING: Final = ("allow", "log", "notify")
"""actions by which the call is made"""


class Target(NamedTuple):
    """What a policy is read for: ``uname -m``, and (major, minor) of the kernel."""

    machine: str
    kernel: tuple[int, int]


@dataclass(frozen=True)
class Condition:
    """One comparison of one argument, all 64 bits of it unless ``mask`` says less.

    Holds if it holds for one of ``values``.
    """

    arg: int
    op: str
    values: tuple[int, ...]
    mask: int = 0

    def holds(self, args: Sequence[int]) -> bool:
        """For the arguments of a call, of which those that are missing are 0."""
        given = args[self.arg] & ALL_BITS if self.arg < len(args) else 0
        if self.op == "masked_eq":
            given &= self.mask
        return any(COMPARE[self.op](given, each) for each in self.values)


@dataclass(frozen=True)
class Rule:
    """``alternatives``: one of these lists must hold wholly; an empty list always does.

    ``action`` is ``allow``, ``kill``, ``log`` (made, and in the kernel's log), ``notify`` (made,
    and in the result), ``trap`` (SIGSYS), ``trace`` (PTRACE_EVENT_SECCOMP) or the name of an errno.
    """

    calls: tuple[str, ...]
    action: str
    alternatives: tuple[tuple[Condition, ...], ...]
    why: str
    optional: bool = False
    quiet: bool = False
    """what it refuses is asked for by libraries that do without: not reported unless asked"""
    machines: tuple[str, ...] = ()
    """where it is; everywhere if none is named"""
    min_kernel: tuple[int, int] | None = None
    """(major, minor) from which on it is"""
    policy: str = ""
    """the name of the one that it is written in"""
    groups: tuple[str, ...] = ()
    """names of the groups that ``calls`` were written as"""

    def is_always(self) -> bool:
        return () in self.alternatives

    def is_for(self, target: Target) -> bool:
        """Whether it is there, on that machine and kernel."""
        if self.machines and target.machine not in self.machines:
            return False
        return self.min_kernel is None or target.kernel >= self.min_kernel

    def matches(self, call: str, args: Sequence[int]) -> bool:
        """Whether it decides this."""
        if call not in self.calls:
            return False
        return any(all(each.holds(args) for each in one) for one in self.alternatives)

    def spread_values(self) -> Iterator[tuple[Condition, ...]]:
        """The alternatives again, with one value in every condition."""
        for conditions in self.alternatives:
            choices = [[replace(each, values=(one,)) for one in each.values] for each in conditions]
            yield from itertools.product(*choices)


class Decision(NamedTuple):
    """What becomes of a call, and the rule that says so; None: no rule, the default."""

    action: str
    rule: Rule | None

    @property
    def passes(self) -> bool:
        """Whether the call is made."""
        return self.action in PASSING


@dataclass(frozen=True)
class Ruleset:
    """A whole policy: the first rule that matches decides, else ``default``."""

    default: str
    rules: tuple[Rule, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """names for several calls, for those who extend it too"""

    def decide(self, target: Target, call: str, args: Sequence[int]) -> Decision:
        """As the compiled filter does."""
        for rule in self.rules:
            if rule.is_for(target) and rule.matches(call, args):
                return Decision(rule.action, rule)
        return Decision(self.default, None)
