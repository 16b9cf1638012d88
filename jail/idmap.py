"""Which ids a jail has, and who they are on the host. Pure.

Two worlds: ``single`` maps one id, the invoking user's, and needs no helper. ``subuid`` gives
each jail a slice of the user's subordinate ids, cut inside an outer user namespace where id 0 is
the user and 1…N are the subordinate ids, so that the jail's own maps need no helper either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

SLICE_IDS = 256
"""Ids a jail gets: 0…253, the program's own, and 65534 (nobody)."""

OVERFLOW_ID = 65534
OUTER_USER_ID = 0


class Range(Protocol):
    """Anything with a first id and a length; :class:`jail.subid.IdRange` is one."""

    @property
    def start(self) -> int: ...
    @property
    def count(self) -> int: ...


class Extent(NamedTuple):
    """One line of ``uid_map``: user_namespaces(7)."""

    inside: int
    outside: int
    count: int


Map = tuple[Extent, ...]


class IdMap(NamedTuple):
    """A jail's maps. ``builder`` sets the jail up, ``program`` runs in it (ids inside)."""

    uids: Map
    gids: Map
    program: tuple[int, int]
    builder: tuple[int, int]
    drops_groups: bool
    """whether setgroups(2) may still be called: only a privileged writer leaves it open"""


def make_outer_map(own_id: int, ranges: Iterable[Range]) -> Map:
    """The outer namespace's map: the user as 0, the subordinate ranges behind it."""
    extents = [Extent(OUTER_USER_ID, own_id, 1)]
    for each in ranges:
        extents.append(Extent(extents[-1].inside + extents[-1].count, each.start, each.count))
    return tuple(extents)


def count_slices(uids: Iterable[Range], gids: Iterable[Range]) -> int:
    """How many jails can have ids of their own at one time."""
    return min(sum(r.count for r in uids), sum(r.count for r in gids)) // SLICE_IDS


def make_single(uid: int, gid: int, program: tuple[int, int]) -> IdMap:
    """The invoking user under the program's name, and nobody else."""
    return IdMap(
        uids=(Extent(program[0], uid, 1),),
        gids=(Extent(program[1], gid, 1),),
        program=program,
        builder=program,
        drops_groups=False,
    )


def make_slice(slot: int, program: tuple[int, int], user_as: tuple[int, int] | None) -> IdMap:
    """Slice ``slot`` of the outer namespace.

    ``user_as`` is the id inside (user, group) that is the invoking user on the host, for a
    volume written as them or a root filesystem that they own; None leaves the user unmapped.
    """
    return IdMap(
        uids=_cut_slice(slot, program[0], None if user_as is None else user_as[0]),
        gids=_cut_slice(slot, program[1], None if user_as is None else user_as[1]),
        program=program,
        builder=(0, 0),
        drops_groups=True,
    )


@functools.lru_cache(maxsize=64)
def _cut_slice(slot: int, program_id: int, user_id: int | None) -> Map:
    base = 1 + slot * SLICE_IDS
    outside = {inside: base + inside for inside in range(SLICE_IDS - 2)}
    outside.setdefault(program_id, base + SLICE_IDS - 2)
    outside.setdefault(OVERFLOW_ID, base + SLICE_IDS - 1)
    if user_id is not None:
        outside[user_id] = OUTER_USER_ID
    return _join_runs(sorted(outside.items()))


def _join_runs(pairs: Sequence[tuple[int, int]]) -> Map:
    runs: list[Extent] = []
    for inside, outside in pairs:
        last = runs[-1] if runs else None
        if last and inside == last.inside + last.count and outside == last.outside + last.count:
            runs[-1] = last._replace(count=last.count + 1)
        else:
            runs.append(Extent(inside, outside, 1))
    return tuple(runs)


def format_map(extents: Map) -> bytes:
    """The text that ``/proc/PID/uid_map`` takes, in one write."""
    return b"".join(b"%d %d %d\n" % extent for extent in extents)
