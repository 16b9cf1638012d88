"""The jail's only name server: what it answers, what it asks on, what it opens, what it tells."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
import trio
import trio.testing
from dns.message import Message
from hypothesis import given
from hypothesis import strategies as st

from jail.egress import resolver as resolver_module
from jail.egress import stream as stream_module
from jail.egress import upstream as upstream_module
from jail.egress.memory import Memory
from jail.egress.message import Records
from jail.egress.outcome import MAX_LIFETIME_S, MIN_LIFETIME_S, Outcome, make_failed
from jail.egress.question import Question, make_echo, parse_question
from jail.egress.resolver import Query
from jail.egress.upstream import Upstream, parse_upstreams, read_upstreams
from jail.errors import HostError
from tests.desk import Desk, open_desk, open_world, texts
from tests.name_server import Said, make_zone, open_name_server

WWW = IPv4Address("198.51.100.7")

ZONE = make_zone(
    www_example_org="100 A 198.51.100.7; AAAA 2001:470::7; MX 10 mail.example.org.; TXT hello",
    cdn_example_org="20 CNAME edge.example.net.",
    edge_example_net="300 A 198.51.100.8",
    seven_example_org="7 A 198.51.100.9",
    gone_example_org="3600 CNAME missing.example.org.",
    empty_example_org="TXT nothing",
)


def reasons(message: Message) -> list[str | None]:
    """Of extended errors, RFC 8914."""
    found = [each for each in message.options if isinstance(each, dns.edns.EDEOption)]
    assert all(each.code == dns.edns.EDECode.FILTERED for each in found)
    return [each.text for each in found]


# -- what is allowed, and what isn't --------------------------------------------------------------


async def test_an_allowed_name_is_asked_for_answered_opened_and_told() -> None:
    async with open_world(ZONE, allow=["www.example.org:443"]) as (desk, server):
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]
        assert server.asked == [("www.example.org", "A", "udp")]
        assert desk.is_open(WWW) == ("www.example.org",)
        assert desk.told == [
            Query("www.example.org", "A", True, "--allow www.example.org:443", addresses=(WWW,))
        ]


async def test_other_names_do_not_exist_and_are_never_sent_on() -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, server):
        reply = await desk.ask("secret.data.evil.org", use_edns=0)
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert reasons(reply) == ["no rule allows this name"]
        assert server.asked == []
        assert desk.told == [
            Query(
                "secret.data.evil.org",
                "A",
                False,
                "no rule allows this name",
                "--allow secret.data.evil.org",
            )
        ]


async def test_without_edns_the_reason_is_not_sent() -> None:
    reply = await open_desk().ask("evil.org")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert reply.edns == -1


async def test_what_is_denied_is_denied_by_whatever_alias() -> None:
    async with open_world(ZONE, allow=["*"], deny=["*.example.net"]) as (desk, _):
        reply = await desk.ask("cdn.example.org", use_edns=0)
        assert (reply.rcode(), texts(reply)) == (dns.rcode.NXDOMAIN, [])
        reason = "it stands for edge.example.net: --deny *.example.net"
        assert reasons(reply) == [reason]
        assert desk.told == [Query("cdn.example.org", "A", False, reason)]
        assert desk.is_open("198.51.100.8") == ()


async def test_an_alias_is_followed_and_opened_by_the_name_that_was_asked_for() -> None:
    async with open_world(ZONE, allow=["cdn.example.org"]) as (desk, _):
        reply = await desk.ask("cdn.example.org")
        assert texts(reply) == ["edge.example.net.", "198.51.100.8"]
        assert {each.ttl for each in reply.answer} == {20}
        assert desk.is_open("198.51.100.8") == ("cdn.example.org",)


async def test_a_name_is_the_same_in_capitals_and_the_question_comes_back_as_it_went() -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, server):
        reply = await desk.ask("wWw.ExAmple.ORG")
        assert reply.question[0].name.to_text() == "wWw.ExAmple.ORG."
        assert server.asked == [("www.example.org", "A", "udp")]
        assert desk.is_open(WWW) == ("www.example.org",)


@pytest.mark.parametrize("label", [b"www.example", b"a b", b"\0", b"\xff", b"a\\", b"*"])
async def test_a_label_that_only_looks_like_several_is_none_that_a_rule_means(label: bytes) -> None:
    """``foo\\.example`` below ``org`` is not below ``example.org``, though it reads like it."""
    query = dns.message.make_query("x.org", "A")
    query.question[0].name = dns.name.Name([label, b"org", b""])
    desk = open_desk(("127.0.0.1", 1), allow=["*", "*.example.org"])
    assert (await desk.send(query)).rcode() == dns.rcode.NXDOMAIN
    assert not desk.told[0].allowed
    assert desk.told[0].name.isprintable()


# -- kinds of records -----------------------------------------------------------------------------


async def test_mail_and_text_are_answered_and_open_nothing() -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, _):
        assert texts(await desk.ask("www.example.org", "MX")) == ["10 mail.example.org."]
        assert texts(await desk.ask("www.example.org", "TXT")) == ['"hello"']
        assert len(desk.opened) == 0


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB", "DNSKEY", "TYPE65399"])
async def test_there_is_no_data_of_other_kinds_and_they_are_not_asked_for(kind: str) -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, server):
        reply = await desk.ask("www.example.org", kind)
        assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
        assert server.asked == []
        assert [each.allowed for each in desk.told] == [True]


@pytest.mark.parametrize(
    ("kind", "rcode"), [("ANY", dns.rcode.NOTIMP), ("AXFR", dns.rcode.REFUSED)]
)
async def test_all_records_and_whole_zones_are_nothing_we_give(kind: str, rcode: int) -> None:
    reply = await open_desk(allow=["*"]).ask("www.example.org", kind)
    assert reply.rcode() == rcode


async def test_other_classes_and_newer_edns_are_answered_as_by_any_server() -> None:
    desk = open_desk(allow=["*"])
    reply = await desk.ask("version.bind", "TXT", rdclass="CH")
    assert reply.rcode() == dns.rcode.REFUSED
    reply = await desk.ask("www.example.org", use_edns=1)
    assert (reply.rcode(), reply.edns) == (dns.rcode.BADVERS, 0)


async def test_addresses_backwards_are_for_those_who_are_allowed_them() -> None:
    zone = make_zone(**{"7_100_51_198_in-addr_arpa": "PTR www.example.org."})
    async with open_world(zone, allow=["*.51.198.in-addr.arpa"]) as (desk, _):
        assert texts(await desk.ask("7.100.51.198.in-addr.arpa", "PTR")) == ["www.example.org."]
        reply = await desk.ask("1.0.0.10.in-addr.arpa", "PTR")
        assert reply.rcode() == dns.rcode.NXDOMAIN


async def test_a_name_without_such_records_is_not_one_that_does_not_exist() -> None:
    async with open_world(ZONE, allow=["*.example.org"]) as (desk, _):
        assert (await desk.ask("empty.example.org")).rcode() == dns.rcode.NOERROR
        assert (await desk.ask("missing.example.org")).rcode() == dns.rcode.NXDOMAIN


# -- names that nobody needs to be asked for ------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "db.localhost"])
async def test_localhost_is_the_jail_itself(name: str) -> None:
    desk = open_desk(("127.0.0.1", 1))
    assert texts(await desk.ask(name)) == ["127.0.0.1"]
    assert texts(await desk.ask(name, "AAAA")) == ["::1"]
    assert (await desk.ask(name, "MX")).rcode() == dns.rcode.NOERROR
    assert (desk.told, len(desk.opened)) == ([], 0)


async def test_added_hosts_are_known_and_open_for_ever_if_allowed() -> None:
    hosts = [("Db.", "10.0.0.5"), ("x", "10.0.0.6"), ("db", "fd00::5")]
    desk = open_desk(("127.0.0.1", 1), allow=["db"], hosts=hosts)
    desk.now_s = 1e12
    assert desk.is_open("10.0.0.5") == desk.is_open("fd00::5") == ("db",)
    assert desk.is_open("10.0.0.6") == ()
    assert texts(await desk.ask("db")) == ["10.0.0.5"]
    assert texts(await desk.ask("db", "AAAA")) == ["fd00::5"]
    assert (await desk.ask("db", "MX")).answer == []
    assert (await desk.ask("x")).rcode() == dns.rcode.NXDOMAIN
    assert [each.allowed for each in desk.told] == [True, True, True, False]


# -- lifetimes ------------------------------------------------------------------------------------


async def test_an_address_is_open_as_long_as_the_answer_says() -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, _):
        reply = await desk.ask("www.example.org")
        assert reply.answer[0].ttl == 100
        desk.now_s += 99.9
        assert desk.is_open(WWW)
        desk.now_s += 0.1
        assert not desk.is_open(WWW)


async def test_an_answer_is_remembered_and_ages() -> None:
    async with open_world(ZONE, allow=["www.example.org"]) as (desk, server):
        await desk.ask("www.example.org")
        desk.now_s += 60
        assert (await desk.ask("www.example.org")).answer[0].ttl == 40
        assert len(server.asked) == 1
        desk.now_s += 40
        assert (await desk.ask("www.example.org")).answer[0].ttl == 100
        assert len(server.asked) == 2
        assert len(desk.told) == 3


async def test_whoever_is_answered_has_time_to_connect() -> None:
    """The answer's last second would not be enough."""
    async with open_world(ZONE, allow=["seven.example.org"]) as (desk, server):
        await desk.ask("seven.example.org")
        desk.now_s += 6.9
        assert (await desk.ask("seven.example.org")).answer[0].ttl == MIN_LIFETIME_S
        assert len(server.asked) == 1
        desk.now_s += MIN_LIFETIME_S - 0.1
        assert desk.is_open("198.51.100.9")


@pytest.mark.parametrize(
    ("ttl", "told"), [(0, MIN_LIFETIME_S), (86400 * 365, MAX_LIFETIME_S), (2**31 - 1, 3600)]
)
async def test_lifetimes_are_neither_nothing_nor_for_ever(ttl: int, told: int) -> None:
    zone = make_zone(www_example_org=f"{ttl} A 198.51.100.7")
    async with open_world(zone, allow=["*"]) as (desk, _):
        assert (await desk.ask("www.example.org")).answer[0].ttl == told
        desk.now_s += told - 0.1
        assert desk.is_open(WWW)
        desk.now_s += 0.1
        assert not desk.is_open(WWW)


@pytest.mark.parametrize("name", ["missing.example.org", "gone.example.org"])
async def test_that_there_is_nothing_is_not_remembered_for_long(name: str) -> None:
    async with open_world(ZONE, allow=["*"]) as (desk, server):
        for _ in range(3):
            await desk.ask(name)
        assert len(server.asked) == 1
        desk.now_s += 30
        await desk.ask(name)
        assert len(server.asked) == 2


def test_memory_is_bounded_and_holds_neither_failures_nor_monsters() -> None:
    memory = Memory(max_remembered=4)
    kind = dns.rdatatype.RdataType.A
    for number in range(20):
        memory.put((str(number), kind), Outcome(dns.rcode.NOERROR, lifetime_s=10), 0.0)
    assert len(memory) == 4
    assert memory.find(("19", kind), 9.0) is not None
    assert memory.find(("18", kind), 10.0) is None
    memory.put(("failed", kind), make_failed("?"), 0.0)
    text = dns.rdata.from_text("IN", "TXT", " ".join(['"' + "x" * 250 + '"'] * 20))
    records = (Records(dns.name.root, dns.rdatatype.RdataType.TXT, (text,)),)
    memory.put(("big", kind), Outcome(dns.rcode.NOERROR, records, 10), 0.0)
    assert memory.find(("failed", kind), 0.0) is memory.find(("big", kind), 0.0) is None
    assert len(memory) == 3


# -- upstream -------------------------------------------------------------------------------------


async def test_nothing_of_the_question_goes_on_but_its_name_and_kind() -> None:
    async with open_world(ZONE, allow=["*.example.org"]) as (desk, server):
        option = dns.edns.GenericOption("65001", b"smuggled")
        query = dns.message.make_query("www.example.org", "A", use_edns=0, options=[option], id=7)
        query.flags |= dns.flags.AD | dns.flags.CD
        await desk.send(query)
        for name in ("seven", "empty", "a", "b", "c"):
            await desk.ask(f"{name}.example.org", id=7)
        sent = [dns.message.from_wire(packet) for packet in server.packets]
        assert sent[0].options == ()
        assert {each.flags for each in sent} == {dns.flags.RD}
        assert {each.payload for each in sent} == {1232}
        assert len({each.id for each in sent}) > 3
        assert len(server.sources) == len(sent), "a socket for each"


async def test_a_truncated_answer_is_asked_for_over_tcp_and_so_is_ours() -> None:
    many = ";".join(f"A 198.51.100.{n}" for n in range(60))
    zone = make_zone(www_example_org=many)

    def say(query: Message, transport: str) -> list[Said]:
        [reply] = zone(query, transport)
        assert isinstance(reply, Message)
        if transport == "udp":
            reply.answer, reply.flags = [], reply.flags | dns.flags.TC
        return [reply]

    async with open_world(say, allow=["*"]) as (desk, server):
        short = await desk.ask("www.example.org")
        assert short.flags & dns.flags.TC and not short.answer
        assert [each[2] for each in server.asked] == ["udp", "tcp"]
        wide = await desk.ask("www.example.org", use_edns=0, payload=1232)
        assert len(texts(wide)) == 60 and not wide.flags & dns.flags.TC
        query = dns.message.make_query("www.example.org", "A")
        assert len(texts(await desk.send(query, over_tcp=True))) == 60


async def test_a_name_server_is_asked_over_ipv6() -> None:
    async with open_name_server(ZONE, host="::1") as server:
        desk = open_desk(server.address, allow=["*"])
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]


async def test_twenty_addresses_are_all_open() -> None:
    zone = make_zone(www_example_org=";".join(f"A 198.51.100.{n}" for n in range(20)))
    async with open_world(zone, allow=["www.example.org"]) as (desk, _):
        found = texts(await desk.ask("www.example.org"))
        assert len(found) == 20
        assert all(desk.is_open(each) for each in found)


def closed_port() -> Upstream:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return "127.0.0.1", sock.getsockname()[1]


async def test_the_next_name_server_is_asked_when_one_is_not_there_or_knows_nothing() -> None:
    def fail(query: Message, transport: str) -> list[Said]:
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.SERVFAIL)
        return [reply]

    async with open_name_server(ZONE) as good, open_name_server(fail) as bad:
        desk = open_desk(closed_port(), bad.address, good.address, allow=["*"])
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]
        assert (len(bad.asked), len(good.asked)) == (1, 1)


async def test_where_none_answers_the_answer_is_that_nobody_knows() -> None:
    desk = open_desk(closed_port(), allow=["*"])
    reply = await desk.ask("www.example.org")
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert desk.told[0].allowed
    assert "refused" in desk.told[0].failure


async def test_a_name_server_behind_an_interface_that_is_gone_does_not_answer() -> None:
    reply = await open_desk(("fe80::1%gone0", 53), allow=["*"]).ask("www.example.org")
    assert reply.rcode() == dns.rcode.SERVFAIL


async def test_a_silent_name_server_costs_its_time_and_the_next_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_module, "TRY_S", 0.3)
    async with open_name_server(lambda *_: []) as silent, open_name_server(ZONE) as good:
        desk = open_desk(silent.address, good.address, allow=["*"])
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]


async def test_a_lost_datagram_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "TRY_S", 0.3)
    lost: list[int] = []

    def say(query: Message, transport: str) -> list[Said]:
        lost.append(query.id)
        return [] if len(lost) == 1 else ZONE(query, transport)

    async with open_world(say, allow=["*"]) as (desk, _):
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]


async def test_a_server_that_has_never_heard_of_edns_is_asked_without() -> None:
    def say(query: Message, transport: str) -> list[Said]:
        if query.edns < 0:
            return ZONE(query, transport)
        reply = dns.message.make_response(query)
        reply.use_edns(False)
        reply.set_rcode(dns.rcode.FORMERR)
        return [reply]

    async with open_world(say, allow=["*"]) as (desk, _):
        assert texts(await desk.ask("www.example.org")) == ["198.51.100.7"]


# -- many at once ---------------------------------------------------------------------------------


async def ask_all(desk: Desk, names: Iterable[str]) -> list[Message]:
    replies: list[Message] = []

    async def ask(name: str) -> None:
        replies.append(await desk.ask(name))

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)
    return replies


async def test_the_same_question_is_on_its_way_only_once() -> None:
    async with open_world(ZONE, allow=["*"]) as (desk, server):
        replies = await ask_all(desk, ["www.example.org"] * 200)
        assert all(texts(each) == ["198.51.100.7"] for each in replies)
        assert len(server.asked) == 1
        assert len(desk.told) == 200


async def test_a_hundred_questions_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MAX_ASKING", 4)
    names = [f"n{n}.example.org" for n in range(100)]
    async with open_world(ZONE, allow=["*"]) as (desk, server):
        replies = await ask_all(desk, names)
        assert {each.rcode() for each in replies} == {dns.rcode.NXDOMAIN}
        assert len(server.asked) == 100


async def test_too_many_that_wait_are_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "WHOLE_S", 1.5)
    monkeypatch.setattr(resolver_module, "ASKED_BURST", 1000)
    names = [f"n{n}.example.org" for n in range(resolver_module.MAX_WAITING + 10)]
    async with open_world(lambda *_: [], allow=["*"]) as (desk, _):
        replies = await ask_all(desk, names)
        assert {each.rcode() for each in replies} == {dns.rcode.SERVFAIL}
        failures = [each.failure for each in desk.told]
        assert failures.count("too many questions at once") == 10
        assert failures.count("no name server answers") == resolver_module.MAX_WAITING


async def test_a_flood_of_names_does_not_reach_the_name_servers() -> None:
    names = [f"n{n}.example.org" for n in range(resolver_module.ASKED_BURST + 20)]
    async with open_world(ZONE, allow=["*"]) as (desk, server):
        for name in names:
            await desk.ask(name)
        assert len(server.asked) == resolver_module.ASKED_BURST
        assert [each.failure for each in desk.told][-20:] == ["too many questions at once"] * 20
        desk.now_s += 1
        assert (await desk.ask("www.example.org")).rcode() == dns.rcode.NOERROR


async def test_a_flood_is_answered_without_a_look_at_it() -> None:
    desk = open_desk()
    rcodes = [(await desk.ask("www.example.org")).rcode() for _ in range(1005)]
    assert rcodes.count(dns.rcode.SERVFAIL) == 5
    assert desk.told[-1] == Query("", "", False, "more than 500 questions a second")
    desk.now_s += 1
    assert (await desk.ask("www.example.org")).rcode() == dns.rcode.NXDOMAIN


# -- streams --------------------------------------------------------------------------------------


def frame(packet: bytes) -> bytes:
    return len(packet).to_bytes(2, "big") + packet


async def read_frame(stream: trio.abc.ReceiveStream) -> Message | None:
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        size = 2 + int.from_bytes(data[:2], "big") if len(data) >= 2 else 2
        more = await stream.receive_some(size - len(data))
        if not more:
            return None
        data += more
    return dns.message.from_wire(data[2:])


async def test_a_connection_asks_several_at_once_and_in_pieces() -> None:
    query = dns.message.make_query
    async with open_world(ZONE, allow=["*"]) as (desk, _), trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(desk.resolver.serve_stream, theirs)
        asked = [query("www.example.org", "A"), query("www.example.org", "AAAA")]
        for byte in b"".join(frame(each.to_wire()) for each in asked):
            await ours.send_all(bytes([byte]))
        replies = [await read_frame(ours), await read_frame(ours)]
        assert {each.id for each in replies if each} == {each.id for each in asked}
        await ours.send_eof()
        assert await read_frame(ours) is None


@pytest.mark.parametrize(
    "data", [b"\0", b"\0\0", b"\xff\xff" + b"x" * 100, frame(b"no question"), frame(bytes(513))]
)
async def test_a_connection_without_a_question_is_closed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "IDLE_S", 0.3)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_desk().resolver.serve_stream, theirs)
        await ours.send_all(data)
        assert await read_frame(ours) is None


async def test_whoever_never_reads_his_answers_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "IDLE_S", 0.3)
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_desk().resolver.serve_stream, theirs)
        questions = frame(dns.message.make_query("a.org", "A").to_wire()) * 100
        await ours.send_all(questions)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(questions)


# -- the host's name servers ----------------------------------------------------------------------


def test_name_servers_are_those_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\n; x\nsearch example.org\nnameserver\t127.0.0.53 # stub\n"
        "nameserver fe80::1%eth0\nnameserver nonsense\nnameserver 2001:db8::53\n"
        "nameserver 127.0.0.53\nnameserver 192.0.2.4\noptions edns0\n"
    )
    assert read_upstreams(str(path)) == (
        ("127.0.0.53", 53),
        ("fe80::1%eth0", 53),
        ("2001:db8::53", 53),
    )


@pytest.mark.parametrize("text", ["", "search example.org\n", "nameserver nonsense\n", "\0\xff"])
def test_a_host_without_name_servers_is_told_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(HostError, match="names no name server") as caught:
        read_upstreams(str(path))
    assert "--dns" in (caught.value.remedy or "")
    with pytest.raises(HostError, match="No such file"):
        read_upstreams(str(tmp_path / "missing"))


@given(st.lists(st.text(max_size=80), max_size=10))
def test_whatever_is_in_resolv_conf_is_read(lines: list[str]) -> None:
    assert len(parse_upstreams(lines)) <= 3


# -- bytes ----------------------------------------------------------------------------------------

SEEDS = st.sampled_from(
    [
        dns.message.make_query("www.example.org", "A").to_wire(),
        dns.message.make_query("www.example.org", "AAAA", use_edns=0).to_wire(),
        dns.message.make_query(".", "NS").to_wire(),
    ]
)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Questions with some bytes changed, cut or added; or nothing of the kind."""
    data = bytearray(draw(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(st.one_of(packets(), st.binary(max_size=600)))
def test_whatever_comes_is_a_question_or_is_answered_or_ignored(packet: bytes) -> None:
    found = parse_question(packet)
    echo = make_echo(packet, dns.rcode.SERVFAIL)
    is_reply = len(packet) < 12 or packet[2] & 0x80
    assert (found is None) == (echo is None) == bool(is_reply)
    for reply in (found, echo):
        if isinstance(reply, bytes):
            assert reply[:2] == packet[:2] and reply[2] & 0x80
    if isinstance(found, bytes):
        assert dns.message.from_wire(found).rcode() != dns.rcode.NOERROR
    if isinstance(found, Question):
        assert found.name.isascii() and len(found.name) <= 255
        assert 512 <= found.limit_bytes <= 4096


@given(st.one_of(packets(), st.binary(min_size=12, max_size=600)))
def test_whatever_comes_the_answer_can_be_read(packet: bytes) -> None:
    async def answer() -> bytes | None:
        return await open_desk(("127.0.0.1", 1), observe=False).resolver.answer(packet)

    reply = trio.run(answer)
    if reply is not None:
        assert dns.message.from_wire(reply).id == int.from_bytes(packet[:2], "big")
        assert len(reply) <= 4096


@pytest.mark.parametrize(
    ("patch", "rcode"),
    [
        ({"flags": 0x2000}, dns.rcode.NOTIMP),
        ({"flags": 0x2800}, dns.rcode.NOTIMP),
        ({"questions": 0}, dns.rcode.FORMERR),
        ({"questions": 2}, dns.rcode.FORMERR),
        ({"answers": 1}, dns.rcode.FORMERR),
        ({"additional": 3}, dns.rcode.FORMERR),
        ({"additional": 1}, dns.rcode.FORMERR),
    ],
)
async def test_heads_that_promise_something_else_are_answered_as_by_any_server(
    patch: dict[str, int], rcode: int
) -> None:
    head = {"id": 77, "flags": 0x0100, "questions": 1, "answers": 0, "authority": 0}
    numbers = {**head, "additional": 0, **patch}.values()
    packet = b"".join(each.to_bytes(2, "big") for each in numbers) + b"\1a\3org\0\0\1\0\1"
    reply = await open_desk().resolver.answer(packet)
    assert reply is not None
    assert (reply[:2], reply[3] & 0x0F) == (b"\0\x4d", rcode)


@pytest.mark.parametrize(("payload", "limit"), [(0, 512), (1232, 1232), (65535, 4096)])
def test_a_datagram_is_as_large_as_the_client_takes_within_reason(payload: int, limit: int) -> None:
    query = dns.message.make_query("a.org", "A", use_edns=0, payload=payload)
    question = parse_question(query.to_wire())
    assert isinstance(question, Question) and question.limit_bytes == limit


@pytest.mark.parametrize(("size", "rcode"), [(400, dns.rcode.NXDOMAIN), (500, dns.rcode.FORMERR)])
async def test_a_question_is_a_short_one(size: int, rcode: int) -> None:
    option = dns.edns.GenericOption("65001", bytes(size))
    query = dns.message.make_query("a.org", "A", use_edns=0, options=[option])
    reply = await open_desk().resolver.answer(query.to_wire(max_size=4096))
    assert reply is not None and dns.message.from_wire(reply).rcode() == rcode


@pytest.mark.parametrize("section", ["answer", "authority"])
async def test_a_question_comes_without_records(section: str) -> None:
    query = dns.message.make_query("a.org", "A")
    getattr(query, section).append(dns.rrset.from_text("a.org.", 60, "IN", "A", "192.0.2.1"))
    reply = await open_desk(allow=["*"]).resolver.answer(query.to_wire())
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


async def test_an_answer_is_not_answered() -> None:
    reply = dns.message.make_response(dns.message.make_query("a.org", "A"))
    assert await open_desk().resolver.answer(reply.to_wire()) is None
