"""What a program was refused, in the words of whoever has to understand it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

MAX_ENTRIES: Final = 256
MAX_EXAMPLES: Final = 4


@dataclass(frozen=True)
class Denied:
    """Calls that one rule of the policy decided, ``count`` of them.

    ``action`` is the errno's name, or ``kill``; in ``Result.noted`` it is ``notify``: those calls
    were made. ``examples`` are a few of them with their arguments as the program had them; what
    stands between quotes there is the program's word. ``why`` is the reason that the rule gives.
    """

    call: str
    action: str
    policy: str
    why: str
    count: int
    examples: tuple[str, ...]
    args: tuple[int, ...] = field(default=(), repr=False)
    """of the first one: what its registers held"""

    @property
    def remedy(self) -> str:
        """The option that would allow it. Reads the shipped policies."""
        from jail.policy.remedy import find_remedy

        return find_remedy(self.call, self.args, self.policy)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "call": self.call,
            "action": self.action,
            "policy": self.policy,
            "why": self.why,
            "count": self.count,
            "examples": list(self.examples),
            "remedy": self.remedy,
        }


FOREIGN: Final = Denied(
    call="(foreign)",
    action="kill",
    policy="",
    why="system calls of another ABI (i386, x32, 32-bit arm) end the program under every policy",
    count=1,
    examples=("a call of another ABI, or a SIGSYS that it sent itself",),
)


UNHEARD: Final = Denied(
    call="(unknown)",
    action="kill",
    policy="",
    why="the policy ends programs for some calls, and every policy for those of another ABI",
    count=1,
    examples=("a call that nobody could hear of, or a SIGSYS that it sent itself",),
)


@dataclass
class _Entry:
    count: int
    args: tuple[int, ...]
    examples: list[str]


class Ledger:
    """Counts the refusals of one run; its size is bounded, whatever the program does."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, str, str], _Entry] = {}
        self.was_first_ended = False
        """the run's first process was, for a call"""
        self.is_full = False
        """some were left out"""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def note(
        self,
        key: tuple[str, str, str, str],
        args: tuple[int, ...],
        describe: Callable[[], str],
        count: int = 1,
    ) -> None:
        """So many more of (call, action, policy, why); ``describe`` is asked for the first ones."""
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= MAX_ENTRIES:
                self.is_full = True
                return
            entry = self._entries[key] = _Entry(0, args, [])
        is_early = entry.count < 4 * MAX_EXAMPLES
        entry.count += count
        if len(entry.examples) < MAX_EXAMPLES and is_early:
            text = describe()
            if text not in entry.examples:
                entry.examples.append(text)

    @property
    def was_ended(self) -> bool:
        """A process was ended for a call."""
        return any(action == "kill" for _, action, _, _ in self._entries)

    def list_denied(
        self, ended_by: int | None = None, hears_kills: bool = True
    ) -> tuple[Denied, ...]:
        """What was refused, in the order of the first times.

        No listener hears of a call of a foreign ABI: if that was it, the signal tells. Where
        there is none, that is all that is known of any call that ends a program.
        """
        found = tuple(each for each in self._list() if each.action != "notify")
        if ended_by == signal.SIGSYS and not self.was_ended:
            return (*found, FOREIGN if hears_kills else UNHEARD)
        return found

    def list_noted(self) -> tuple[Denied, ...]:
        """What was made and is to be told of."""
        return tuple(each for each in self._list() if each.action == "notify")

    def _list(self) -> list[Denied]:
        return [
            Denied(*key, entry.count, tuple(entry.examples), entry.args)
            for key, entry in self._entries.items()
        ]
