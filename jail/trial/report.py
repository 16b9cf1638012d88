"""What came of trying a policy, rule by rule. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jail.policy.rule import Ruleset
from jail.trial.case import Answer, Case

MOST_NAMES: Final = 4
MOST_WRONG: Final = 10


@dataclass
class Outcome:
    """A case, what became of it, and whether it was really made or only simulated."""

    case: Case
    answer: Answer | None = None
    was_made: bool = False

    @property
    def is_right(self) -> bool:
        """Whether it is what the policy says."""
        return self.answer is None or self.answer.to_action() == self.case.expected

    def to_text(self) -> str:
        """What is wrong with it."""
        case = self.case
        args = ", ".join(map(_format, case.args))
        spoilt = f" with argument {case.spoilt} spoilt" if case.spoilt is not None else ""
        return f"{case.call}({args}){spoilt} must be {case.expected}, was {self.answer}"


def _format(value: int) -> str:
    return hex(value) if value < 1 << 63 else f"-{(1 << 64) - value:#x}"


@dataclass
class Tried:
    """One rule, or the default."""

    title: str
    action: str
    made: int = 0
    simulated: int = 0
    never: list[str] = field(default_factory=list)
    """calls for which some alternative is never looked at: earlier ones leave nothing to it"""
    wrong: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        """How it went."""
        if self.wrong:
            return "WRONG"
        if self.made:
            return "ok"
        return "simulated" if self.simulated else "untried"

    def to_text(self) -> str:
        """A line, and one for each answer that is wrong."""
        counts = [f"{self.made} made"] if self.made else []
        counts += [f"{self.simulated} simulated"] if self.simulated else []
        counts += [f"never reached: {', '.join(self.never)}"] if self.never else []
        count = "; ".join(counts) or "libseccomp knows no such call here"
        lines = [f"{self.word:9}  {self.action:15}  {self.title} ({count})"]
        return "\n".join([*lines, *(f"           {each}" for each in self.wrong[:MOST_WRONG])])


@dataclass(frozen=True)
class Report:
    """All rules in their order, the default last."""

    policy: str
    tried: Sequence[Tried]

    @property
    def ok(self) -> bool:
        """Whether every call was decided as the policy says."""
        return not any(each.wrong for each in self.tried)

    def count(self) -> dict[str, int]:
        """The sums."""
        return {
            "rules": len(self.tried) - 1,
            "made": sum(each.made for each in self.tried),
            "simulated": sum(each.simulated for each in self.tried),
            "never": sum(len(each.never) for each in self.tried),
            "wrong": sum(len(each.wrong) for each in self.tried),
        }

    def to_text(self) -> str:
        """For people: a line to a rule, the sums at the end."""
        counts = self.count()
        sums = (
            f"{self.policy}: {counts['rules']} rules and the default: {counts['made']} calls made, "
            f"{counts['simulated']} simulated, {counts['wrong']} wrong"
        )
        if counts["never"]:
            sums += f", {counts['never']} alternatives never reached"
        return "\n".join([*(each.to_text() for each in self.tried), sums])

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rules = [
            {
                "calls": each.title,
                "action": each.action,
                "outcome": each.word.lower(),
                "made": each.made,
                "simulated": each.simulated,
                "never": each.never,
                "wrong": each.wrong,
            }
            for each in self.tried
        ]
        return {"policy": self.policy, "ok": self.ok, **self.count(), "tried": rules}


def make_report(policy: str, ruleset: Ruleset, outcomes: Sequence[Outcome]) -> Report:
    """The outcomes, each under its rule."""
    tried = [Tried(_name(rule.calls), rule.action) for rule in ruleset.rules]
    tried.append(Tried("every other call", ruleset.default))
    for outcome in outcomes:
        own = tried[-1 if outcome.case.rule is None else outcome.case.rule]
        if outcome.answer is None:
            own.never.append(outcome.case.call)
            continue
        own.made += outcome.was_made
        own.simulated += not outcome.was_made
        if not outcome.is_right:
            own.wrong.append(outcome.to_text())
    return Report(policy, tried)


def _name(calls: Sequence[str]) -> str:
    more = f" and {len(calls) - MOST_NAMES} more" if len(calls) > MOST_NAMES else ""
    return ", ".join(calls[:MOST_NAMES]) + more
