"""Which addresses are open, by which names, and for how long. Pure: the clock is the caller's."""

from __future__ import annotations

from typing import Final

from jail.network.special import Address

MAX_OPENED: Final = 8192
"""pairs of a name and an address: a zone that answers everything fills no more than this"""


class Opened:
    """What allowed names were answered with. Full, it forgets what would have ended soonest."""

    def __init__(self, max_opened: int = MAX_OPENED) -> None:
        self._max_opened = max_opened
        self._until_s: dict[Address, dict[str, float]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def open(self, name: str, address: Address, until_s: float) -> None:
        """Let ``address`` be reached by ``name`` until then, or longer if it may already."""
        names = self._until_s.get(address, {})
        if name in names:
            names[name] = max(names[name], until_s)
            return
        if self._count >= self._max_opened:
            self._make_room()
        self._until_s.setdefault(address, {})[name] = until_s
        self._count += 1

    def find(self, address: Address, now_s: float) -> tuple[str, ...]:
        """The names it was answered to, as far as their time has not passed."""
        names = self._until_s.get(address, {})
        return tuple(name for name, until_s in names.items() if now_s < until_s)

    def _make_room(self) -> None:
        """A quarter at once: whoever floods pays for the looking through only now and then."""
        pairs = [
            (until_s, a, n) for a, names in self._until_s.items() for n, until_s in names.items()
        ]
        pairs.sort(key=lambda pair: pair[0])
        for _, address, name in pairs[: max(1, len(pairs) // 4)]:
            self._close(address, name)

    def _close(self, address: Address, name: str) -> None:
        names = self._until_s[address]
        del names[name]
        self._count -= 1
        if not names:
            del self._until_s[address]
