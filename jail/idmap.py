"""Which ids a jail has, and who they are on the host. Pure.

Two worlds: ``single`` maps one id, the invoking user's, and needs no helper. ``subuid`` gives
each jail a slice of the user's subordinate ids, cut inside an outer user namespace where id 0 is
the user and 1…N are the subordinate ids, so that the jail's own maps need no helper either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
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
    count: int  # type: ignore[assignment]  # a tuple's own count() is of no use here


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
    """The outer namespace's map: the user as 0, the subordinate ranges behind it.

    The kernel takes no line of a jail's map that lies across two lines of this one, so each
    range is cut to whole slices.
    """
    extents = [Extent(OUTER_USER_ID, own_id, 1)]
    for each in ranges:
        count = each.count // SLICE_IDS * SLICE_IDS
        if count > 0:
            extents.append(Extent(extents[-1].inside + extents[-1].count, each.start, count))
    return tuple(extents)


def count_slices(uids: Iterable[Range], gids: Iterable[Range]) -> int:
    """How many jails can have ids of their own at one time."""
    return min(sum(r.count // SLICE_IDS for r in ranges) for ranges in (uids, gids))


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


@functools.lru_cache(maxsize=512)
def _cut_slice(slot: int, program_id: int, user_id: int | None) -> Map:
    base = 1 + slot * SLICE_IDS
    low = SLICE_IDS - 2
    extents = [Extent(0, base, low)]
    for spare, inside in ((low, program_id), (low + 1, OVERFLOW_ID)):
        if inside >= low and inside != extents[-1].inside:
            extents.append(Extent(inside, base + spare, 1))
    if user_id is not None:
        extents = [part for each in extents for part in _without(each, user_id)]
        extents.append(Extent(user_id, OUTER_USER_ID, 1))
    return tuple(sorted(extents))


def _without(extent: Extent, inside: int) -> list[Extent]:
    """The extent with one id cut out of it."""
    before = inside - extent.inside
    if not 0 <= before < extent.count:
        return [extent]
    after = extent.count - before - 1
    parts = [
        Extent(extent.inside, extent.outside, before),
        Extent(inside + 1, extent.outside + before + 1, after),
    ]
    return [part for part in parts if part.count > 0]


def format_map(extents: Map) -> bytes:
    """The text that ``/proc/PID/uid_map`` takes, in one write."""
    return b"".join(b"%d %d %d\n" % extent for extent in extents)
