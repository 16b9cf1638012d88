"""The bytes: what a connection means to a program is what it means without a jail."""

from __future__ import annotations

import pytest

from tests.network import place
from tests.network.option import FAST_S, allow
from tests.network.web import digest_pattern
from tests.network.world import World

BIG: int = 64 << 20


@pytest.mark.parametrize("address", [place.SITE, place.SITE6])
def test_much_goes_both_ways_unchanged(world: World, address: str) -> None:
    """And half a connection can be closed: the answer comes only after the end of what is sent."""
    jail = allow(address)
    count, told, own = world.visit("upload", address, "9", str(BIG), jail=jail).said
    assert (count, told) == (str(BIG), own)
    count, own = world.visit("download", address, "19", str(BIG), jail=jail).said
    assert (count, own) == (str(BIG), digest_pattern(BIG))


def test_a_slow_reader_loses_nothing(world: World) -> None:
    size = 16 << 20
    count, own = world.visit("slow", "site.test", "19", str(size), jail=allow("site.test")).said
    assert (count, own) == (str(size), digest_pattern(size))


def test_two_hundred_connections_are_open_at_once(world: World) -> None:
    visit = world.visit("many", "site.test", "7", "200", jail=[*allow("site.test"), "-i"])
    assert visit.said == [str(n) for n in range(200)]


def test_a_reset_is_a_reset(world: World) -> None:
    assert world.visit("reset", "site.test", "5001", jail=allow("site.test")).error == "ECONNRESET"


@pytest.mark.parametrize(
    "address",
    [place.MANY_REFUSE[0], place.UNREACHABLE, place.UNREACHABLE6, place.PROHIBITED],
)
def test_the_error_of_a_connection_is_the_one_that_it_has_without_a_jail(
    world: World, address: str
) -> None:
    outside = world.visit("tcp", address, "80")
    inside = world.visit("tcp", address, "80", jail=allow(address))
    assert inside.error == outside.error
    assert inside.elapsed_s < outside.elapsed_s + FAST_S


def test_a_port_nobody_listens_on_refuses_datagrams_as_it_does_without_a_jail(
    world: World,
) -> None:
    outside = world.visit("udp", place.SITE, "81", "hello")
    inside = world.visit("udp", place.SITE, "81", "hello", jail=allow(f"{place.SITE}/udp"))
    assert inside.error == outside.error == "ECONNREFUSED"
    assert inside.elapsed_s < FAST_S


def test_a_server_may_speak_first(world: World) -> None:
    visit = world.visit("tcp", "site.test", "22", jail=allow("site.test"))
    assert (visit.said, visit.elapsed_s < FAST_S) == ("SSH-2.0-world\r\n", True)


def test_the_silent_are_given_up_when_the_program_gives_up(world: World) -> None:
    argv = ("curl", "-s", "--connect-timeout", "0.5", "http://silent.test/")
    done = world.run_jail(*allow("silent.test"), "--", *argv)
    assert done.status == world.run(*argv).status == 28


def test_what_was_tried_is_told(world: World) -> None:
    script = "curl -s http://site.test/bytes?n=1000 -o /dev/null; curl -s http://other.test/;"
    script += f"curl -s http://{place.OTHER}/; exit 0"
    done = world.run_jail(*allow("site.test"), "--json", "-", "--", "sh", "-c", script)
    tried = done.json["network"]
    assert tried["driver"] == "filtered"
    attempts = {(a["protocol"], a["name"] or a["address"]): a for a in tried["attempts"]}
    passed = attempts["tcp", "site.test"]
    assert passed["allowed"] and passed["port"] == 80 and passed["received_bytes"] > 1000
    for key in (("dns", "other.test"), ("tcp", place.OTHER)):
        assert not attempts[key]["allowed"] and attempts[key]["reason"]


def test_observing_lets_all_names_pass_and_prints_the_rules(world: World) -> None:
    script = f"curl -sS https://one.shared.test/ -k; curl -s http://{place.OTHER}/"
    script += "; curl -sS http://site.test/; curl -s http://10.1.2.3"
    options = ("--network", "filtered", "--observe")
    done = world.run_jail(*options, "--", "sh", "-c", script)
    for rule in ("one.shared.test:443", "site.test:80", f"{place.OTHER}:80"):
        assert rule in done.stderr, done.stderr
    assert {e["address"] for e in world.read_seen()}.isdisjoint(place.PRIVATE)
