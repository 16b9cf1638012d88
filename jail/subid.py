"""Subordinate ids: which ids beside their own a user may map into a namespace.

The administrator grants them in /etc/subuid and /etc/subgid (see subuid(5)), or in a directory
service named by the ``subid:`` line of /etc/nsswitch.conf. ``newuidmap`` enforces the grant; here
it is only read, and read more strictly than ``newuidmap`` does: a number that a C library may
take for octal or hexadecimal is nobody's range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ID_LIMIT = 2**32 - 1  # the id after the last one: (uid_t)-1 means "no id" to the kernel
FIRST_SUBID = 100_000  # SUB_UID_MIN of login.defs(5); real users and systemd live below
USUAL_COUNT = 65_536
LINE_LIMIT_CHARS = 1023  # shadow ignores longer lines
GETSUBIDS_TIMEOUT_S = 5.0

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, order=True)
class IdRange:
    """``count`` ids from ``start`` on."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The first id after the range."""
        return self.start + self.count

    def __contains__(self, number: int) -> bool:
        return self.start <= number < self.end

    def overlaps(self, other: IdRange) -> bool:
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start}-{self.end - 1}"


@dataclass(frozen=True)
class Subids:
    """One user's ranges, what everybody has (to find a free range), and what looked wrong."""

    ranges: tuple[IdRange, ...] = ()
    taken: tuple[IdRange, ...] = ()
    warnings: tuple[str, ...] = ()
    source: str = "files"


@dataclass
class _Book:
    """The state of one parse."""

    source: str
    own_id: int
    mine: list[IdRange] = field(default_factory=list)
    others: list[tuple[str, IdRange]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(f"{self.source}: {text}")

    def take(self, wanted: IdRange) -> None:
        """Keeps the ids of a range that are new to us; a range with a real id in it is refused."""
        for number, whose in ((0, "root's id 0"), (self.own_id, f"your own id {self.own_id}")):
            if number in wanted:
                self.warn(f"{wanted} contains {whose}: not used")
                return
        if wanted.start < FIRST_SUBID:
            self.warn(f"{wanted} starts below {FIRST_SUBID}, among the ids of real users")
        new = subtract_ranges([wanted], self.mine)
        if new != [wanted]:
            self.warn(f"{wanted} repeats ids that an earlier line gives you")
        self.mine += new

    def close(self) -> Subids:
        for mine in self.mine:
            for owner, other in self.others:
                if mine.overlaps(other):
                    self.warn(f"{mine} overlaps {other} of {owner!r}: those jails share ids")
        taken = sorted({*self.mine, *(other for _, other in self.others)})
        return Subids(tuple(self.mine), tuple(taken), tuple(self.warnings))


def parse_subid(
    text: str, *, user: str | None, uid: int, own_id: int, source: str = "/etc/subuid"
) -> Subids:
    """The ranges that the text of /etc/subuid or /etc/subgid gives to a user.

    Both files name the owner by user name or by *uid*; ``own_id`` is the user's real id of the
    kind the file is about (uid or gid). Comments and empty lines are skipped; a line that can't
    be understood, a range without ids or beyond 2**32-2, and one that contains 0 or ``own_id``
    is left out with a warning. Of ids given twice the first line counts.
    """
    book = _Book(source, own_id)
    names = {str(uid)} if user is None else {user, str(uid)}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        owner, _, rest = line.partition(":")
        found = parse_range(rest) if owner and len(line) <= LINE_LIMIT_CHARS else None
        if found is None:
            book.warn(f"line {number} ignored: {line[:60]!r}")
        elif owner in names:
            book.take(found)
        else:
            book.others.append((owner, found))
    return book.close()


def parse_range(text: str) -> IdRange | None:
    """``"100000:65536"`` as a range; None where it is not one."""
    start, colon, count = text.partition(":")
    if not colon or not _NUMBER.fullmatch(start) or not _NUMBER.fullmatch(count):
        return None
    found = IdRange(int(start), int(count))
    return found if found.count > 0 and found.end <= ID_LIMIT else None


def parse_getsubids(text: str, *, own_id: int, source: str) -> Subids:
    """The ranges in getsubids(1)'s answer: lines of ``INDEX: USER START COUNT``."""
    book = _Book(source, own_id)
    for line in filter(str.strip, text.split("\n")):
        words = line.split()
        found = parse_range(":".join(words[2:])) if words[0].endswith(":") else None
        if found is None:
            book.warn(f"answer ignored: {line[:60]!r}")
        else:
            book.take(found)
    return book.close()


def parse_nsswitch(text: str) -> str:
    """Who gives out subordinate ids: the first word of nsswitch.conf's ``subid:`` line."""
    for line in text.split("\n"):
        if line[:6].lower() == "subid:" and line[6:].split():
            return line[6:].split()[0]
    return "files"


def subtract_ranges(ranges: Iterable[IdRange], taken: Iterable[IdRange]) -> list[IdRange]:
    """The parts of ``ranges`` that no range of ``taken`` covers, in their order."""
    left = list(ranges)
    for hole in taken:
        left = [part for whole in left for part in _cut(whole, hole)]
    return left


def find_free_range(taken: Sequence[IdRange], count: int = USUAL_COUNT) -> IdRange | None:
    """The lowest ``count`` ids from 100000 on that nobody has; None where there are none."""
    start = FIRST_SUBID
    for other in sorted(taken):
        if other.start - start >= count:
            break
        start = max(start, other.end)
    return IdRange(start, count) if start + count <= ID_LIMIT else None


def read_subids(
    kind: str, *, user: str | None, uid: int, own_id: int, getsubids: str | None = None
) -> Subids:
    """The user's ranges of this host; ``kind`` is ``"uid"`` or ``"gid"``.

    The file alone is read unless nsswitch.conf names another source: then newuidmap asks that
    source only, and so does this, through ``getsubids`` (the path of that program, if any).
    """
    path = f"/etc/sub{kind}"
    source = parse_nsswitch(_read_text("/etc/nsswitch.conf"))
    if source == "files" or getsubids is None or not user:
        return parse_subid(_read_text(path), user=user, uid=uid, own_id=own_id, source=path)
    answer = _ask_getsubids(getsubids, kind, user)
    found = parse_getsubids(answer, own_id=own_id, source=f"getsubids ({source})")
    return Subids(found.ranges, found.taken, found.warnings, source)


def _ask_getsubids(program: str, kind: str, user: str) -> str:
    import subprocess  # only on hosts with such a source: everyone else saves its import

    command = [program, *(["-g"] if kind == "gid" else []), user]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GETSUBIDS_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""


def _cut(whole: IdRange, hole: IdRange) -> list[IdRange]:
    """What of ``whole`` lies before and after ``hole``."""
    if not whole.overlaps(hole):
        return [whole]
    before = IdRange(whole.start, hole.start - whole.start)
    after = IdRange(hole.end, whole.end - hole.end)
    return [part for part in (before, after) if part.count > 0]


def _read_text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""
