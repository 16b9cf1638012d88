"""Bytes of one direction that wait to be judged. Pure.

Who judges is a generator: it yields when it can't go on before there is more to read.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final, TypeVar

from jail.egress.name import Cut, Unclear

MAX_HELD_BYTES: Final = 64 * 1024

T = TypeVar("T")
Steps = Generator[None, None, T]


class Held:
    """What has come and hasn't gone; ``at`` is how far it was read."""

    def __init__(self) -> None:
        self.is_ended = False
        self.at = 0
        self._data = b""
        self._passed = 0

    def add(self, data: bytes) -> None:
        """More has come."""
        self._data = self._data + data if self._data else data

    def collect(self) -> bytes:
        """What may go now; whoever sends a lot and is let through has it copied nowhere."""
        ready = self._data[: self._passed]
        self._data = self._data[self._passed :]
        self.at -= self._passed
        self._passed = 0
        return ready

    def __len__(self) -> int:
        """How much is there to be read."""
        return len(self._data) - self.at

    def peek(self, size: int) -> bytes:
        """The next bytes, at most so many; they stay."""
        return self._data[self.at : self.at + size]

    def find(self, pattern: re.Pattern[bytes], start: int, end: int) -> tuple[int, int] | None:
        """Where the first match between these offsets is; all from where it is read."""
        match = pattern.search(self._data, self.at + start, self.at + end)
        return match and (match.start() - self.at, match.end() - self.at)

    def take(self, size: int) -> bytes:
        """Reads; what was read doesn't go yet."""
        taken = self.peek(size)
        self.at += len(taken)
        if self.at - self._passed > MAX_HELD_BYTES:
            raise Unclear(f"who is meant isn't said in {MAX_HELD_BYTES} bytes")
        return taken

    def pass_read(self) -> None:
        """All that was read may go."""
        self._passed = self.at

    def skip(self, size: int) -> int:
        """Reads and lets go, at most so much as there is: how much."""
        size = min(size, len(self))
        self.at += size
        self.pass_read()
        return size


def wait_for(held: Held, size: int) -> Steps[None]:
    """Until so much is there."""
    while len(held) < size:
        yield from wait(held)


def wait(held: Held) -> Steps[None]:
    """Until there is more, which there has to be."""
    if held.is_ended:
        raise Cut("it ends before it has said who is meant")
    yield


def find(held: Held, pattern: re.Pattern[bytes], most: int) -> Steps[tuple[int, int] | None]:
    """Where the first match in so many bytes is, once it is there; None if they are without.

    Matches are of at most eight bytes. What was searched isn't searched again: it may come in
    pieces of one byte.
    """
    seen = 0
    while (found := held.find(pattern, max(seen - 7, 0), most)) is None:
        seen = len(held)
        if seen >= most:
            return None
        yield from wait(held)
    return found


def skip(held: Held, size: int) -> Steps[None]:
    """Lets so much go, as it comes. If it ends before, whoever gets it has less than a whole."""
    size -= held.skip(size)
    while size and not held.is_ended:
        yield
        size -= held.skip(size)
