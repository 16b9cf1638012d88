"""Names open addresses for a time; whoever floods shuts out nobody but himself."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from jail.egress.bucket import Bucket
from jail.egress.opened import Opened
from jail.network.special import Address

ONE = IPv4Address("192.0.2.1")
OTHER = IPv6Address("2001:db8::1")


def test_an_address_is_open_by_its_name_until_its_time_is_over() -> None:
    opened = Opened()
    opened.open("example.org", ONE, 10.0)
    assert opened.find(ONE, 9.9) == ("example.org",)
    assert opened.find(ONE, 10.0) == ()
    assert opened.find(OTHER, 0.0) == ()


def test_a_shared_address_is_open_by_each_name_for_its_own_time() -> None:
    opened = Opened()
    opened.open("a.org", ONE, 10.0)
    opened.open("b.org", ONE, 20.0)
    assert set(opened.find(ONE, 5.0)) == {"a.org", "b.org"}
    assert opened.find(ONE, 15.0) == ("b.org",)


def test_another_answer_makes_it_longer_and_never_shorter() -> None:
    opened = Opened()
    for until_s in (10.0, 30.0, 20.0):
        opened.open("a.org", ONE, until_s)
    assert opened.find(ONE, 29.0) == ("a.org",)
    assert len(opened) == 1


def test_what_ends_soonest_makes_room() -> None:
    opened = Opened(max_opened=8)
    opened.open("kept.org", ONE, float("inf"))
    for number in range(100):
        opened.open("flood.org", ip_address(number + 1), 10.0 + number)
        assert len(opened) <= 8
    assert opened.find(ONE, 1e9) == ("kept.org",)
    assert opened.find(ip_address(100), 0.0) == ("flood.org",)
    assert opened.find(ip_address(1), 0.0) == ()


PAIRS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([ONE, OTHER]),
    st.floats(0, 100),
)


@given(st.lists(PAIRS, max_size=40), st.floats(0, 100))
def test_it_is_as_a_table_of_the_longest_time_of_each(
    pairs: list[tuple[str, Address, float]], now_s: float
) -> None:
    opened, table = Opened(), dict[tuple[str, Address], float]()
    for name, address, until_s in pairs:
        opened.open(name, address, until_s)
        table[name, address] = max(table.get((name, address), 0.0), until_s)
    assert len(opened) == len(table)
    for address in (ONE, OTHER):
        alive = {n for (n, a), until_s in table.items() if a == address and now_s < until_s}
        assert set(opened.find(address, now_s)) == alive


def test_a_bucket_gives_what_it_holds_and_then_so_many_a_second() -> None:
    bucket = Bucket(per_s=10, burst=5)
    assert [bucket.take(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.take(0.25) for _ in range(4)] == [True, True, False, False]
    assert [bucket.take(1000.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not bucket.take(0.0), "a clock that goes back gives nothing"
