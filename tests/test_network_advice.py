"""What is said of a run's network: the rules that it would have needed, and what it was refused."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.network.advice import Advice, find_rules, format_options, list_refusals, merge_ports
from jail.network.rule import AllowList, Transport, parse_rule
from jail.network.use import Attempt, NetworkUse
from jail.result import Result, Verdict
from jail.say import tell_needed, tell_unreached

OBSERVED = "observed"


def asked(name: str, reason: str = OBSERVED, **more: Any) -> Attempt:
    return Attempt(protocol="dns", allowed=True, name=name, port=53, reason=reason, **more)


def reached(
    name: str, port: int, address: str = "198.51.100.1", reason: str = OBSERVED, **more: Any
) -> Attempt:
    protocol = more.pop("protocol", "tcp")
    return Attempt(
        protocol=protocol,
        allowed=True,
        name=name,
        address=address,
        port=port,
        reason=reason,
        **more,
    )


def refused(protocol: Any, reason: str, remedy: str = "", **more: Any) -> Attempt:
    return Attempt(protocol=protocol, allowed=False, reason=reason, remedy=remedy, **more)


def advise(*attempts: Attempt) -> Advice:
    return find_rules(NetworkUse(driver="filtered", attempts=attempts))


# -- the rules ------------------------------------------------------------------------------------


def test_a_name_is_preferred_to_its_addresses_and_said_once() -> None:
    advice = advise(
        asked("a.org"),
        reached("a.org", 443),
        reached("a.org", 443, "2001:db8::1", count=7),
        reached("a.org", 80),
    )
    assert advice == (("a.org:80", "a.org:443"), ())


def test_an_address_that_no_name_led_to_is_an_address() -> None:
    assert advise(reached("", 22), reached("", 22, "2001:db8::1")).needed == (
        "198.51.100.1:22",
        "[2001:db8::1]:22",
    )


def test_datagrams_need_rules_of_their_own() -> None:
    attempts = asked("a.org"), reached("a.org", 443), reached("a.org", 443, protocol="udp")
    assert advise(*attempts).needed == ("a.org:443", "a.org:443/udp")


def test_rules_that_were_there_stay_where_they_were_of_use() -> None:
    advice = advise(
        asked("a.example.org", "--allow *.example.org:443"),
        reached("a.example.org", 443, reason="--allow *.example.org:443"),
        reached("", 5432, "10.1.2.3", reason="--allow 10.0.0.0/8"),
        reached("a.example.org", 80),
    )
    assert advice == (("*.example.org:443", "10.0.0.0/8", "a.example.org:80"), ())


def test_a_name_that_was_only_looked_up_is_told_apart() -> None:
    assert advise(asked("a.org"), asked("b.org"), reached("b.org", 80)) == (
        ("b.org:80",),
        ("a.org",),
    )
    assert advise(asked("a.org"), asked("x.org", "no such name")) == ((), ("a.org",))
    used = asked("b.b.org", "--allow *.b.org")
    assert advise(asked("a.b.org"), used) == (("*.b.org",), ())


def test_a_name_that_was_spoken_behind_another_one_s_address_needs_both() -> None:
    fronted = reached("front.org", 443, spoken="hidden.org")
    assert advise(asked("front.org"), fronted) == (("front.org:443", "hidden.org:443"), ())
    ruled = reached("front.org", 443, reason="--allow front.org", spoken="hidden.org")
    assert advise(ruled).needed == ("front.org", "hidden.org:443")


def test_a_name_that_was_spoken_to_a_bare_address_opens_nothing_so_the_address_does() -> None:
    assert advise(reached("", 443, spoken="a.org")) == (("198.51.100.1:443",), ())


def test_an_address_that_a_name_led_to_and_that_was_spoken_is_an_address() -> None:
    """As of a program that looks a name up, and has an address in its URL elsewhere."""
    for address, rule in (("198.51.100.1", "198.51.100.1:80"), ("2a00::1", "[2a00::1]:80")):
        assert advise(reached("a.org", 80, address, spoken=address)).needed == (rule,)


def test_neighbours_among_ports_are_one_range_and_too_many_are_all() -> None:
    ports = [reached("a.org", port) for port in (8000, 8002, 8001, 21)]
    assert advise(asked("a.org"), *ports).needed == ("a.org:21", "a.org:8000-8002")
    ports = [reached("a.org", port) for port in range(1000, 1100, 2)]
    assert advise(asked("a.org"), *ports).needed == ("a.org",)
    ports = [reached("", port, "2001:db8::1", protocol="udp") for port in range(1000, 1100, 2)]
    assert advise(*ports).needed == ("2001:db8::1/udp",)


def test_what_was_refused_is_no_rule() -> None:
    shut = refused("tcp", "private address", "--allow 10.1.2.3:80", address="10.1.2.3", port=80)
    assert advise(shut, refused("dns", "--deny a.org", name="a.org")) == ((), ())


@pytest.mark.parametrize("name", ["$(reboot)", "a b", "-x", "a\nb", "*", "*.org", "a;b", "ä" * 300])
def test_what_is_no_name_is_no_rule(name: str) -> None:
    texts = advise(asked(name), reached(name, 80)).needed
    assert all("*" not in text.removeprefix("*") for text in texts)
    for text in texts:
        parse_rule(text, "allow")


def test_options_are_for_a_shell() -> None:
    assert format_options(["*.a.org:443", "b.org"]) == "--allow '*.a.org:443' --allow b.org"


names = st.sampled_from(["a.org", "b.org", "www.a.org", "c.example"])
addresses = st.sampled_from(["198.51.100.1", "198.51.100.2", "2a00::1", "2a00::2"])
connections = st.tuples(
    st.one_of(st.just(""), names),  # by which name it was opened
    st.one_of(st.just(""), names, addresses),  # which was spoken
    addresses,
    st.sampled_from([22, 80, 81, 443, 8080]),
    st.sampled_from(["tcp", "udp"]),
)
Connection = tuple[str, str, str, int, Transport]


def log(made: Iterable[Connection]) -> NetworkUse:
    """As it is written under --observe."""
    attempts: dict[Attempt, None] = {}
    for opener, spoken, address, port, transport in made:
        if opener:
            attempts[asked(opener)] = None
        other = spoken if transport == "tcp" and spoken != opener else ""
        attempts[reached(opener, port, address, protocol=transport, spoken=other)] = None
    return NetworkUse(driver="filtered", attempts=tuple(attempts))


@given(st.lists(connections, max_size=6))
def test_under_the_rules_that_were_needed_the_same_is_reached(made: list[Connection]) -> None:
    use = log(made)
    advice = find_rules(use)
    rules = (*advice.needed, *advice.looked_up)
    allowed = AllowList(tuple(parse_rule(each, "allow") for each in rules))
    for opener, spoken, address, port, transport in made:
        if opener:
            assert allowed.decide_name(opener).allowed
        decision = allowed.decide_address(
            ip_address(address), port, transport, [opener] * bool(opener)
        )
        assert decision.allowed, (rules, opener, address, port)
        if decision.inspects and spoken:
            assert allowed.decide_spoken(spoken, port).allowed, (rules, spoken)


@given(st.lists(connections, min_size=1, max_size=4))
def test_no_rule_is_about_a_host_or_a_port_that_nobody_met(made: list[Connection]) -> None:
    use = log(made)
    hosts = {host for each in use.attempts for host in (each.name, each.spoken, each.address)}
    ports = {each.port for each in use.attempts}
    for text in find_rules(use).needed:
        rule = parse_rule(text, "allow")
        assert rule.pattern in hosts or str(rule.network).split("/")[0] in hosts
        assert all(port in ports for port in range(rule.ports[0], rule.ports[1] + 1))


@given(st.sets(st.integers(1, 65535), max_size=40))
def test_ranges_hold_all_ports(ports: set[int]) -> None:
    ranges = merge_ports(ports)
    assert all(any(low <= port <= high for low, high in ranges) for port in ports)


# -- in words -------------------------------------------------------------------------------------

REFUSALS = (
    refused(
        "tcp", "no rule allows this name", "--allow *.a.org:443",
        name="x.a.org", address="2001:db8::1", port=443, count=2,
    ),
    refused("udp", "loopback address", address="127.0.0.1", port=53),
    refused("dns", "no rule allows this name", "--allow $(x)", name="$(x)\x1b[2J", port=53),
)  # fmt: skip


def test_a_refusal_says_what_and_why_and_what_would_allow_it() -> None:
    found = list_refusals(NetworkUse(attempts=(asked("a.org"), *REFUSALS)))
    assert found == [
        (
            "TCP to x.a.org at [2001:db8::1], port 443: 2 times",
            "no rule allows this name",
            "--allow '*.a.org:443'",
        ),
        ("UDP to 127.0.0.1, port 53: once", "loopback address", ""),
        ("the name $(x)\x1b[2J: once", "no rule allows this name", ""),
    ]


def tell(*attempts: Attempt, partial: bool = False) -> None:
    use = NetworkUse(driver="filtered", attempts=attempts, partial=partial)
    result = Result(verdict=Verdict.OK, network=use)
    tell_unreached(result)
    tell_needed(result)


def test_it_is_told_a_line_each_and_nothing_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(*REFUSALS, asked("a.org"), reached("a.org", 443), asked("b.org"))
    assert capsys.readouterr().err.splitlines() == [
        "jail: refused: TCP to x.a.org at [2001:db8::1], port 443: 2 times",
        "  no rule allows this name",
        "  allowed by: --allow '*.a.org:443'",
        "jail: refused: UDP to 127.0.0.1, port 53: once",
        "  loopback address",
        "jail: refused: the name $(x)?[2J: once",
        "  no rule allows this name",
        "jail: needed: --allow a.org:443",
        "jail: only looked up: --allow b.org",
    ]


def test_too_many_refusals_are_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    tell(
        *(refused("tcp", "x", address="10.0.0.1", port=port) for port in range(1, 51)), partial=True
    )
    lines = capsys.readouterr().err.splitlines()
    assert "jail: refused: 30 more; --json has them all" in lines
    assert lines[-2:] == [
        "jail: needed: no rule",
        "jail: needed: perhaps more than that; there was more than the log holds",
    ]


def test_the_result_has_it_all() -> None:
    use = NetworkUse(driver="filtered", attempts=(asked("a.org"), reached("a.org", 443)))
    told = Result(verdict=Verdict.OK, network=use).to_json()["network"]
    assert (told["driver"], told["needed"], told["partial"]) == ("filtered", ["a.org:443"], False)
    assert told["attempts"][1] == {
        "protocol": "tcp", "allowed": True, "name": "a.org", "address": "198.51.100.1", "port": 443,
        "reason": "observed", "remedy": "", "spoken": "",
        "count": 1, "sent_bytes": 0, "received_bytes": 0,
    }  # fmt: skip
    assert Result(verdict=Verdict.OK).network == NetworkUse()
