"""A policy whose filter asks of nearly every call, and whose decisions are those of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jail.policy.load import Policy

if TYPE_CHECKING:
    from jail.policy.rule import Ruleset, Target


@dataclass(frozen=True)
class WatchedPolicy(Policy):
    """Whoever answers for it answers as ``ceiling`` decides: None is “unconfined”."""

    ceiling: Policy | None = None

    def read_rules(self, target: Target | None = None) -> Ruleset:
        """The ceiling's."""
        from jail.policy.rule import Ruleset

        return Ruleset("allow", ()) if self.ceiling is None else self.ceiling.read_rules(target)

    def read_filter(self, target: Target) -> Ruleset:
        """Nobody is asked of the floor; of all else whoever holds the listener."""
        from jail.policy.learn.rules import find_floor, find_floor_uses
        from jail.policy.learn.use import join_values
        from jail.policy.rule import Rule, Ruleset

        ceiling = self.read_rules(target)
        floor, uses = find_floor(ceiling, target), find_floor_uses(ceiling, target)
        rules = [Rule(tuple(sorted(floor)), "allow", ((),), "the floor")]
        for call, values in uses.items():
            rules.append(Rule((call,), "allow", join_values(call, values), "uses of the floor"))
        return Ruleset("notify", tuple(rules))


def make_watched(ceiling: Policy | None) -> WatchedPolicy:
    """Under the ceiling's name."""
    if ceiling is None:
        return WatchedPolicy("unconfined", b"watched")
    return WatchedPolicy(ceiling.name, b"watched\0" + ceiling.text, ceiling.bases, ceiling)
