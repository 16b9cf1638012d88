"""Who tried what, counted for each run: bounded, whatever a program does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from jail.network.use import Attempt, NetworkUse, Protocol

MAX_ENTRIES: Final = 1000
MAX_NAME_CHARS: Final = 255


class Key(NamedTuple):
    """What makes two attempts the same."""

    protocol: Protocol
    allowed: bool
    name: str
    address: str
    port: int
    reason: str
    remedy: str
    spoken: str = ""


@dataclass
class Entry:
    """What was counted of one kind of attempt."""

    count: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(eq=False)
class Log:
    """Of one run; another with the same in it is another."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    is_full: bool = False

    def take(self, key: Key) -> Entry:
        """The entry of this; one that nobody sees when the log is full."""
        entry = self.entries.get(key)
        if entry is None:
            if len(self.entries) >= MAX_ENTRIES:
                self.is_full = True
                return Entry()
            entry = self.entries[key] = Entry()
        return entry

    def make_use(self, driver: str) -> NetworkUse:
        """In the order of the first times."""
        attempts = tuple(
            Attempt(**key._asdict(), **vars(entry)) for key, entry in self.entries.items()
        )
        return NetworkUse(driver=driver, attempts=attempts, partial=self.is_full)


class Account:
    """Where the bytes of one connection are counted: in every run's log that it may belong to."""

    def __init__(self, logs: Iterable[Log], key: Key) -> None:
        self._logs, self._key = tuple(logs), key
        self._heard = 0
        self._entries = self._open()

    def is_of(self, log: Log) -> bool:
        """Whether it is counted there."""
        return any(each is log for each in self._logs)

    def move(self, logs: Sequence[Log]) -> None:
        """From here on it belongs to these runs, and is counted once in each that is new."""
        if len(logs) == len(self._logs) and all(map(self.is_of, logs)):
            return
        entries = {id(log): entry for log, entry in zip(self._logs, self._entries, strict=True)}
        self._logs = tuple(logs)
        self._entries = [entries.get(id(log)) or self._count(log) for log in logs]

    def _count(self, log: Log) -> Entry:
        entry = log.take(self._key)
        entry.count += 1
        return entry

    def _open(self) -> list[Entry]:
        return [self._count(log) for log in self._logs]

    def add(self, sent_bytes: int, received_bytes: int) -> None:
        """So many more."""
        for entry in self._entries:
            entry.sent_bytes += sent_bytes
            entry.received_bytes += received_bytes

    def hear(self, names: Sequence[str]) -> None:
        """All that was called by name over it so far. Its bytes are counted by the first name."""
        for name in names[self._heard :]:
            spoken = name[:MAX_NAME_CHARS]
            if spoken not in (self._key.name, self._key.spoken):
                self._speak(self._key._replace(spoken=spoken))
            self._heard += 1

    def _speak(self, key: Key) -> None:
        if not self._heard:
            self._recount(key)
            return
        for log in self._logs:
            log.take(key).count += 1

    def refuse(self, name: str, reason: str, remedy: str) -> None:
        """It was allowed, and what was said over it is not."""
        self._recount(
            self._key._replace(
                allowed=False, name=name[:MAX_NAME_CHARS], reason=reason, remedy=remedy
            )
        )

    def _recount(self, key: Key) -> None:
        for log, entry in zip(self._logs, self._entries, strict=True):
            entry.count -= 1
            is_empty = entry.count <= 0 and not (entry.sent_bytes or entry.received_bytes)
            if is_empty and log.entries.get(self._key) is entry:
                del log.entries[self._key]
        self._key = key
        self._entries = self._open()


class Book:
    """Of one jail. ``find_logs`` gives those of the runs that go on now."""

    def __init__(self, find_logs: Callable[[], Iterable[Log]]) -> None:
        self._find_logs = find_logs

    def note(self, key: Key) -> Account:
        """One more of these."""
        return Account(self._find_logs(), key._replace(name=key.name[:MAX_NAME_CHARS]))
