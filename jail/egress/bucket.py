"""How often something may happen. Pure: the clock is the caller's."""

from __future__ import annotations


class Bucket:
    """So many a second in the long run, and ``burst`` of them at once."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._left: float = burst
        self._seen_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one more may happen now."""
        if self._seen_s is not None:
            more = max(0.0, now_s - self._seen_s) * self._per_s
            self._left = min(self._burst, self._left + more)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
