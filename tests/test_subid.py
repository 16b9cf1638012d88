"""/etc/subuid and /etc/subgid are read strictly: a doubt is never a range.

Catalogue: UM-01, UM-02.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail import subid
from jail.subid import (
    ID_LIMIT,
    IdRange,
    Subids,
    find_free_range,
    parse_getsubids,
    parse_nsswitch,
    parse_range,
    parse_subid,
    subtract_ranges,
)

pytestmark = pytest.mark.beside

ALICE = "alice:100000:65536"


def parse(text: str) -> Subids:
    return parse_subid(text, user="alice", uid=1000, own_id=1000)


def test_a_range_belongs_to_the_user_by_name_or_by_number() -> None:
    assert parse(ALICE).ranges == (IdRange(100_000, 65_536),)
    assert parse("1000:300000:10").ranges == (IdRange(300_000, 10),)
    assert parse("bob:100000:65536\n1001:200000:65536").ranges == ()


def test_several_ranges_keep_the_order_of_the_file() -> None:
    found = parse("alice:500000:1\nbob:600000:1\n1000:400000:2\n")
    assert found.ranges == (IdRange(500_000, 1), IdRange(400_000, 2))
    assert found.warnings == ()


def test_comments_and_blank_lines_are_no_garbage() -> None:
    assert parse(f"# alice:1:1\n\n   \n{ALICE}\n") == parse(ALICE)


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:100000",
        "alice:100000:65536:1",
        "alice:100000:",
        "alice::65536",
        ":100000:65536",
        "alice:-1:65536",
        "alice:+100000:65536",
        "alice: 100000:65536",
        "alice:100000:65536 ",
        "alice:0x186a0:65536",
        "alice:0100000:65536",  # octal for strtol(3), decimal for people
        "alice:1_000_000:65536",
        "alice:\u0661\u0660\u0660\u0660\u0660\u0660:65536",  # digits that int() would take
        "alice:100000:0",
        "alice:4294967295:1",
        "alice:4294967000:296",
        "alice:99999999999999999999:1",
        "alice:100000:65536\r",
        "alice:100000:65536" + "0" * 1100,
    ],
)
def test_what_is_not_a_range_is_ignored_with_a_warning(line: str) -> None:
    found = parse(line)
    assert found.ranges == ()
    assert len(found.warnings) == 1
    assert "line 1 ignored" in found.warnings[0]


def test_the_last_usable_id_is_the_one_before_minus_one() -> None:
    assert parse("alice:4294967294:1").ranges == (IdRange(ID_LIMIT - 1, 1),)


@pytest.mark.parametrize("line", ["alice:0:65536", "alice:999:2", "alice:1000:1"])
def test_a_range_with_root_or_oneself_in_it_is_refused(line: str) -> None:
    found = parse(line)
    assert found.ranges == ()
    assert "not used" in found.warnings[0]


def test_a_range_among_real_users_is_taken_with_a_warning() -> None:
    found = parse("alice:50000:10")
    assert found.ranges == (IdRange(50_000, 10),)
    assert "real users" in found.warnings[0]


def test_ids_given_twice_are_used_once() -> None:
    found = parse("alice:100000:100\nalice:100050:100\n1000:100000:100")
    assert found.ranges == (IdRange(100_000, 100), IdRange(100_100, 50))
    assert len(found.warnings) == 2


def test_an_overlap_with_somebody_else_is_told() -> None:
    (warning,) = parse(f"{ALICE}\nbob:165535:10").warnings
    assert "overlaps 165535-165544 of 'bob'" in warning


def test_a_user_without_a_name_has_the_ranges_of_the_number_only() -> None:
    found = parse_subid("None:1:1\n:5:5\n1000:100000:5", user=None, uid=1000, own_id=1000)
    assert found.ranges == (IdRange(100_000, 5),)


def test_uids_and_gids_come_from_their_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/etc/subuid": "alice:100000:10", "/etc/subgid": "alice:300000:20"}
    monkeypatch.setattr(subid, "_read_text", lambda path: files.get(path, ""))
    uids = subid.read_subids("uid", user="alice", uid=1000, own_id=1000)
    gids = subid.read_subids("gid", user="alice", uid=1000, own_id=100)
    assert (uids.ranges, gids.ranges) == ((IdRange(100_000, 10),), (IdRange(300_000, 20),))


def test_subgid_is_keyed_by_uid_and_guards_the_gid() -> None:
    text = "1000:200000:5\n100:300000:5\nalice:99:2"
    found = parse_subid(text, user="alice", uid=1000, own_id=100, source="/etc/subgid")
    assert found.ranges == (IdRange(200_000, 5),)
    assert any("your own id 100" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", "files"),
        ("passwd: files sss\n", "files"),
        ("subid: files\n", "files"),
        ("# subid: sss\nsubid:\n", "files"),
        ("subid:\tsss files\n", "sss"),
        ("SUBID: sss", "sss"),
    ],
)
def test_nsswitch_names_who_gives_the_ids(text: str, source: str) -> None:
    assert parse_nsswitch(text) == source


def test_a_directory_service_is_asked_instead_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"/etc/nsswitch.conf": "subid: sss\n", "/etc/subuid": "alice:1:1", "/etc/subgid": ""}
    monkeypatch.setattr(subid, "_read_text", lambda path: files[path])
    program = tmp_path / "getsubids"
    program.write_text('#!/bin/sh\n[ "$1" = -g ] && start=7000000 || start=5000000\n'
                       'echo "0: alice $start 65536"\n')  # fmt: skip
    program.chmod(0o755)
    ask = {"user": "alice", "uid": 1000, "own_id": 1000, "getsubids": str(program)}
    uids, gids = subid.read_subids("uid", **ask), subid.read_subids("gid", **ask)  # type: ignore[arg-type]
    assert (uids.ranges, uids.source) == ((IdRange(5_000_000, 65_536),), "sss")
    assert gids.ranges == (IdRange(7_000_000, 65_536),)


@pytest.mark.parametrize("body", ["exit 1", "echo 0: alice 100000 65536; exit 1", "echo garbage"])
def test_a_getsubids_that_fails_or_babbles_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str
) -> None:
    monkeypatch.setattr(subid, "_read_text", lambda _: "subid: sss\n")
    program = tmp_path / "getsubids"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    found = subid.read_subids("uid", user="a", uid=1, own_id=1, getsubids=str(program))
    assert found.ranges == ()


def test_no_answer_of_getsubids_is_taken_for_more_than_it_says() -> None:
    text = "0: alice 100000 65536\n1: alice 0 10\n2: alice 5\nalice 1 2 3\n"
    found = parse_getsubids(text, own_id=1000, source="getsubids")
    assert found.ranges == (IdRange(100_000, 65_536),)
    assert len(found.warnings) == 3


def test_a_free_range_lies_in_the_first_gap_that_is_wide_enough() -> None:
    taken = [IdRange(100_000, 65_536), IdRange(165_546, 65_536)]
    assert find_free_range(taken) == IdRange(231_082, 65_536)
    assert find_free_range(taken, count=10) == IdRange(165_536, 10)
    assert find_free_range([]) == IdRange(100_000, 65_536)
    assert find_free_range([IdRange(100_000, ID_LIMIT - 100_000)]) is None


ids = st.integers(min_value=0, max_value=2**33)
owners = st.sampled_from(["alice", "bob", "1000", "1001", ""])
lines = st.one_of(st.text(max_size=40), st.builds("{}:{}:{}".format, owners, ids, ids))
ranges = st.builds(IdRange, st.integers(1, 60), st.integers(1, 20))


@given(st.text())
def test_any_text_parses(text: str) -> None:
    parse(text)


@given(st.lists(lines).map("\n".join))
def test_every_range_found_is_usable(text: str) -> None:
    found = parse(text).ranges
    for number, each in enumerate(found):
        assert each.count > 0
        assert each.start > 0
        assert each.end <= ID_LIMIT
        assert 1000 not in each
        assert not any(each.overlaps(other) for other in found[:number])


@given(st.lists(lines).map("\n".join))
def test_no_line_of_somebody_else_gives_us_anything(text: str) -> None:
    kept = [line for line in text.split("\n") if line.split(":")[0] not in ("alice", "1000")]
    assert parse("\n".join(kept)).ranges == ()


@given(ids, ids)
def test_a_range_is_parsed_exactly_or_not_at_all(start: int, count: int) -> None:
    found = parse_range(f"{start}:{count}")
    fits = count > 0 and start + count <= ID_LIMIT
    assert found == (IdRange(start, count) if fits else None)


@given(st.lists(ranges), st.lists(ranges))
def test_subtracting_is_what_it_is_for_sets(whole: list[IdRange], taken: list[IdRange]) -> None:
    def members(of: list[IdRange]) -> set[int]:
        return {number for each in of for number in range(each.start, each.end)}

    assert members(subtract_ranges(whole, taken)) == members(whole) - members(taken)


@given(st.lists(st.builds(IdRange, st.integers(0, 400_000), st.integers(1, 100_000))))
def test_a_free_range_is_free(taken: list[IdRange]) -> None:
    found = find_free_range(taken)
    assert found is not None
    assert found.start >= subid.FIRST_SUBID
    assert not any(found.overlaps(each) for each in taken)
