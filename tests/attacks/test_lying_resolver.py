"""The name server outside lies, or an allowed zone is its asker's own: nothing opens that should
not, nobody waits for ever, and the next question is answered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
import trio
from dns.message import Message
from dns.name import Name
from dns.rdatatype import RdataType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jail.egress import upstream as upstream_module
from jail.egress.message import read_answer
from jail.egress.outcome import MAX_ALIASES, MAX_RECORDS, Unusable, read_outcome, sift
from jail.egress.question import parse_message
from jail.egress.upstream import MAX_STRAYS, make_query
from jail.network.rule import AllowList, parse_rule
from tests.desk import Desk, open_desk, open_world, texts
from tests.name_server import Said, answer_with, make_zone, open_name_server

Say = Callable[[Message, str], list[Said]]

GOOD = make_zone(www_example_org="A 198.51.100.7")
WWW = "198.51.100.7"


def forge(query: Message, *records: str) -> Message:
    """A good answer's head and question, with these lines."""
    [reply] = answer_with(*records)(query, "udp")
    assert isinstance(reply, Message)
    return reply


async def ask(say: Say, *, allow: str = "www.example.org") -> tuple[Desk, Message]:
    async with open_world(say, allow=[allow]) as (desk, _):
        return desk, await desk.ask("www.example.org")


# -- answers that are none ------------------------------------------------------------------------


def with_another_number(query: Message) -> Message:
    reply = forge(query, "www.example.org. 60 A 203.0.113.66")
    reply.id ^= 1
    return reply


def to_another_question(query: Message) -> Message:
    other = dns.message.make_query("evil.org", "A", id=query.id)
    return forge(other, "www.example.org. 60 A 203.0.113.66")


def of_another_kind(query: Message) -> Message:
    other = dns.message.make_query("www.example.org", "AAAA", id=query.id)
    return forge(other, "www.example.org. 60 A 203.0.113.66")


def without_a_question(query: Message) -> Message:
    reply = forge(query, "www.example.org. 60 A 203.0.113.66")
    reply.question = []
    return reply


def that_is_a_question(query: Message) -> Message:
    reply = forge(query, "www.example.org. 60 A 203.0.113.66")
    reply.flags ^= dns.flags.QR
    return reply


def with_its_end_missing(query: Message) -> bytes:
    reply = forge(query, "www.example.org. 60 A 203.0.113.66")
    reply.use_edns(False)
    return reply.to_wire()[:-2]


def of_names_that_point_at_each_other(query: Message) -> bytes:
    """RFC 9267: compression that never ends."""
    head = struct.pack("!HHHHHH", query.id, 0x8180, 1, 2, 0, 0)
    question = query.question[0].name.to_wire() or b""
    at = len(head) + len(question) + 4
    names = struct.pack("!H", 0xC000 | (at + 2)), struct.pack("!H", 0xC000 | at)
    tail = b"".join(name + struct.pack("!HHIH", 1, 1, 60, 4) + bytes(4) for name in names)
    return head + question + struct.pack("!HH", 1, 1) + tail


STRAYS = [
    with_another_number,
    to_another_question,
    of_another_kind,
    without_a_question,
    that_is_a_question,
    with_its_end_missing,
    of_names_that_point_at_each_other,
]


@pytest.mark.parametrize("forged", STRAYS)
async def test_a_forged_answer_before_the_true_one_is_not_believed(
    forged: Callable[[Message], Said],
) -> None:
    desk, reply = await ask(lambda query, _: [forged(query), *GOOD(query, "udp")])
    assert texts(reply) == [WWW]
    assert desk.is_open(WWW)
    assert not desk.is_open("203.0.113.66")


@pytest.mark.parametrize("forged", STRAYS)
async def test_a_forged_answer_alone_is_as_none(
    forged: Callable[[Message], Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_module, "TRY_S", 0.3)
    desk, reply = await ask(lambda query, _: [forged(query)])
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert "does not answer" in desk.told[0].failure
    assert len(desk.opened) == 0


def of_another_class(query: Message) -> bytes:
    record = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 3, 60, 4, ip_address(WWW).packed)
    return make_packet(query, record, 1)


async def test_records_of_another_class_are_none() -> None:
    desk, reply = await ask(lambda query, _: [of_another_class(query)])
    assert (texts(reply), len(desk.opened)) == ([], 0)


async def test_a_datagram_larger_than_any_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "TRY_S", 0.3)
    record = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, 60, 4, ip_address(WWW).packed)
    desk, _ = await ask(lambda query, _: [make_packet(query, record, 2000)])
    assert len(desk.opened) == 0


async def test_what_is_cut_short_over_tcp_is_no_answer() -> None:
    def say(query: Message, transport: str) -> list[Said]:
        reply = forge(query, "www.example.org. 60 A 203.0.113.66")
        reply.flags |= dns.flags.TC
        return [reply]

    desk, reply = await ask(say)
    assert (reply.rcode(), len(desk.opened)) == (dns.rcode.SERVFAIL, 0)


@pytest.mark.parametrize("forged", STRAYS)
async def test_a_forged_answer_over_tcp_is_as_none(forged: Callable[[Message], Said]) -> None:
    def say(query: Message, transport: str) -> list[Said]:
        if transport == "tcp":
            return [forged(query)]
        reply = forge(query)
        reply.flags |= dns.flags.TC
        return [reply]

    desk, reply = await ask(say)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert len(desk.opened) == 0


async def test_whoever_guesses_numbers_has_few_guesses() -> None:
    """CVE-2008-1447: one socket takes so many, then another port and number are asked with."""

    def say(query: Message, transport: str) -> list[Said]:
        guesses: list[Said] = [with_another_number(query)] * MAX_STRAYS
        return [*guesses, *GOOD(query, transport)]

    desk, reply = await ask(say)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert desk.told[0].failure == "answers to what was never asked"


async def test_an_answer_from_another_port_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps it from a connected socket: udp(7)."""
    monkeypatch.setattr(upstream_module, "TRY_S", 0.5)
    heard: list[int] = []
    async with open_name_server(lambda *_: []) as server:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as other:
            desk = open_desk(server.address, allow=["*"])

            async def spoof() -> None:
                while not server.packets:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                [source] = server.sources
                query = dns.message.from_wire(server.packets[0])
                wire = forge(query, "www.example.org. 60 A 203.0.113.66").to_wire()
                heard.append(await other.sendto(wire, ("127.0.0.1", source)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(spoof)
                reply = await desk.ask("www.example.org")
    assert heard and reply.rcode() == dns.rcode.SERVFAIL
    assert len(desk.opened) == 0


# -- answers with more than was asked for ---------------------------------------------------------


async def test_records_of_other_names_are_thrown_away() -> None:
    desk, reply = await ask(
        answer_with(
            "bank.org. 60 A 203.0.113.66",
            "www.example.org. 60 A 198.51.100.7",
            "other.example.org. 60 CNAME bank.org.",
            "www.example.org. 60 AAAA 2001:db8:bad::1",
        )
    )
    assert texts(reply) == [WWW]
    assert len(desk.opened) == 1


async def test_the_other_sections_say_nothing() -> None:
    def say(query: Message, transport: str) -> list[Said]:
        reply = forge(query, "www.example.org. 60 A 198.51.100.7")
        for section in (reply.authority, reply.additional):
            section.append(dns.rrset.from_text("www.example.org.", 60, "IN", "A", "203.0.113.66"))
        return [reply]

    desk, reply = await ask(say)
    assert (texts(reply), reply.authority, reply.additional) == ([WWW], [], [])
    assert not desk.is_open("203.0.113.66")


async def test_what_the_program_caches_is_not_poisoned_by_an_allowed_zone() -> None:
    """Kaminsky's other half: a delegation for a whole zone, in an answer about one name."""

    def say(query: Message, transport: str) -> list[Said]:
        reply = forge(query, "www.example.org. 60 A 198.51.100.7")
        reply.authority.append(dns.rrset.from_text("org.", 60, "IN", "NS", "ns.evil.org."))
        reply.additional.append(dns.rrset.from_text("ns.evil.org.", 60, "IN", "A", "203.0.113.6"))
        return [reply]

    _, reply = await ask(say)
    assert [each.name.to_text() for each in reply.answer] == ["www.example.org."]
    assert reply.authority == reply.additional == []


async def test_of_very_many_addresses_some_are_kept() -> None:
    many = [f"www.example.org. 60 A 198.51.{n // 250}.{n % 250}" for n in range(900)]

    def say(query: Message, transport: str) -> list[Said]:
        reply = forge(query, *many)
        reply.answer = [merge(reply.answer)]
        if transport == "udp":
            reply.answer, reply.flags = [], reply.flags | dns.flags.TC
        return [reply]

    desk, _ = await ask(say)
    assert len(desk.opened) == MAX_RECORDS
    assert len(desk.told[0].addresses) == MAX_RECORDS


def merge(rrsets: list[dns.rrset.RRset]) -> dns.rrset.RRset:
    for each in rrsets[1:]:
        rrsets[0].add(each[0], 60)
    return rrsets[0]


async def test_an_answer_of_thousands_of_records_is_not_even_fetched() -> None:
    """As many as a message holds: 10,000 don't fit."""

    def say(query: Message, transport: str) -> list[Said]:
        if transport == "udp":
            reply = forge(query)
            reply.flags |= dns.flags.TC
            return [reply]
        record = b"\xc0\x0c" + struct.pack("!HHIHI", 1, 1, 60, 4, 0xCB007142)
        return [make_packet(query, record, (65535 - 512) // len(record))]

    desk, reply = await ask(say)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert desk.told[0].failure.startswith("an answer of 6")
    assert len(desk.opened) == 0


def make_packet(query: Message, record: bytes, count: int) -> bytes:
    head = struct.pack("!HHHHHH", query.id, 0x8180, 1, count, 0, 0)
    asked = query.question[0]
    name = asked.name.to_wire() or b""
    return head + name + struct.pack("!HH", asked.rdtype, asked.rdclass) + record * count


def test_names_that_take_long_to_read_are_not_read_for_long() -> None:
    """A pointer of two bytes to a name of a hundred labels, twice in each of a thousand records:
    read to its end, that held up every jail for seconds.
    """
    name = dns.name.from_text(".".join("a" * 120))
    query = make_query(name, RdataType.A)
    record = b"\xc0\x0c" + struct.pack("!HHIH", RdataType.CNAME, 1, 60, 2) + b"\xc0\x0c"
    packet = make_packet(query, record, 1000)
    with count_reads() as reads:
        assert read_answer(query, packet) is not None
    assert len(reads) < 10


@contextmanager
def count_reads() -> Iterator[list[Name]]:
    """Every name that is made of bytes."""
    read = dns.name.from_wire_parser
    reads: list[Name] = []

    def count(*args: Any) -> Name:
        reads.append(read(*args))
        return reads[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dns.name, "from_wire_parser", count)
        yield reads


# -- addresses where no name leads ----------------------------------------------------------------

SHUT = [
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fd00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:198.51.100.7",
    "::127.0.0.1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", SHUT)
async def test_a_name_opens_no_address_that_nobody_named(address: str) -> None:
    """DNS rebinding: the name is the program's own, and leads into the host's network."""
    kind = "AAAA" if ":" in address else "A"
    async with open_world(answer_with(f"www.example.org. 60 {kind} {address}"), allow=["*"]) as (
        desk,
        _,
    ):
        reply = await desk.ask("www.example.org", kind, use_edns=0)
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    assert len(reply.options) == 1
    assert len(desk.opened) == 0
    [told] = desk.told
    assert not told.allowed
    assert str(ip_address(address)) in told.reason
    assert told.addresses == (ip_address(address),)


async def test_a_good_address_beside_a_shut_one_is_answered_alone() -> None:
    desk, reply = await ask(
        answer_with("www.example.org. 60 A 10.0.0.1", "www.example.org. 60 A 198.51.100.7")
    )
    assert texts(reply) == [WWW]
    assert desk.is_open(WWW) and not desk.is_open("10.0.0.1")
    assert [each.allowed for each in desk.told] == [False, True]
    assert desk.told[0].remedy == "--allow 10.0.0.1"


async def test_first_a_good_address_then_a_shut_one() -> None:
    """As rebinding is done: the second look-up finds the router."""
    said = ["www.example.org. 1 A 198.51.100.7", "www.example.org. 1 A 192.168.1.1"]
    async with open_world(
        lambda query, _: [forge(query, said.pop(0))], allow=["www.example.org"]
    ) as (desk, _):
        assert texts(await desk.ask("www.example.org")) == [WWW]
        desk.now_s += 6
        assert texts(await desk.ask("www.example.org")) == []
        assert len(desk.opened) == 1
        assert not desk.is_open("192.168.1.1")


async def test_an_address_that_a_rule_names_is_answered() -> None:
    say = answer_with("www.example.org. 60 A 10.1.2.3", "www.example.org. 60 A 10.9.9.9")
    async with open_world(say, allow=["www.example.org", "10.1.0.0/16:5432"]) as (desk, _):
        assert texts(await desk.ask("www.example.org")) == ["10.1.2.3"]


async def test_a_mapped_address_opens_what_it_stands_for_only_where_both_are_named() -> None:
    say = answer_with("www.example.org. 60 AAAA ::ffff:10.1.2.3")
    for allow, found in [
        (["*", "10.0.0.0/8"], []),
        (["*", "::ffff:0:0/96"], []),
        (["*", "10.0.0.0/8", "::ffff:0:0/96"], ["::ffff:10.1.2.3"]),
    ]:
        async with open_world(say, allow=allow) as (desk, _):
            assert texts(await desk.ask("www.example.org", "AAAA")) == found
            assert bool(desk.is_open("10.1.2.3")) == bool(found)


# -- aliases --------------------------------------------------------------------------------------


async def test_aliases_in_a_circle_are_no_answer() -> None:
    desk, reply = await ask(
        answer_with("www.example.org. 60 CNAME a.org.", "a.org. 60 CNAME www.example.org.")
    )
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert "circle" in desk.told[0].failure


async def test_an_alias_of_itself_is_no_answer() -> None:
    _, reply = await ask(answer_with("www.example.org. 60 CNAME www.example.org."))
    assert reply.rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("length", [MAX_ALIASES, MAX_ALIASES + 1])
async def test_chains_of_aliases_end_somewhere(length: int) -> None:
    names = ["www.example.org.", *(f"a{n}.org." for n in range(length))]
    aliases = [f"{names[n]} 60 CNAME {names[n + 1]}" for n in range(length)]
    desk, reply = await ask(answer_with(*reversed(aliases), f"{names[-1]} 60 A {WWW}"))
    is_short = length <= MAX_ALIASES
    assert reply.rcode() == (dns.rcode.NOERROR if is_short else dns.rcode.SERVFAIL)
    assert bool(desk.is_open(WWW)) == is_short


async def test_the_shortest_life_in_a_chain_is_the_answer_s() -> None:
    desk, reply = await ask(answer_with("www.example.org. 9 CNAME a.org.", f"a.org. 3600 A {WWW}"))
    assert {each.ttl for each in reply.answer} == {9}
    desk.now_s += 9
    assert not desk.is_open(WWW)


async def test_of_several_lifetimes_the_shortest_holds() -> None:
    desk, reply = await ask(
        answer_with(f"www.example.org. 900 A {WWW}", "www.example.org. 9 A 198.51.100.8")
    )
    assert {each.ttl for each in reply.answer} == {9}
    desk.now_s += 9
    assert not desk.is_open(WWW)


@pytest.mark.parametrize("ttl", [2**31, 2**32 - 1])
async def test_a_lifetime_below_nothing_is_none(ttl: int) -> None:
    """RFC 2181, 8: its first bit is a sign, and means zero."""
    record = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, ttl, 4, ip_address(WWW).packed)
    _, reply = await ask(lambda query, _: [make_packet(query, record, 1)])
    assert (texts(reply), reply.answer[0].ttl) == ([WWW], 5)


# -- whoever hangs up, is late, or says anything --------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xff", b"\0\x0cshort", b"\0\0"])
async def test_a_server_that_hangs_up_is_no_answer(data: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(100)
            await stream.send_all(data)

    def say(query: Message, transport: str) -> list[Said]:
        reply = forge(query)
        reply.flags |= dns.flags.TC
        return [reply]

    async with open_name_server(say, serve) as server:
        desk = open_desk(server.address, allow=["*"])
        reply = await desk.ask("www.example.org")
    assert reply.rcode() == dns.rcode.SERVFAIL


async def test_an_answer_that_comes_too_late_is_not_taken_for_another_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_module, "TRY_S", 0.3)
    kept: list[Message] = []

    def say(query: Message, transport: str) -> list[Said]:
        kept.append(query)
        if len(kept) <= upstream_module.ROUNDS:
            return []
        late = [forge(each, "www.example.org. 60 A 203.0.113.66") for each in kept[:-1]]
        return [*late, *GOOD(query, transport)]

    async with open_world(say, allow=["*"]) as (desk, _):
        assert (await desk.ask("www.example.org")).rcode() == dns.rcode.SERVFAIL
        assert texts(await desk.ask("www.example.org")) == [WWW]


ALLOWED = AllowList((parse_rule("*", "allow"),))
QUERY = make_query(dns.name.from_text("www.example.org"), RdataType.A)
TRUE = forge(
    QUERY,
    "www.example.org. 60 CNAME a.org.",
    "a.org. 60 A 198.51.100.7",
    "a.org. 60 A 10.0.0.1",
).to_wire()


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """The true one with bytes changed behind its number."""
    data = bytearray(TRUE)
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(2, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data) + draw(st.binary(max_size=3))


@given(st.one_of(answers(), st.binary(max_size=300).map(lambda tail: TRUE[:2] + tail)))
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_name_server_says_opens_no_shut_address(packet: bytes) -> None:
    try:
        answer = read_answer(QUERY, packet)
        if answer is None:
            return
        outcome = read_outcome(answer, QUERY.question[0].name, RdataType.A)
    except Unusable as error:
        assert str(error)
        return
    outcome = sift(outcome, ALLOWED.allows_address)
    assert all(ALLOWED.allows_address(each) for each in outcome.addresses)
    assert 5 <= outcome.lifetime_s <= 3600
    assert all(isinstance(each, str) for each in outcome.aliases)


@given(st.binary(max_size=400))
def test_whatever_comes_is_a_message_or_none(packet: bytes) -> None:
    message = parse_message(packet)
    assert message is None or isinstance(message, Message)
