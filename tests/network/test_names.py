"""Names, and those who lie about them: what an answer opens, and what it doesn't."""

from __future__ import annotations

from typing import Final

import pytest

from tests.network import place
from tests.network.option import FAST_S, allow, at
from tests.network.world import World

UNKNOWN: Final = ("no name", "no address", "again")
PATIENCE_S: Final = 25.0
"""getaddrinfo(3) itself asks twice, five seconds each"""


@pytest.mark.parametrize("name", ["site.test", "chain.test", "only4.site.test", "only6.site.test"])
def test_an_allowed_name_opens_its_addresses(world: World, name: str) -> None:
    """Whatever names lie between it and them."""
    assert world.visit("look", name, jail=allow(name)).said == world.visit("look", name).said
    assert world.visit("tcp", name, "7", "hello", jail=allow(name)).said == "hello"


def test_all_below_a_name_and_not_the_name_itself(world: World) -> None:
    jail = allow("*.site.test:7")
    assert world.visit("tcp", "deep.er.site.test", "7", "hello", jail=jail).said == "hello"
    assert world.visit("tcp", "www.site.test", "7", "hello", jail=jail).said == "hello"
    assert world.visit("tcp", "site.test", "7", jail=jail).error in UNKNOWN


def test_a_port_opens_no_other(world: World) -> None:
    jail = allow("site.test:22")
    assert world.visit("tcp", "site.test", "22", jail=jail).said == "SSH-2.0-world\r\n"
    visit = world.visit("tcp", "site.test", "7", "hello", jail=jail)
    assert (visit.error, visit.elapsed_s < FAST_S) == ("ECONNREFUSED", True)


def test_a_denial_is_stronger_than_what_allows(world: World) -> None:
    jail = [*allow("*.test"), "--deny", "other.test", "--deny", f"{place.SHARED}/32"]
    assert world.visit("tcp", "only4.site.test", "7", "hello", jail=jail).said == "hello"
    assert world.visit("tcp", "other.test", "7", "hello", jail=jail).error in UNKNOWN
    named = world.visit(
        "tcp", "one.shared.test", "7", "hello", jail=[*jail, "--deny", "2001:db8::/32"]
    )
    assert named.error in ("ECONNREFUSED", *UNKNOWN)


def test_an_address_in_a_rule_needs_no_name(world: World) -> None:
    jail = allow("10.1.0.0/16:7", f"[{place.OTHER6}]:22")
    assert world.visit("tcp", "10.1.2.3", "7", "hello", jail=jail).said == "hello"
    assert world.visit("tcp", place.OTHER6, "22", jail=jail).said == "SSH-2.0-world\r\n"
    assert world.visit("tcp", "10.1.2.3", "22", jail=jail).error == "ECONNREFUSED"
    assert world.visit("udp", "10.1.2.3", "7", "hello", jail=jail).error == "ECONNREFUSED"


def test_udp_is_open_where_a_rule_says_so(world: World) -> None:
    jail = allow("site.test:7/udp", f"{place.OTHER}:443/udp")
    assert world.visit("udp", place.SITE, "7", "hello", jail=jail).error == "ECONNREFUSED"
    assert world.visit("quic", place.OTHER, "443", jail=jail).said == "\x02de\x03abc"
    assert world.visit("udp", place.OTHER, "7", "hello", jail=jail).error == "ECONNREFUSED"
    assert world.visit("udp_by_name", "site.test", "7", "hello", jail=jail).said == "hello"


@pytest.mark.parametrize("name", ["inward.test", "metadata.test", "loopback.test", "mapped.test"])
def test_a_name_does_not_lead_inwards(world: World, name: str) -> None:
    """Its owner may give it any address, ours too."""
    world.forget()
    visit = world.visit("tcp", name, "7", "hello", jail=allow(name))
    assert visit.error in ("ECONNREFUSED", *UNKNOWN) and visit.elapsed_s < FAST_S
    assert at(world.read_seen(), *place.PRIVATE) == []


def test_a_name_leads_inwards_when_the_address_is_named_too(world: World) -> None:
    jail = allow("inward.test", "10.1.2.3:7")
    assert world.visit("tcp", "inward.test", "7", "hello", jail=jail).said == "hello"


def test_a_name_that_is_rebound_stays_outside(world: World) -> None:
    """DNS rebinding: the first answer is good, the second is a private address."""
    answers = [{"records": place.a(each, ttl_s=0)} for each in (place.SITE, place.SITE, "10.1.2.3")]
    world.script("rebind.test", *answers)
    assert world.visit("rebind", "rebind.test", "7").said == [place.SITE, "10.1.2.3"]
    world.forget()
    world.script("rebind.test", *answers)
    visit = world.visit("rebind", "rebind.test", "7", jail=allow("rebind.test"))
    assert visit.error in ("ECONNREFUSED", *UNKNOWN)
    assert at(world.read_seen(), place.SITE)
    assert at(world.read_seen(), "10.1.2.3") == []


def test_an_address_shuts_when_its_answer_is_too_old(world: World) -> None:
    words = ("expire", "brief.test", place.SITE, "7")
    visit = world.visit(*words, jail=allow("brief.test"))
    assert visit.error == "ECONNREFUSED"
    assert at(world.read_seen(), place.SITE)


def test_what_an_answer_says_besides_opens_nothing(world: World) -> None:
    """A resolver, or the owner of an allowed name, who lies."""
    besides = [
        ["other.test", ["A", 300, place.OTHER]],
        ["10.in-addr.arpa", ["A", 300, place.OTHER]],
    ]
    world.script("site.test", {"records": place.a(place.SITE), "besides": besides})
    visit = world.visit("then", "site.test", place.OTHER, "7", jail=allow("site.test"))
    assert visit.error == "ECONNREFUSED"
    assert at(world.read_seen(), place.OTHER) == []
    assert world.read_asked()


@pytest.mark.parametrize("lie", ["garbage", "other id", "other question", "endless name"])
def test_answers_that_are_none_are_not_passed_on(world: World, lie: str) -> None:
    world.script("site.test", {"records": place.a(place.SITE), "lie": lie})
    once = ["-e", "RES_OPTIONS=attempts:1"]
    visit = world.visit("look", "site.test", jail=[*allow("site.test"), *once])
    assert visit.error in UNKNOWN and visit.elapsed_s < PATIENCE_S


def test_a_cut_answer_is_asked_for_again_by_tcp(world: World) -> None:
    world.script("site.test", {"records": place.a(place.SITE), "lie": "truncated"})
    assert world.visit("look", "site.test", jail=allow("site.test")).said == [place.SITE]
    assert {each["protocol"] for each in world.read_asked()} == {"udp", "tcp"}


@pytest.mark.parametrize("name", ["loop.test", "nobody.test"])
def test_a_name_without_addresses_is_unknown(world: World, name: str) -> None:
    visit = world.visit("look", name, jail=allow("*.test"))
    assert visit.error in UNKNOWN and visit.elapsed_s < PATIENCE_S


def test_a_slow_answer_keeps_no_other_waiting(world: World) -> None:
    world.script("slow.test", {"records": place.a(place.SITE), "delay_s": 1.5})
    visit = world.visit("race", "slow.test", "site.test", jail=allow("*.test"))
    assert visit.said == ["site.test", "slow.test"]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_nobody_tunnels_through_the_names_of_others(world: World, protocol: str) -> None:
    """What was asked for a denied name never leaves the host: not one byte of it."""
    secret = ".".join(("a" * 60, "b" * 60, "c" * 60, "other", "test"))
    for server in (place.PUBLIC_DNS, place.DNS):
        assert world.visit("dns", server, secret, protocol).said == 3
    assert len(world.read_asked()) == 2
    world.forget()
    jail = allow("site.test")
    for server in (place.PUBLIC_DNS, place.DNS, "10.0.2.3"):
        assert world.visit("dns", server, secret, protocol, jail=jail).said in (3, 5)
    assert world.visit("look", secret, jail=jail).error in UNKNOWN
    assert world.read_asked() == []


def test_names_that_are_added_need_no_resolver(world: World) -> None:
    jail = [*allow("mine.test", f"{place.OTHER}:7"), "--add-host", f"mine.test:{place.OTHER}"]
    assert world.visit("look", "mine.test", jail=jail).said == [place.OTHER]
    assert world.visit("tcp", "mine.test", "7", "hello", jail=jail).said == "hello"
    assert world.read_asked() == []


def test_another_resolver_is_asked_when_one_is_named(world: World) -> None:
    jail = [*allow("site.test"), "--dns", place.PUBLIC_DNS]
    assert world.visit("tcp", "site.test", "7", "hello", jail=jail).said == "hello"
    assert {each["server"] for each in world.read_asked()} == {place.PUBLIC_DNS}
