"""Which ports of the host lead into a jail: what can be asked for, and what can't be meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.network.publish import (
    MAX_PORTS,
    Publish,
    parse_publish,
    parse_publishes,
    refuse_overlaps,
)


@pytest.mark.parametrize(
    ("text", "publish"),
    [
        ("8080:80", Publish("", 8080, 80)),
        ("8080:80/tcp", Publish("", 8080, 80)),
        ("5353:53/udp", Publish("", 5353, 53, "udp")),
        ("127.0.0.1:8080:80", Publish("127.0.0.1", 8080, 80)),
        ("0.0.0.0:8080:80", Publish("0.0.0.0", 8080, 80)),
        ("[::1]:8080:80", Publish("::1", 8080, 80)),
        ("[2001:DB8:0::1]:1:65535/udp", Publish("2001:db8::1", 1, 65535, "udp")),
    ],
)
def test_one_port_is_read(text: str, publish: Publish) -> None:
    assert parse_publish(text) == (publish,)


def test_a_range_is_each_of_its_ports() -> None:
    assert parse_publish("8000-8002:9000-9002/udp") == (
        Publish("", 8000, 9000, "udp"),
        Publish("", 8001, 9001, "udp"),
        Publish("", 8002, 9002, "udp"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "80", "80/tcp", ":80", "80:", "::80", "80:80:80", "a:80:80", "80:a", "0:80",
        "80:0", "65536:80", "80:65536", "-1:80", "+80:80", " 80:80", "80:80 ", "80:80/",
        "80:80/sctp",
        "80:80/TCP", "80:80/tcp/udp",
        "8000-8001:80", "8001-8000:1-2", "1-65535:1-65535", "٨٠:80",
        "[127.0.0.1]:80:80", "::1:80:80", "[::1:80:80", "[fe80::1%eth0]:80:80",
        "[::ffff:127.0.0.1]:80:80", "127.1:80:80", "0127.0.0.1:80:80", "localhost:80:80", "*:80:80",
        "80:80\n", "80\0:80", "000080:80",
    ],
)  # fmt: skip
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^publish: "):
        parse_publish(text)


@pytest.mark.parametrize("value", [80, None, b"80:80", ("80", "80"), True])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(SpecError, match="is no text"):
        parse_publish(value)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("80:1", "80:2", True),
        ("80:1", "127.0.0.1:80:2", True),
        ("80:1", "[::1]:80:2", True),
        ("0.0.0.0:80:1", "127.0.0.1:80:1", True),
        ("0.0.0.0:80:1", "[::1]:80:1", False),
        ("0.0.0.0:80:1", "[::]:80:1", False),
        ("[::]:80:1", "[::1]:80:1", True),
        ("127.0.0.1:80:1", "127.0.0.2:80:1", False),
        ("80:1", "80:1/udp", False),
        ("80:1", "81:1", False),
        ("80-90:80-90", "127.0.0.1:85:1", True),
    ],
)
def test_two_that_want_one_port_are_refused(one: str, other: str, overlap: bool) -> None:
    for pair in ([one, other], [other, one]):
        if overlap:
            with pytest.raises(SpecError, match="want the same port"):
                parse_publishes(pair)
        else:
            assert len(parse_publishes(pair)) == 2


def test_a_port_is_told_as_it_is_written() -> None:
    for text in ("8080:80/tcp", "127.0.0.1:8080:80/udp", "[::1]:8080:80/tcp"):
        assert [str(each) for each in parse_publish(text)] == [text]


def test_more_ports_than_can_be_served_are_refused() -> None:
    half = MAX_PORTS // 2
    halves = [f"1-{half}:1-{half}", f"1-{half}:1-{half}/udp"]
    assert len(parse_publishes(halves)) == MAX_PORTS
    with pytest.raises(SpecError, match=f"more than {MAX_PORTS} ports"):
        parse_publishes([*halves, "9000:1"])


@given(st.text(max_size=40))
def test_any_text_is_a_port_or_refused(text: str) -> None:
    try:
        found = parse_publish(text)
    except SpecError:
        return
    for each in found:
        assert 1 <= each.host_port <= 65535
        assert 1 <= each.jail_port <= 65535
        assert parse_publish(str(each)) == (each,)
    refuse_overlaps(found)
