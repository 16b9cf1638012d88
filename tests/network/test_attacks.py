"""Ways out of a network that opens one name. Each of them leads somewhere without a jail."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

import pytest

from tests.network import place
from tests.network.option import FAST_S, allow, at
from tests.network.uplink import ABSTRACT, WORD
from tests.network.world import CLIENT, PYTHON, WITH_CLIENT, World

REFUSED: Final = "ECONNREFUSED"


class Attack(NamedTuple):
    """What the client does, and where it must not arrive."""

    words: tuple[str, ...]
    address: str
    error: str = REFUSED


def tcp(address: str, port: int = place.ECHO) -> Attack:
    return Attack(("tcp", address, str(port), "hello"), address)


def udp(address: str) -> Attack:
    return Attack(("udp", address, str(place.ECHO), "hello"), address)


ATTACKS: Final = {
    "an address by heart": tcp(place.OTHER),
    "an IPv6 address by heart": tcp(place.OTHER6),
    "an IPv4 address as IPv6": Attack(tcp(f"::ffff:{place.OTHER}").words, place.OTHER),
    "a private address as IPv6": Attack(tcp("::ffff:10.1.2.3").words, "10.1.2.3"),
    "the address of the allowed name before anybody asked": tcp(place.SITE),
    "a public resolver, another port": tcp(place.PUBLIC_DNS),
    "a web server": tcp(place.OTHER, place.BANNER),
    **{f"{each}": tcp(each) for each in place.PRIVATE},
    **{f"{each} by UDP": udp(each) for each in place.PRIVATE},
    "UDP": udp(place.OTHER),
    "UDP, IPv6": udp(place.OTHER6),
    "UDP to the allowed host": udp(place.SITE),
    "QUIC": Attack(("quic", place.OTHER, "443"), place.OTHER),
    "QUIC to the allowed host": Attack(("quic", place.SITE, "443"), place.SITE),
    "an address after the name of another": Attack(
        ("then", "site.test", place.OTHER, str(place.ECHO)), place.OTHER
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_way_leads_around_the_names(world: World, name: str) -> None:
    attack = ATTACKS[name]
    assert world.visit(*attack.words).error is None, "it must work without a jail"
    assert at(world.read_seen(), attack.address)
    world.forget()
    visit = world.visit(*attack.words, jail=allow("site.test"))
    assert (visit.error, visit.elapsed_s < FAST_S) == (attack.error, True)
    assert at(world.read_seen(), attack.address) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", place.HOST4, place.HOST6])
@pytest.mark.parametrize("rules", [("site.test",), ("*",), ("0.0.0.0/0", "::/0")])
def test_the_host_itself_is_out_of_reach(
    world: World, address: str, rules: tuple[str, ...]
) -> None:
    port = str(place.SENTINEL)
    for protocol in ("tcp", "udp"):
        words = (protocol, address, port, "x")
        assert world.visit(*words).said == WORD.decode()
        assert world.visit(*words, jail=allow(*rules)).error == REFUSED


def test_abstract_sockets_are_of_another_network(world: World) -> None:
    words = ("abstract", ABSTRACT[1:])
    assert world.visit(*words).said == WORD.decode()
    assert world.visit(*words, jail=allow("*")).error in (REFUSED, "EPERM")  # Landlock's


@pytest.mark.parametrize("kind", ["icmp", "icmp6", "ip", "packet"])
@pytest.mark.parametrize("policy", ["default", "unconfined"])
def test_nobody_makes_packets_of_his_own(world: World, kind: str, policy: str) -> None:
    jail = [*allow("*"), "--seccomp", policy]
    own = world.run("unshare", "-Urn", PYTHON, CLIENT, "raw", kind)
    assert own.json["said"] == "made"
    assert world.visit("raw", kind, jail=jail).error in NOT_GIVEN


# By the policy, or for want of CAP_NET_RAW: raw(7), packet(7).
NOT_GIVEN: Final = ("EPERM", "EPROTONOSUPPORT", "EAFNOSUPPORT")
CHANGES: Final = (
    "nft flush ruleset",
    "ip link set lo down",
    "ip addr add 10.9.9.9/32 dev lo",
    "ip route flush table local",
    "ip link add type dummy",
    "ip rule add from all lookup 5",
)


@pytest.mark.parametrize("policy", ["default", "unconfined"])
def test_the_rules_cannot_be_changed_from_inside(world: World, policy: str) -> None:
    """Nor by whoever is root in the jail."""
    after = "; ".join(f"{each} 2>/dev/null && echo CHANGED" for each in CHANGES)
    again = f"{PYTHON} {CLIENT} tcp {place.OTHER} 7 hello"
    options = [*WITH_CLIENT, *allow("site.test"), "--seccomp", policy]
    for user in ("1000", "0"):
        done = world.run_jail(*options, "--user", user, "--", "sh", "-c", f"{after}; {again}")
        assert b"CHANGED" not in done.stdout
        assert json.loads(done.stdout)["error"] == REFUSED


NEIGHBOURS: Final = {
    "SNI": ("https://two.shared.test/", "--connect-to", "::one.shared.test:443"),
    "Host": ("http://one.shared.test/", "-H", "Host: two.shared.test"),
    "Host, with a port": ("http://one.shared.test/", "-H", "Host: two.shared.test:80"),
    "SNI, by IPv6": ("https://two.shared.test/", "-6", "--connect-to", "::one.shared.test:443"),
    "an absolute target": (
        "http://one.shared.test/",
        "--request-target",
        "http://two.shared.test/",
    ),
    "two Hosts": (
        "http://one.shared.test/", "-H", "Host: one.shared.test", "-H", "Host : two.shared.test",
    ),
    "the second request": ("http://one.shared.test/", "--next", "-sSk", "-H",
                           "Host: two.shared.test", "http://one.shared.test/b"),
}  # fmt: skip


@pytest.mark.parametrize("way", NEIGHBOURS)
def test_a_shared_address_does_not_open_the_neighbour(world: World, way: str) -> None:
    argv = ("curl", "-sSk", "--max-time", "10", *NEIGHBOURS[way])
    assert world.run(*argv).status == 0
    assert names_of(world)
    world.forget()
    done = world.run_jail(*allow("one.shared.test"), "--", *argv)
    assert done.status not in (0, 6, 7, 28), done
    assert names_of(world) == set()


def names_of(world: World) -> set[str]:
    """What was asked of the neighbour, by whatever word."""
    told = [(e.get("sni"), e.get("host"), e.get("target")) for e in world.read_seen()]
    return {word for words in told for word in words if word and "two.shared.test" in word}


@pytest.mark.parametrize("name", ["-", "two.shared.test"])
def test_tls_without_an_allowed_name_is_refused(world: World, name: str) -> None:
    words = ("tls", "one.shared.test", "443", name, "one.shared.test")
    assert json.loads(world.visit(*words).said)["sni"] == (None if name == "-" else name)
    world.forget()
    visit = world.visit(*words, jail=allow("one.shared.test"))
    assert visit.error is not None and visit.elapsed_s < FAST_S
    assert not [e for e in world.read_seen() if "certificate" in e]
