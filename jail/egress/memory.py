"""What was answered and still holds, with the time it has left. Pure: the clock is the caller's."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dns.rdatatype import RdataType

from jail.egress.outcome import MIN_LIFETIME_S, Outcome

Key = tuple[str, RdataType]

MAX_REMEMBERED: Final = 512
MAX_BYTES: Final = 4096
"""of an answer; a longer one is asked for anew each time"""


class Memory:
    """Bounded: the oldest is forgotten for the newest."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._known: dict[Key, tuple[Outcome, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def put(self, key: Key, outcome: Outcome, now_s: float) -> None:
        """A failure isn't known, it is tried again."""
        self._known.pop(key, None)
        if outcome.failure or measure(outcome) > MAX_BYTES:
            return
        if len(self._known) >= self._max_remembered:
            del self._known[next(iter(self._known))]
        self._known[key] = (outcome, now_s + outcome.lifetime_s)

    def find(self, key: Key, now_s: float) -> Outcome | None:
        """With the lifetime that is left: at least the least there is, as for an answer that comes
        with less. Elsewise its addresses would shut before the program has used them.
        """
        outcome, until_s = self._known.get(key, (None, 0.0))
        if outcome is None:
            return None
        if now_s >= until_s:
            del self._known[key]
            return None
        return replace(outcome, lifetime_s=max(until_s - now_s, MIN_LIFETIME_S))


def measure(outcome: Outcome) -> int:
    """Its records' size, about, in bytes."""
    rdatas = [rdata for each in outcome.records for rdata in each.rdatas]
    return sum(len(rdata.to_wire() or b"") for rdata in rdatas)
