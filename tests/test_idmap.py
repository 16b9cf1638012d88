"""The id maps: valid for the kernel, strangers to each other, and who is who in them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.idmap import (
    OUTER_USER_ID,
    OVERFLOW_ID,
    SLICE_IDS,
    Extent,
    IdMap,
    Map,
    count_slices,
    format_map,
    make_outer_map,
    make_single,
    make_slice,
)
from jail.subid import IdRange

pytestmark = pytest.mark.beside

MAX_EXTENTS = 340  # user_namespaces(7), since Linux 4.15
MAX_ID = 2**32 - 2
FREE = range(100_000, 2**31)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[IdRange, ...]:
    """Disjoint, in any order, of any length: what an administrator may have granted."""
    found, start = [], FREE.start
    for gap, count in draw(
        st.lists(st.tuples(st.integers(0, 300), st.integers(1, 3000)), min_size=1, max_size=5)
    ):
        found.append(IdRange(start + gap, count))
        start += gap + count
    return tuple(draw(st.permutations(found)))


ids = st.one_of(
    st.integers(0, MAX_ID), st.sampled_from([0, 1, 253, 254, 255, 256, 1000, OVERFLOW_ID, MAX_ID])
)
pairs = st.tuples(ids, ids)
slots = st.integers(0, 10_000)


def cover(extents: Map, *, outside: bool) -> list[tuple[int, int]]:
    """(first, last) of every line, sorted."""
    return sorted(
        (start, start + each.count - 1)
        for each in extents
        for start in [each.outside if outside else each.inside]
    )


def overlaps(spans: list[tuple[int, int]]) -> bool:
    return any(left[1] >= right[0] for left, right in pairwise(spans))


def assert_valid(extents: Map) -> None:
    """What the kernel demands: user_namespaces(7), “Defining user and group ID mappings”."""
    assert 0 < len(extents) <= MAX_EXTENTS
    assert all(each.count > 0 for each in extents)
    for outside in (False, True):
        spans = cover(extents, outside=outside)
        assert not overlaps(spans), extents
        assert spans[0][0] >= 0
        assert spans[-1][1] <= MAX_ID, "4294967295 is nobody's id"
    assert len(format_map(extents)) < 4096, "the kernel takes less than a page"


def assert_maps_into(extents: Map, outer: Map) -> None:
    """Each line within one line of the outer map; across two, write(2) answers EPERM."""
    for each in extents:
        last = each.outside + each.count - 1
        assert any(o.inside <= each.outside and last < o.inside + o.count for o in outer), (
            f"{each} lies in no one line of {outer}"
        )


def translate(extents: Map, inside: int) -> int | None:
    for each in extents:
        if each.inside <= inside < each.inside + each.count:
            return each.outside + inside - each.inside
    return None


@given(st.integers(0, 60_000), ranges())
def test_the_outer_map_is_valid_and_of_the_user_and_the_granted_ids_only(
    own: int, granted: tuple[IdRange, ...]
) -> None:
    outer = make_outer_map(own, granted)
    assert_valid(outer)
    assert outer[0] == Extent(OUTER_USER_ID, own, 1)
    for each in outer[1:]:
        last = each.outside + each.count - 1
        assert any(each.outside in r and last in r for r in granted)


@given(st.integers(0, 60_000), ranges(), ranges(), pairs, st.one_of(st.none(), pairs), st.data())
def test_every_slice_lies_whole_in_what_was_granted(
    own: int,
    uids: tuple[IdRange, ...],
    gids: tuple[IdRange, ...],
    program: tuple[int, int],
    user_as: tuple[int, int] | None,
    data: st.DataObject,
) -> None:
    count = count_slices(uids, gids)
    total = min(sum(r.count for r in granted) for granted in (uids, gids))
    assert count <= total // SLICE_IDS
    if count == 0:
        return
    slot = data.draw(st.one_of(st.integers(0, count - 1), st.just(count - 1)))
    made = make_slice(slot, program, user_as)
    assert_maps_into(made.uids, make_outer_map(own, uids))
    assert_maps_into(made.gids, make_outer_map(own, gids))


def test_a_slice_never_lies_across_two_granted_ranges() -> None:
    granted = (IdRange(100_000, 1000), IdRange(300_000, 1000))
    outer = make_outer_map(1000, granted)
    assert count_slices(granted, granted) == 6
    for slot in range(6):
        assert_maps_into(make_slice(slot, (1000, 1000), None).uids, outer)


def test_ranges_shorter_than_a_slice_give_none() -> None:
    crumbs = tuple(IdRange(100_000 + 1000 * n, SLICE_IDS - 1) for n in range(9))
    plenty = (IdRange(500_000, 65_536),)
    assert count_slices(crumbs, crumbs) == count_slices(crumbs, plenty) == 0
    assert count_slices((), plenty) == count_slices(plenty, ()) == 0
    assert count_slices(plenty, plenty) == 256
    assert make_outer_map(7, crumbs) == (Extent(0, 7, 1),)


@given(slots, slots, pairs, pairs, st.one_of(st.none(), pairs), st.one_of(st.none(), pairs))
def test_two_slots_share_no_id_but_the_user_s_own(
    one: int,
    other: int,
    program: tuple[int, int],
    other_program: tuple[int, int],
    user_as: tuple[int, int] | None,
    other_as: tuple[int, int] | None,
) -> None:
    if one == other:
        return
    a, b = make_slice(one, program, user_as), make_slice(other, other_program, other_as)
    for mine, theirs in ((a.uids, b.uids), (a.gids, b.gids)):
        strangers = [each for each in (*mine, *theirs) if each.outside != OUTER_USER_ID]
        assert not overlaps(cover(tuple(strangers), outside=True))


@given(slots, pairs, st.one_of(st.none(), pairs))
def test_a_slice_is_valid_and_has_root_nobody_and_the_program(
    slot: int, program: tuple[int, int], user_as: tuple[int, int] | None
) -> None:
    made = make_slice(slot, program, user_as)
    assert made.drops_groups
    assert (made.program, made.builder) == (program, (0, 0))
    for kind, extents in enumerate((made.uids, made.gids)):
        assert_valid(extents)
        for inside in (0, program[kind], OVERFLOW_ID):
            assert translate(extents, inside) is not None
        as_user = None if user_as is None else user_as[kind]
        users = [each for each in extents if each.outside == OUTER_USER_ID]
        assert users == ([] if as_user is None else [Extent(as_user, OUTER_USER_ID, 1)])


@given(slots, pairs)
def test_unless_asked_no_id_inside_is_the_user(slot: int, program: tuple[int, int]) -> None:
    made = make_slice(slot, program, None)
    for extents in (made.uids, made.gids):
        assert min(each.outside for each in extents) > OUTER_USER_ID


@given(st.integers(0, MAX_ID), st.integers(0, MAX_ID), pairs)
def test_single_is_one_id_and_drops_no_groups(uid: int, gid: int, program: tuple[int, int]) -> None:
    made = make_single(uid, gid, program)
    expected = ((Extent(program[0], uid, 1),), (Extent(program[1], gid, 1),))
    assert made == IdMap(*expected, program=program, builder=program, drops_groups=False)


@pytest.mark.parametrize("inside", [0, 1, 100, 253, 254, 1000, OVERFLOW_ID, 70_000])
def test_an_id_that_is_the_user_is_cut_out_of_the_slice(inside: int) -> None:
    plain = make_slice(3, (1000, 1000), None).uids
    cut = make_slice(3, (1000, 1000), (inside, inside)).uids
    assert translate(cut, inside) == OUTER_USER_ID
    for other in {0, 1, 99, 101, 253, 1000, OVERFLOW_ID} - {inside}:
        assert translate(cut, other) == translate(plain, other)


def test_a_map_is_written_as_the_kernel_reads_it() -> None:
    assert format_map((Extent(0, 1, 254), Extent(1000, 255, 1))) == b"0 1 254\n1000 255 1\n"
