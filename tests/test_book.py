"""The log of a run: everything is counted once, and whatever a program does, it stays small."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.egress.book import MAX_ENTRIES, MAX_NAME_CHARS, Account, Book, Key, Log
from jail.egress.share import MIN, PART, Share, make_share
from jail.network.use import Attempt

pytestmark = pytest.mark.beside

SITE = Key("tcp", True, "site.test", "203.0.113.10", 443, "--allow site.test", "")


def read(log: Log) -> list[Attempt]:
    return list(log.make_use("filtered").attempts)


def make_attempt(key: Key = SITE, **counts: Any) -> Attempt:
    return Attempt(**key._asdict(), **counts)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def book(log: Log) -> Book:
    return Book(lambda: [log])


def test_the_same_is_counted_and_the_other_is_told_apart(log: Log, book: Book) -> None:
    for _ in range(3):
        book.note(SITE).add(10, 100)
    book.note(SITE._replace(port=80))
    assert read(log) == [
        make_attempt(count=3, sent_bytes=30, received_bytes=300),
        make_attempt(SITE._replace(port=80)),
    ]
    assert not log.make_use("filtered").partial


def test_what_another_run_does_is_in_its_own_log() -> None:
    first, second = Log(), Log()
    running = [first]
    book = Book(lambda: running)
    account = book.note(SITE)
    running[:] = [second]
    account.add(1, 2)
    book.note(SITE)
    running.append(first)
    both = book.note(SITE._replace(port=80))
    assert read(first) == [
        make_attempt(sent_bytes=1, received_bytes=2),
        make_attempt(SITE._replace(port=80)),
    ]
    assert read(second) == [make_attempt(), make_attempt(SITE._replace(port=80))]
    assert account.is_of(first) and not account.is_of(second)
    assert both.is_of(first) and both.is_of(second) and not both.is_of(Log())


def test_a_log_holds_so_many_and_says_that_there_was_more(log: Log, book: Book) -> None:
    for number in range(MAX_ENTRIES):
        book.note(SITE._replace(address=str(number)))
    assert not log.make_use("filtered").partial
    lost = book.note(SITE._replace(address="one more"))
    lost.add(5, 5)
    lost.hear(["name.test"])
    lost.refuse("name.test", "no rule", "")
    book.note(SITE._replace(address="7")).add(1, 1)
    use = log.make_use("filtered")
    assert use.partial and len(use.attempts) == MAX_ENTRIES
    assert use.attempts[7].count == 2 and use.attempts[7].sent_bytes == 1
    assert "one more" not in {each.address for each in use.attempts}


def test_who_found_no_room_takes_nobody_s_place(log: Log, book: Book) -> None:
    """An entry of the same key that came later, when there was room again, isn't his."""
    kept = [book.note(SITE._replace(address=str(n))) for n in range(MAX_ENTRIES)]
    lost = book.note(SITE)
    kept[0].hear(["spoken.test"])
    kept[1].refuse("", "no rule", "")
    kept[1].refuse("", "no rule", "")
    del log.entries[next(iter(log.entries))]
    book.note(SITE)
    lost.refuse("other.test", "no rule", "")
    assert make_attempt() in read(log)


def test_a_name_is_no_longer_than_names_are(log: Log, book: Book) -> None:
    account = book.note(SITE._replace(name="a" * 70000))
    account.hear(["b" * 70000])
    account.refuse("c" * 70000, "no rule", "")
    assert {len(each.name) for each in read(log)} == {MAX_NAME_CHARS}
    book.note(SITE).hear(["d" * 70000])
    assert len(read(log)[-1].spoken) == MAX_NAME_CHARS


def test_what_is_spoken_is_told_where_it_is_another_name(log: Log, book: Book) -> None:
    account = book.note(SITE)
    account.hear(["site.test"])
    assert read(log) == [make_attempt()]
    account = book.note(SITE)
    account.hear(["www.site.test"])
    account.add(7, 8)
    account.hear(["www.site.test"])
    spoken = SITE._replace(spoken="www.site.test")
    assert read(log) == [make_attempt(), make_attempt(spoken, sent_bytes=7, received_bytes=8)]


def test_each_further_name_counts_once_and_takes_no_bytes(log: Log, book: Book) -> None:
    account = book.note(SITE)
    account.hear(["a.test"])
    account.add(1, 1)
    for names in (["a.test", "b.test"], ["a.test", "b.test"], ["a.test", "b.test", "c.test"]):
        account.hear(names)
        account.add(1, 1)
    assert read(log) == [
        make_attempt(SITE._replace(spoken="a.test"), sent_bytes=4, received_bytes=4),
        make_attempt(SITE._replace(spoken="b.test")),
        make_attempt(SITE._replace(spoken="c.test")),
    ]


def test_what_is_refused_later_was_not_allowed(log: Log, book: Book) -> None:
    others = book.note(SITE)
    others.add(3, 4)
    book.note(SITE).refuse("two.test", "no rule allows this name", "--allow two.test:443")
    refused = SITE._replace(
        allowed=False,
        name="two.test",
        reason="no rule allows this name",
        remedy="--allow two.test:443",
    )
    assert read(log) == [
        make_attempt(sent_bytes=3, received_bytes=4),
        make_attempt(refused),
    ]


ACTS = st.sampled_from(("add", "hear", "refuse", "note"))


@given(st.lists(st.tuples(ACTS, st.integers(0, 3)), max_size=40))
def test_no_byte_is_lost_or_counted_twice(acts: list[tuple[str, int]]) -> None:
    log = Log()
    book, sent = Book(lambda: [log]), 0
    accounts: list[Account] = [book.note(SITE)]
    for act, number in acts:
        account = accounts[number % len(accounts)]
        if act == "add":
            account.add(number, 1)
            sent += number
        elif act == "hear":
            account.hear([f"{n}.test" for n in range(number)])
        elif act == "refuse":
            account.refuse(f"{number}.test", "no rule", "")
        else:
            accounts.append(book.note(SITE._replace(port=number)))
    told = read(log)
    assert sum(each.sent_bytes for each in told) == sent
    assert all(each.count >= 0 for each in told)
    assert sum(each.count for each in told) >= len(accounts)


def test_the_order_is_of_the_first_times(log: Log, book: Book) -> None:
    for port in (3, 1, 2, 1, 3):
        book.note(SITE._replace(port=port))
    assert [each.port for each in read(log)] == [3, 1, 2]


@pytest.mark.parametrize(
    ("limit", "share"),
    [
        (-1, Share()),
        (1 << 20, Share()),
        (1024, Share(*[1024 // PART] * 4)),
        (64, Share(MIN, MIN, MIN, MIN)),
    ],
)
def test_one_jail_takes_a_part_of_what_may_be_open(limit: int, share: Share) -> None:
    assert make_share(limit) == share
    if limit >= 1024:
        descriptors = 2 * share.relays + 2 * share.pending + share.flows + share.streams
        assert descriptors < limit


def test_an_attempt_is_plain_data(log: Log, book: Book) -> None:
    book.note(SITE)
    told: dict[str, Any] = read(log)[0].to_json()
    assert Attempt(**told) == read(log)[0] == replace(read(log)[0])


def test_runs_that_have_tried_the_same_are_still_two() -> None:
    """Also when they have tried nothing: what ends one must not end the other's log."""
    one, two = Log(), Log()
    logs = [one, two]
    logs.remove(two)
    assert logs[0] is one


def test_an_account_that_moves_is_counted_once_in_each_run() -> None:
    one, two = Log(), Log()
    account = Book(lambda: [one]).note(SITE)
    account.add(1, 0)
    for _ in range(2):
        account.move([one, two])
        account.add(2, 0)
    account.move([two])
    account.add(4, 0)
    assert read(one) == [make_attempt(sent_bytes=5)]
    assert read(two) == [make_attempt(sent_bytes=8)]
