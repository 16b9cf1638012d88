"""Why a filter refused a call: the same decision once more, with its reason."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from jail.policy.rule import Target

if TYPE_CHECKING:
    from jail.policy.load import Policy
    from jail.policy.rule import Decision

NO_RULE: Final = "no rule of it names this call, and all that is unknown is refused"


class Ruling(NamedTuple):
    """``errno`` is 0 where the call is to be made or the process to be ended."""

    call: str
    action: str
    policy: str
    why: str
    errno: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is the same for all calls that are counted together."""
        return self.call, self.action, self.policy, self.why


class Judge:
    """Of one policy on this machine. Parses it, and loads libseccomp, when first asked."""

    def __init__(self, policy: Policy, target: Target) -> None:
        self._policy = policy
        self._target = target
        self._names: dict[int, str] = {}

    def rule(self, nr: int, args: Sequence[int]) -> Ruling:
        """For a call by its number on the machine's own ABI."""
        call = self._find_name(nr)
        decision = self._policy.read_rules(self._target).decide(self._target, call, args)
        action = decision.action
        code = getattr(errno, action) if action.startswith("E") else 0
        return Ruling(call, action, *self._explain(decision), code)

    def _explain(self, decision: Decision) -> tuple[str, str]:
        if decision.rule is None:
            return self._policy.name, NO_RULE
        return decision.rule.policy or self._policy.name, decision.rule.why

    def _find_name(self, nr: int) -> str:
        if nr not in self._names:
            from jail.policy.number import call_name

            self._names[nr] = call_name(nr, self._target.machine) or f"syscall_{nr}"
        return self._names[nr]
