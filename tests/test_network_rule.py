"""--allow and --deny: what each text means, and that nothing is reached that none of them names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.network.rule import EVERY_PORT, AllowList, Rule, format_place, parse_rule
from jail.network.special import Address, find_range, find_special, unmap
from tests.test_spec import assert_clear

# -- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pattern", "ports", "transport"),
    [
        ("example.org", "example.org", EVERY_PORT, "tcp"),
        ("Example.ORG.", "example.org", EVERY_PORT, "tcp"),
        ("example.org:443", "example.org", (443, 443), "tcp"),
        ("example.org:8000-8100/udp", "example.org", (8000, 8100), "udp"),
        ("*.example.org:443/tcp", "*.example.org", (443, 443), "tcp"),
        ("*", "*", EVERY_PORT, "tcp"),
        ("*:443", "*", (443, 443), "tcp"),
        ("intranet", "intranet", EVERY_PORT, "tcp"),
        ("_sip._tcp.example.org", "_sip._tcp.example.org", EVERY_PORT, "tcp"),
        ("a-b.x--y.org", "a-b.x--y.org", EVERY_PORT, "tcp"),
        ("bücher.example", "xn--bcher-kva.example", EVERY_PORT, "tcp"),
        ("*.bücher.example", "*.xn--bcher-kva.example", EVERY_PORT, "tcp"),
        ("1password.com", "1password.com", EVERY_PORT, "tcp"),
        ("dead.beef", "dead.beef", EVERY_PORT, "tcp"),
    ],
)
def test_a_name(text: str, pattern: str, ports: tuple[int, int], transport: str) -> None:
    rule = parse_rule(text, "allow")
    assert (rule.pattern, rule.network, rule.ports, rule.transport) == (
        pattern, None, ports, transport,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "network", "ports", "transport"),
    [
        ("10.1.2.3", "10.1.2.3/32", EVERY_PORT, "tcp"),
        ("10.1.2.3:5432", "10.1.2.3/32", (5432, 5432), "tcp"),
        ("10.1.0.0/16:5432", "10.1.0.0/16", (5432, 5432), "tcp"),
        ("10.1.0.0/16:53/udp", "10.1.0.0/16", (53, 53), "udp"),
        ("0.0.0.0/0", "0.0.0.0/0", EVERY_PORT, "tcp"),
        ("2001:db8::1", "2001:db8::1/128", EVERY_PORT, "tcp"),
        ("2001:db8::/32", "2001:db8::/32", EVERY_PORT, "tcp"),
        ("[2001:DB8::1]", "2001:db8::1/128", EVERY_PORT, "tcp"),
        ("[2001:db8::/32]:443", "2001:db8::/32", (443, 443), "tcp"),
        ("[2001:db8::/32]:1-2/udp", "2001:db8::/32", (1, 2), "udp"),
        ("::ffff:10.1.2.3", "::ffff:10.1.2.3/128", EVERY_PORT, "tcp"),
    ],
)
def test_a_network(text: str, network: str, ports: tuple[int, int], transport: str) -> None:
    rule = parse_rule(text, "allow")
    assert (rule.pattern, rule.network, rule.ports, rule.transport) == (
        "", ip_network(network), ports, transport,
    )  # fmt: skip


def test_what_is_denied_without_a_transport_is_denied_by_both() -> None:
    assert parse_rule("example.org", "deny").transport is None
    assert parse_rule("example.org/udp", "deny").transport == "udp"
    assert parse_rule("127.0.0.1", "deny").network == ip_network("127.0.0.1")


NO_RULES = [
    "", " ", ".", "..", "a..b", "-a.org", "a-.org", "a b", "a.org:", "a.org:0", "a.org:65536",
    "a.org:1-", "a.org:-1", "a.org:2-1", "a.org:1:2", "a.org:+1", "a.org:١",
    "a.org/sctp", "a.org/", "a.org/tcp/udp", "a.org:443/x", "*.", "**", "*a.org", "a.*.org",
    "www.*", "*.*.org", "*org", "http://a.org", "a.org/index", "user@a.org", "a,b", "a.org;b",
    "10.1.2.3/16", "10.1.2", "10.1.2.3.4", "256.1.1.1", "1.2.3.4/33", "010.1.2.3", "0x7f.1", "1",
    "0x7f000001", "2130706433", "1.2.3.4.5.6", "[10.1.2.3]:80", "[2001:db8::1", "2001:db8::1]",
    "[2001:db8::1]443", "[]:443", "[::]x", ":443", ":", "::g", "1::2::3", "fe80::1%eth0",
    "[fe80::1%eth0]:1", "2001:db8::1/32", "a" * 64 + ".org", "a." * 127 + "org", "a\0b", "a\nb",
    "\x1b[2J", "a.org:443/TCP/", "ü" * 100, "a\u3002b..c", "\ud800.org",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_RULES)
@pytest.mark.parametrize("option", ["allow", "deny"])
def test_what_is_no_rule_is_one_clear_line(text: str, option: Literal["allow", "deny"]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rule(text, option)
    assert_clear(caught.value, option)


def test_a_url_is_told_to_be_no_rule() -> None:
    with pytest.raises(SpecError, match=r"a rule is no URL; write example\.org:443"):
        parse_rule("https://example.org/", "allow")


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.0/8:80", "::1", "[::1]:80", "localhost"])
def test_the_jail_s_own_loopback_is_nothing_to_allow(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rule(text, "allow")
    assert_clear(caught.value, "allow")
    parse_rule(text, "deny")


@settings(max_examples=400)
@given(
    st.one_of(
        st.text(),
        st.text("ab1.*:-/[]%x ", max_size=12),
        st.builds("{}:{}".format, st.text("ab.*", max_size=6), st.integers(-1, 70000)),
        st.ip_addresses().map(str),
    ),
    st.sampled_from(["allow", "deny"]),
)
def test_whatever_is_written_it_is_a_rule_or_a_spec_error(text: str, option: Any) -> None:
    try:
        rule = parse_rule(text, option)
    except SpecError as error:
        assert_clear(error)
        return
    assert bool(rule.pattern) != (rule.network is not None)
    assert parse_rule(rule.text, option) == rule
    assert rule.pattern.isascii()


@given(st.ip_addresses(), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]))
def test_a_place_is_written_as_a_rule_of_it(address: Address, port: int, transport: Any) -> None:
    rule = parse_rule(format_place(str(address), port, transport), "deny")
    assert rule.network == ip_network(address)
    assert rule.has_port(port, transport)
    assert rule.transport == (None if transport == "tcp" else "udp")


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "meant", "others"),
    [
        ("example.org", ["example.org"], ["www.example.org", "xample.org", "example.org.evil"]),
        (
            "*.example.org",
            ["www.example.org", "a.b.c.example.org", "_x.example.org"],
            ["example.org", "evilexample.org", "example.org.evil.com", ".example.org", ""],
        ),
        ("*", ["a", "example.org"], []),
    ],
)
def test_which_names_a_pattern_means(pattern: str, meant: list[str], others: list[str]) -> None:
    rule = parse_rule(pattern, "allow")
    assert all(map(rule.has_name, meant))
    assert not any(map(rule.has_name, others))


def test_a_rule_of_addresses_means_no_name() -> None:
    assert not parse_rule("0.0.0.0/0", "allow").has_name("")
    assert not parse_rule("10.1.2.3", "allow").has_name("10.1.2.3")


# -- decisions ------------------------------------------------------------------------------------

PUBLIC4, PUBLIC6 = ip_address("198.51.100.7"), ip_address("2a00:1450::7")


def make(allow: str = "", deny: str = "", observe: bool = False) -> AllowList:
    return AllowList(
        tuple(parse_rule(each, "allow") for each in allow.split()),
        tuple(parse_rule(each, "deny") for each in deny.split()),
        observe,
    )


def reaches(rules: AllowList, text: str, port: int, *names: str, transport: Any = "tcp") -> bool:
    return rules.decide_address(ip_address(text), port, transport, names).allowed


def test_without_rules_nothing_is_reached() -> None:
    none = make()
    assert not none.decide_name("example.org").allowed
    assert not none.decide_spoken("example.org", 443).allowed
    for address in (PUBLIC4, PUBLIC6):
        for transport in ("tcp", "udp"):
            decision = none.decide_address(address, 443, transport, ())
            assert not decision.allowed
            assert parse_rule(decision.remedy.removeprefix("--allow "), "allow").has_address(
                address
            )


def test_a_name_opens_the_addresses_it_was_answered_with_at_its_ports() -> None:
    rules = make("example.org:443 *.example.org:8000-8001")
    assert reaches(rules, "198.51.100.7", 443, "example.org")
    assert reaches(rules, "198.51.100.7", 8001, "x.example.org")
    assert reaches(rules, "198.51.100.7", 443, "other.org", "example.org")
    assert not reaches(rules, "198.51.100.7", 443), "nobody was answered with it"
    assert not reaches(rules, "198.51.100.7", 443, "other.org")
    assert not reaches(rules, "198.51.100.7", 80, "example.org")
    assert not reaches(rules, "198.51.100.7", 443, "example.org", transport="udp")
    assert reaches(make("example.org:443/udp"), "198.51.100.7", 443, "example.org", transport="udp")


def test_what_a_name_opened_is_looked_into_and_what_an_address_opened_is_not() -> None:
    rules = make("example.org 198.51.100.0/24 example.org/udp")
    assert not rules.decide_address(PUBLIC4, 443, "tcp", ["example.org"]).inspects
    assert rules.decide_address(PUBLIC6, 443, "tcp", ["example.org"]).inspects
    assert not rules.decide_address(PUBLIC6, 443, "udp", ["example.org"]).inspects


def test_a_name_may_be_asked_for_if_any_port_of_it_is_open() -> None:
    rules = make("example.org:443/udp", "example.org:80 bad.example.org")
    assert rules.decide_name("example.org").allowed
    assert not rules.decide_name("bad.example.org").allowed
    assert rules.decide_name("bad.example.org").reason == "--deny bad.example.org"


def test_a_refusal_says_which_option_would_allow_it() -> None:
    decision = make("example.org:443").decide_address(PUBLIC4, 80, "tcp", ["example.org"])
    assert decision == (
        False, "no rule allows this port (80/tcp) of this name", "--allow example.org:80", False,
        "example.org",
    )  # fmt: skip
    assert make().decide_address(PUBLIC6, 53, "udp").remedy == "--allow [2a00:1450::7]:53/udp"
    assert make("*", "example.org").decide_spoken("example.org", 443).remedy == ""


SPECIAL = [
    "169.254.169.254", "fd00:ec2::254", "168.63.129.16", "192.0.0.192", "198.18.0.1", "0.0.0.0",
    "127.0.0.1", "::1", "::", "169.254.1.1",
    "fe80::1", "10.0.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fec0::1", "100.64.0.1",
    "224.0.0.251", "ff02::fb", "255.255.255.255", "240.0.0.1", "::ffff:198.51.100.7",
    "::198.51.100.7", "::ffff:0:198.51.100.7", "64:ff9b::1", "64:ff9b:1::1", "2002::1", "2001::1",
]  # fmt: skip


@pytest.mark.parametrize("text", SPECIAL)
def test_a_special_address_stays_shut_unless_it_is_named(text: str) -> None:
    address = ip_address(text)
    for rules in (make("* 0.0.0.0/0 ::/0 ::/1"), make(observe=True), make("*", observe=True)):
        assert not rules.decide_address(address, 443, "tcp", ["example.org"]).allowed
        assert not rules.allows_address(address)
    if find_special(address) != "loopback":
        for named in (str(address), str(find_range(address))):
            rules = AllowList((parse_rule(named, "allow"),))
            assert rules.decide_address(address, 443, "tcp").allowed
            assert rules.allows_address(address)


def test_an_address_of_the_host_s_own_stays_shut_unless_it_is_named() -> None:
    for rules in (make("198.51.100.0/24 *"), make(observe=True)):
        assert not rules.decide_address(PUBLIC4, 22, "tcp", ["a.org"], is_own=True).allowed
    named = make("198.51.100.7:22")
    assert named.decide_address(PUBLIC4, 22, "tcp", is_own=True).allowed
    assert not named.decide_address(PUBLIC4, 23, "tcp", is_own=True).allowed


def test_what_is_observed_passes_but_for_what_is_denied() -> None:
    rules = make(deny="bad.org 198.51.100.0/24 good.org:25", observe=True)
    assert rules.decide_name("good.org").reason == "observed"
    assert rules.decide_address(PUBLIC6, 443, "tcp", ["good.org"]).inspects
    assert not rules.decide_name("bad.org").allowed
    assert not rules.decide_spoken("bad.org", 443).allowed
    assert not rules.decide_address(PUBLIC4, 443, "tcp", ["good.org"]).allowed
    assert not rules.decide_address(PUBLIC6, 25, "tcp", ["good.org"]).allowed


# -- whatever the rules ---------------------------------------------------------------------------

name = st.sampled_from(["a.org", "www.a.org", "b.a.org", "b.org", "c"])
address = st.one_of(
    st.sampled_from([ip_address(each) for each in SPECIAL]),
    st.sampled_from([PUBLIC4, PUBLIC6]),
    st.ip_addresses(),
)
port = st.sampled_from([22, 53, 80, 443, 8080])
transport = st.sampled_from(["tcp", "udp"])
host = st.one_of(
    name,
    st.sampled_from(
        ["*", "*.a.org", "*.org", "198.51.100.0/24", "[2a00::/16]", "0.0.0.0/0", "[::/0]"]
    ),
    st.sampled_from(["10.0.0.0/8", "[fd00:ec2::254]", "[::ffff:0:0/96]", "169.254.169.254"]),
)
suffix = st.sampled_from(["", ":443", ":1-443", ":443/udp", "/udp", ":80/tcp"])
texts = st.lists(st.builds(str.__add__, host, suffix), max_size=5)
lists = st.builds(lambda a, d, o: make(" ".join(a), " ".join(d), o), texts, texts, st.booleans())


def names_it(rule: Rule, where: Address, names: list[str], number: int, kind: Any) -> bool:
    """As a person would read the rule."""
    low, high = rule.ports
    if not low <= number <= high or (rule.transport and rule.transport != kind):
        return False
    if rule.network is not None:
        return where in rule.network
    if rule.pattern == "*":
        return bool(names)
    if rule.pattern.startswith("*."):
        return any(each.endswith(rule.pattern[1:]) for each in names)
    return rule.pattern in names


@settings(max_examples=500)
@given(lists, address, port, transport, st.lists(name, max_size=3, unique=True), st.booleans())
def test_nothing_is_reached_that_no_rule_names(
    rules: AllowList, where: Address, number: int, kind: Any, names: list[str], own: bool
) -> None:
    decision = rules.decide_address(where, number, kind, names, own)
    named = [each for each in rules.allow if names_it(each, where, names, number, kind)]
    by_address = [each for each in named if each.network is not None]
    special = ip_network(where) if own else find_range(where)
    if any(each.network and names_it(each, where, names, number, kind) for each in rules.deny):
        assert not decision.allowed
    elif special is not None:
        inside = [each for each in by_address if each.network and each.lies_in(special)]
        assert decision.allowed == bool(inside)
    elif decision.allowed:
        assert named or rules.observe
        assert decision.inspects == (not by_address and kind == "tcp")
        if not by_address:
            denied = [
                each for each in rules.deny if names_it(each, where, [decision.name], number, kind)
            ]
            assert not denied or not decision.name
    assert not (decision.allowed and decision.remedy)
    assert decision.allowed or decision.reason


@settings(max_examples=300)
@given(lists, name, port)
def test_who_is_spoken_to_is_allowed_by_name_and_denied_by_none(
    rules: AllowList, spoken: str, number: int
) -> None:
    decision = rules.decide_spoken(spoken, number)
    about = [
        [
            each
            for each in some
            if each.network is None and names_it(each, PUBLIC4, [spoken], number, "tcp")
        ]
        for some in (rules.allow, rules.deny)
    ]
    assert decision.allowed == (not about[1] and bool(about[0] or rules.observe))
    if decision.allowed:
        assert rules.decide_name(spoken).allowed, "what may be spoken to may be asked for"


@settings(max_examples=300)
@given(lists, address, port, transport, st.lists(name, max_size=2))
def test_the_remedy_of_a_refusal_allows_it(
    rules: AllowList, where: Address, number: int, kind: Any, names: list[str]
) -> None:
    decision = rules.decide_address(where, number, kind, names)
    if not decision.remedy:
        return
    more = parse_rule(decision.remedy.removeprefix("--allow "), "allow")
    changed = AllowList((*rules.allow, more), rules.deny, rules.observe)
    assert changed.decide_address(where, number, kind, names).allowed


@given(st.ip_addresses(v=4))
def test_an_address_in_ipv6_dress_is_as_special_as_itself_or_more(where: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{where}")
    assert unmap(mapped) == where
    assert find_special(mapped) is not None
    assert find_special(IPv6Address(f"64:ff9b::{where}")) == "NAT64"


def test_what_python_knows_as_private_is_special_here() -> None:
    for text in SPECIAL:
        assert find_special(ip_address(text)) is not None
    for text in ("198.51.100.7", "8.8.8.8", "2a00:1450::7", "2606:4700::1111", "100.128.0.1"):
        assert find_special(ip_address(text)) is None
