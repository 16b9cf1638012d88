"""The log of a run's network: what is counted together, and how much of it there can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jail.egress.book import MAX_ENTRIES, MAX_NAME_CHARS, Book, Key, Log
from jail.network.use import Attempt


def make_key(name: str = "a.org", port: int = 443, allowed: bool = True) -> Key:
    return Key("tcp", allowed, name, "198.51.100.1", port, "--allow a.org", "")


def list_attempts(log: Log) -> tuple[Attempt, ...]:
    return log.make_use("filtered").attempts


def test_the_same_is_counted_in_one() -> None:
    log = Log()
    book = Book(lambda: [log])
    for _ in range(3):
        book.note(make_key()).add(10, 1)
    book.note(make_key("b.org"))
    first, second = list_attempts(log)
    assert (first.name, first.count, first.sent_bytes, first.received_bytes) == ("a.org", 3, 30, 3)
    assert (second.name, second.count, second.sent_bytes) == ("b.org", 1, 0)


def test_every_run_that_goes_on_has_it_in_its_log() -> None:
    one, two = Log(), Log()
    logs = [one]
    book = Book(lambda: logs)
    early = book.note(make_key())
    logs.append(two)
    book.note(make_key("b.org"))
    early.add(5, 0)
    assert [each.name for each in list_attempts(one)] == ["a.org", "b.org"]
    assert [each.name for each in list_attempts(two)] == ["b.org"]
    assert list_attempts(one)[0].sent_bytes == 5


def test_another_name_that_is_spoken_is_kept_beside_the_one_that_opened() -> None:
    log = Log()
    account = Book(lambda: [log]).note(make_key())
    account.hear([])
    for _ in range(2):
        account.hear(["hidden.org"])
    account.add(7, 0)
    (attempt,) = list_attempts(log)
    assert (attempt.name, attempt.spoken) == ("a.org", "hidden.org")
    assert (attempt.count, attempt.sent_bytes) == (1, 7)


def test_each_name_that_is_spoken_over_one_connection_is_written_down_once() -> None:
    log = Log()
    account = Book(lambda: [log]).note(make_key())
    for names in (["a.org"], ["a.org", "b.org"], ["a.org", "b.org", "a.org", "c.org"]):
        account.hear(names)
    account.add(7, 0)
    told = [(each.spoken, each.count, each.sent_bytes) for each in list_attempts(log)]
    assert told == [("", 1, 7), ("b.org", 1, 0), ("c.org", 1, 0)]


def test_what_turned_out_to_be_refused_is_no_longer_allowed() -> None:
    log = Log()
    book = Book(lambda: [log])
    book.note(make_key())
    book.note(make_key()).refuse("hidden.org", "no rule allows this name", "--allow hidden.org:443")
    allowed, refused = list_attempts(log)
    assert (allowed.name, allowed.allowed, allowed.count) == ("a.org", True, 1)
    assert (refused.name, refused.allowed, refused.count) == ("hidden.org", False, 1)
    assert refused.remedy == "--allow hidden.org:443"


def test_a_log_has_an_end_and_says_so() -> None:
    log = Log()
    book = Book(lambda: [log])
    for port in range(MAX_ENTRIES + 10):
        book.note(make_key(port=port)).add(1, 1)
    assert len(list_attempts(log)) == MAX_ENTRIES
    assert log.make_use("filtered").partial
    book.note(make_key("x" * 10_000, port=0))
    assert all(len(each.name) <= MAX_NAME_CHARS for each in list_attempts(log))
    book.note(make_key(port=1))
    assert list_attempts(log)[1].count == 2, "what is there is counted on"


def test_who_found_no_room_takes_nobody_s_place() -> None:
    log = Log()
    book = Book(lambda: [log])
    first = book.note(make_key("first"))
    for port in range(MAX_ENTRIES - 1):
        book.note(make_key(port=port))
    late = book.note(make_key("late"))
    first.refuse("first", "x", "")
    del log.entries[make_key(port=5)]
    book.note(make_key("late"))
    late.refuse("late", "x", "")
    assert (
        sum(each.count for each in list_attempts(log) if each.name == "late" and each.allowed) == 1
    )


moves = st.lists(
    st.tuples(
        st.sampled_from(["note", "add", "hear", "refuse"]),
        st.integers(0, 5),
        st.sampled_from(["a.org", "b.org", ""]),
    ),
    max_size=30,
)


@given(moves)
def test_no_byte_and_no_attempt_is_lost_or_counted_twice(made: list[tuple[str, int, str]]) -> None:
    log = Log()
    book = Book(lambda: [log])
    accounts, sent = [book.note(make_key())], 0
    for what, which, name in made:
        account = accounts[which % len(accounts)]
        if what == "note":
            accounts.append(book.note(make_key(name)))
        elif what == "add":
            account.add(3, 0)
            sent += 3
        elif what == "hear":
            account.hear([name])
        else:
            account.refuse(name, "refused", "")
    attempts = list_attempts(log)
    assert sum(each.count for each in attempts) == len(accounts)
    assert sum(each.sent_bytes for each in attempts) == sent
    assert all(each.count >= 0 for each in attempts)


def test_runs_that_have_tried_the_same_are_still_two() -> None:
    """Also when they have tried nothing: what ends one must not end the other's log."""
    one, two = Log(), Log()
    logs = [one, two]
    logs.remove(two)
    assert logs[0] is one


def test_an_account_that_moves_is_counted_once_in_each_run() -> None:
    one, two = Log(), Log()
    account = Book(lambda: [one]).note(make_key())
    account.add(1, 0)
    for _ in range(2):
        account.move([one, two])
        account.add(2, 0)
    account.move([two])
    account.add(4, 0)
    (first,), (second,) = list_attempts(one), list_attempts(two)
    assert (first.count, first.sent_bytes) == (1, 5)
    assert (second.count, second.sent_bytes) == (1, 8)
