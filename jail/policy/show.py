"""A policy as people and programs read it: what is allowed, what is refused, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from jail.policy.load import Policy
from jail.policy.phrase import phrase_alternatives, phrase_guards
from jail.policy.rule import PASSING, Condition, Rule, Ruleset, Target

WIDTH: Final = 96


@dataclass(frozen=True)
class Shown:
    """The rules that are asked for, with the numbers that say in which order they are tried."""

    name: str
    purpose: str
    extends: tuple[str, ...]
    default: str
    target: Target
    calls: tuple[str, ...]
    rules: tuple[tuple[int, Rule], ...]

    def to_text(self) -> str:
        """Lines, without a newline at the end."""
        return "\n".join(self._list_lines())

    def _list_lines(self) -> Iterator[str]:
        yield from wrap(f"{self.name}: {self.purpose}" if self.purpose else self.name, "", "  ")
        if self.extends:
            yield f"extends {', '.join(self.extends)}"
        passing = [each for each in self.rules if each[1].action in PASSING]
        refused = [each for each in self.rules if each[1].action not in PASSING]
        for title, rules in (("allowed", passing), ("refused", refused)):
            if rules:
                yield from ("", title)
                for number, rule in rules:
                    yield from self._list_rule(number, rule)
        yield from ("", f"{self._find_others()}: {self.default}")

    def _find_others(self) -> str:
        if not self.calls:
            return "every other call"
        return "else" if self.rules else f"{' '.join(self.calls)}, which no rule names"

    def _list_rule(self, number: int, rule: Rule) -> Iterator[str]:
        notes = [f"@{each}" for each in rule.groups] + phrase_guards(rule, self.target)
        notes += ["quiet"] if rule.quiet else []
        notes += [f"of {rule.policy}"] if rule.policy not in ("", self.name) else []
        behind = f" ({', '.join(notes)})" if notes else ""
        yield from wrap(f"{number:>4}. {rule.action}: {rule.why}{behind}", "", " " * 6)
        yield from wrap(" ".join(rule.calls), " " * 8, " " * 8)
        for index, text in enumerate(phrase_alternatives(rule)):
            yield from wrap(text, " " * 10 + ("or " if index else "if "), " " * 13)

    def to_json(self) -> dict[str, Any]:
        """The same, with the numbers of all conditions."""
        return {
            "name": self.name,
            "purpose": self.purpose,
            "extends": list(self.extends),
            "machine": self.target.machine,
            "kernel": "{}.{}".format(*self.target.kernel),
            "default": self.default,
            "rules": [{"number": number, **_to_json(rule)} for number, rule in self.rules],
        }


def make_shown(policy: Policy, ruleset: Ruleset, target: Target, calls: tuple[str, ...]) -> Shown:
    """The whole policy, or what it says of these calls."""
    rules = [
        (number, rule)
        for number, rule in enumerate(ruleset.rules, 1)
        if not calls or set(calls) & set(rule.calls)
    ]
    return Shown(
        policy.name,
        find_purpose(policy.text),
        tuple(each.name for each in policy.bases),
        ruleset.default,
        target,
        calls,
        tuple(rules),
    )


def find_purpose(text: bytes) -> str:
    """The first sentence of the comment that a file begins with."""
    words: list[str] = []
    for line in text.decode(errors="replace").splitlines():
        own = line.lstrip("# ").split() if line.startswith("#") else []
        if not own:
            break
        words += own
    sentence, dot, _ = " ".join(words).partition(". ")
    return f"{sentence}{dot}".strip()


def wrap(text: str, first: str, other: str) -> list[str]:
    """Lines that fit, the first and the others behind their margins."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=other,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _to_json(rule: Rule) -> dict[str, Any]:
    return {
        "calls": list(rule.calls),
        "groups": list(rule.groups),
        "action": rule.action,
        "any": [[_condition_to_json(each) for each in one] for one in rule.alternatives if one],
        "why": rule.why,
        "policy": rule.policy,
        "optional": rule.optional,
        "quiet": rule.quiet,
        "machines": list(rule.machines),
        "min_kernel": "{}.{}".format(*rule.min_kernel) if rule.min_kernel else None,
    }


def _condition_to_json(each: Condition) -> dict[str, Any]:
    mask = {"mask": each.mask} if each.op == "masked_eq" else {}
    return {"arg": each.arg, "op": each.op, **mask, "values": list(each.values)}
