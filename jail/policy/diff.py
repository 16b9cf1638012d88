"""What two policies decide differently, by deciding: files that say the same in other words agree.

Pure but for the names of arguments.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from jail.policy.describe import describe_call
from jail.policy.rule import PASSING, Ruleset, Target
from jail.policy.telling import list_arguments, narrow

WIDTH: Final = 96
Pair = tuple[str, str]


class Difference(NamedTuple):
    """How a call is decided by the first and by the second, and arguments with which it is."""

    call: str
    first: str
    second: str
    always: bool
    args: tuple[int, ...]

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it is made under the first, under the second."""
        return self.first in PASSING, self.second in PASSING


@dataclass(frozen=True)
class Comparison:
    """All that differs; ``defaults`` is what becomes of calls that neither names."""

    names: Pair
    defaults: Pair
    found: tuple[Difference, ...]

    def differs(self) -> bool:
        """Whether anything does."""
        return bool(self.found) or self.defaults[0] != self.defaults[1]

    def to_text(self) -> str:
        """Lines, without a newline at the end."""
        return "\n".join(self._list_lines())

    def _list_lines(self) -> Iterator[str]:
        first, second = self.names
        titles = {
            (True, False): f"allowed by {first}, refused by {second}",
            (False, True): f"refused by {first}, allowed by {second}",
            (True, True): "allowed by both, differently",
            (False, False): "refused by both, differently",
        }
        for kind, title in titles.items():
            found = [each for each in self.found if each.kind == kind]
            if found:
                yield title
                yield from _list_pairs(found)
        if self.defaults[0] != self.defaults[1]:
            yield "calls that neither names"
            yield f"  {' / '.join(self.defaults)}"

    def to_json(self) -> dict[str, Any]:
        """An object for each call and pair of decisions."""
        return {
            "policies": list(self.names),
            "defaults": list(self.defaults),
            "calls": [
                {
                    "call": each.call,
                    "decisions": [each.first, each.second],
                    "always": each.always,
                    "example": list(each.args),
                }
                for each in self.found
            ],
        }


def _list_pairs(found: list[Difference]) -> Iterator[str]:
    always: dict[Pair, list[str]] = {}
    for each in found:
        if each.always:
            always.setdefault((each.first, each.second), []).append(each.call)
    for pair, calls in always.items():
        yield from _wrap(f"{' / '.join(pair)}: {' '.join(calls)}")
    for each in found:
        if not each.always:
            example = describe_call(each.call, each.args)
            yield from _wrap(f"{each.first} / {each.second}: {each.call}, as in {example}")


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
    )


def compare(
    first: tuple[str, Ruleset],
    second: tuple[str, Ruleset],
    target: Target,
    is_there: Callable[[str], bool],
) -> Comparison:
    """Two policies, each with its name; ``is_there``: whether that target has the call."""
    rulesets = first[1], second[1]
    calls = {call for ruleset in rulesets for rule in ruleset.rules for call in rule.calls}
    found: list[Difference] = []
    for call in sorted(calls):
        if is_there(call):
            one, other = (narrow(each, target, call) for each in rulesets)
            found += _compare_call(one, other, target, call)
    defaults = first[1].default, second[1].default
    return Comparison((first[0], second[0]), defaults, tuple(found))


def _compare_call(one: Ruleset, other: Ruleset, target: Target, call: str) -> Iterator[Difference]:
    pairs: dict[Pair, tuple[int, ...]] = {}
    for args in list_arguments((*one.rules, *other.rules)):
        pair = one.decide(target, call, args).action, other.decide(target, call, args).action
        pairs.setdefault(pair, args)
    for (first, second), args in pairs.items():
        if first != second:
            yield Difference(call, first, second, len(pairs) == 1, args)
