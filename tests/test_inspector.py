"""What is looked into, what isn't, and that no bytes and no way of cutting them break it."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jail.egress.held import MAX_HELD_BYTES
from jail.egress.inspector import MAX_NAMES, Inspector, Refused
from tests.spoken import (
    ALLOWED,
    OTHER,
    Outcome,
    inspect,
    make_hello,
    make_request,
    make_server_hello,
)

MiB: Final = 1024 * 1024
thoroughly: Final = settings(
    max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
ASK_TLS: Final = bytes.fromhex("0000000804d2162f")
ASK_GSS: Final = bytes.fromhex("0000000804d21630")

OTHERS: Final = {
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    "smtp": b"EHLO [192.0.2.1]\r\n",
    "irc": b"NICK me\r\nUSER me 0 * :me /away\r\n",
    "redis": b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n",
    "redis inline": b"PING\r\n",
    "nats": b'CONNECT {"verbose":false}\r\n',
    "amqp": b"AMQP\0\0\x09\x01",
    "socks": b"\x05\x01\0",
    "mqtt": b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc",
    "postgres": b"\0\0\0\x17\0\3\0\0user\0postgres\0\0",
    "mysql": b"\x20\0\0\1\x85\xa6\xff\1\0\0\0\1\x2d" + bytes(23),
    "mysql with a long answer": b"\xb4\0\0\1\x85\xa6\xff\1\0\0\0\1\x2d" + bytes(23),
    "mongo": b"\x16\1\0\0\1\0\0\0\0\0\0\0\xdd\7\0\0" + bytes(20),
    "bittorrent": b"\x13BitTorrent protocol" + bytes(48),
    "git": b"0032git-upload-pack /project.git\0host=allowed.org\0",
    "xmpp": b"<stream:stream to='allowed.org' xmlns:stream='http://etherx.jabber.org/streams'>",
    "json": b'{"path": "/x", "url": "http://x/"}\n',
    "half a line": b"ping",
    "an empty line": b"\r\n",
    "imap": b"a1 CAPABILITY\r\n",
    "dns": b"\0\x1d\xab\xcd\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1",
    "zeros": bytes(1000),
}


def cut(data: bytes) -> list[bytes]:
    """A byte at a time."""
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_neither_tls_nor_http_goes_at_once(what: str) -> None:
    """Its client may wait for an answer to just this."""
    data = OTHERS[what]
    for pieces in ([data], cut(data)):
        assert inspect(pieces, [])[:3] == (data, [], None)


def test_after_a_first_line_that_is_no_request_nothing_is_looked_at() -> None:
    rest = make_hello(OTHER) + make_request(OTHER)
    outcome = inspect([b"EHLO x\r\n", b"STARTTLS\r\n", rest], [])
    assert outcome == (b"EHLO x\r\nSTARTTLS\r\n" + rest, [], None, None, True)


def test_a_first_line_is_looked_at_however_long_and_strange_it_is() -> None:
    inspector = Inspector(lambda name: False)
    for _ in range(15):
        assert inspector.feed(bytes(100_000)) == bytes(100_000)
    with pytest.raises(Refused):
        inspector.feed(b" HTTP/1.1\r\n")


def test_the_end_of_a_long_first_line_is_not_taken_for_all_of_it() -> None:
    host = "a" * 48 + ".org"
    request = make_request(host, f"{host}:443", "CONNECT")
    assert inspect([request[:64], request[64:]], [host]).names == [host]
    for before in (b"\x01" * 100, b"x", b"x" * 100):
        assert inspect([before + request[:64], request[64:]], [host]).names == []
        assert inspect([before + request[:64], request[64:]], [host]).reason is not None


def test_bytes_without_an_end_of_line_are_let_go_at_last() -> None:
    inspector = Inspector(lambda name: False)
    for _ in range(3):
        inspector.feed(bytes(MiB))
    assert inspector.is_done


@pytest.mark.parametrize("ask", [ASK_TLS, ASK_GSS + ASK_TLS])
def test_what_postgresql_says_after_it_has_asked_for_tls_is_looked_into(ask: bytes) -> None:
    for pieces in ([ask, make_hello()], cut(ask + make_hello())):
        assert inspect(pieces)[:3] == (ask + make_hello(), [ALLOWED], None)
    outcome = inspect([ask, make_hello(OTHER)])
    assert (outcome.out, outcome.refused_name) == (ask, OTHER)
    assert inspect([ask, OTHERS["postgres"]], []).reason is None


def test_a_proxy_protocol_header_would_hide_what_comes() -> None:
    binary = b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + bytes(12)
    for first in (binary, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"):
        for pieces in ([first + make_hello()], cut(first + make_hello())):
            assert inspect(pieces).reason is not None
            assert make_hello()[:1] not in inspect(pieces).out


def test_what_is_refused_stays_refused() -> None:
    inspector = Inspector(lambda name: False)
    for say in (inspector.feed, inspector.feed, inspector.tell, lambda _: inspector.end()):
        with pytest.raises(Refused) as caught:
            say(make_hello())
        assert caught.value.name == ALLOWED
        assert str(caught.value) == f"{caught.value.reason}: {ALLOWED}"


def test_the_answers_are_wanted_only_where_they_count() -> None:
    inspector = Inspector(lambda name: True)
    wanted = []
    for data in (b"", make_request(), make_request(ALLOWED, "/", "POST", "Content-Length: 0")):
        inspector.feed(data)
        wanted.append(inspector.wants_answers)
    assert wanted == [False] * 3
    inspector = Inspector(lambda name: True)
    inspector.tell(b"220 hello\r\n")
    inspector.feed(make_hello())
    assert inspector.wants_answers
    inspector.tell(make_server_hello())
    assert inspector.is_done


def test_a_server_that_says_a_lot_of_nonsense_is_not_kept_in_memory() -> None:
    inspector = Inspector(lambda name: True)
    inspector.feed(make_hello())
    for _ in range(100):
        inspector.tell(b"\x16\x03\x03\xff\xff" + bytes(MiB))
    assert len(inspector._server) <= MAX_HELD_BYTES


def test_names_are_counted_up_to_a_limit() -> None:
    inspector = Inspector(lambda name: True)
    for number in range(MAX_NAMES * 3):
        inspector.feed(make_request(f"a{number}.org"))
    assert inspector.names == [f"a{number}.org" for number in range(MAX_NAMES)]


@pytest.mark.parametrize("field", ["Content-Length: {0}", "Transfer-Encoding: chunked"])
def test_an_upload_is_copied_nowhere(field: str) -> None:
    piece = bytes(MiB)
    inspector = Inspector(lambda name: True)
    inspector.feed(make_request(ALLOWED, "/", "PUT", field.format(200 * MiB)))
    if "chunked" in field:
        inspector.feed(b"%x\r\n" % (200 * MiB))
    inspector.feed(b"x" * 10_000)
    started = time.process_time()
    assert all(inspector.feed(piece) is piece for _ in range(100))
    assert time.process_time() - started < 0.1


def test_early_data_is_let_through_as_it_comes() -> None:
    inspector = Inspector(lambda name: True)
    inspector.feed(make_hello())
    said = b"\x17\x03\x03\x40\0" + bytes(2**14)
    assert b"".join(inspector.feed(each) for each in cut(said * 2)) == said * 2


SEEDS: Final = (
    make_hello(),
    make_hello(OTHER),
    make_hello()[:-20],
    ASK_TLS,
    *OTHERS.values(),
    make_request(),
    make_request(OTHER),
    make_request(ALLOWED, "/", "POST", "Content-Length: 4", body=b"GET "),
    make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked") + b"4\r\nabcd\r\n0\r\n\r\n",
    make_request(ALLOWED, "/", "GET", "Upgrade: websocket"),
    make_request(f"{ALLOWED}:443", f"{ALLOWED}:443", "CONNECT"),
    *(b"GET", b" ", b"/", b" HTTP/1.1", b"\r\n", b"Host: allowed.org", b"\n", b"\0", b"\xa0"),
    *(b"FOO", b"http://", b"CONNECT ", b"{", b"\x16\x03", b"\x80.\x01", b"*", b"x" * 70),
)
pieces = st.one_of(st.sampled_from(SEEDS), st.binary(max_size=40))
streams = st.lists(pieces, max_size=8).map(b"".join)
answers = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"HTTP/1.1 101 x\r\n\r\n",
            b"HTTP/1.1 200 x\r\n\r\n",
            make_server_hello(),
            make_server_hello(is_retry=True),
        ]
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream with a few bytes changed, dropped or put in."""
    data = bytearray(draw(streams))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def check_feeding(chunks: list[bytes], said: list[bytes]) -> Outcome:
    """Refused and nothing else is raised, little is held, and what comes out is what went in."""
    whole = b"".join(chunks)
    inspector = Inspector(lambda name: name == ALLOWED)
    out, reason = b"", None
    try:
        for at, chunk in enumerate(chunks):
            out += inspector.feed(chunk)
            assert len(inspector._client) <= MAX_HELD_BYTES
            if at < len(said):
                out += inspector.tell(said[at])
        out += inspector.end()
    except Refused as refused:
        reason = refused.reason
    assert whole.startswith(out)
    return Outcome(out, inspector.names, reason, None, inspector.is_done)


@thoroughly
@given(mutated(), st.lists(answers, max_size=3))
def test_no_bytes_break_it(data: bytes, said: list[bytes]) -> None:
    third = len(data) // 3
    check_feeding([data[:third], data[third : 2 * third], data[2 * third :]], said)


@thoroughly
@given(st.lists(st.sampled_from([bytes(70_000), b"x" * 70_000, b" /" * 40_000, *SEEDS])))
def test_no_flood_is_held(chunks: list[bytes]) -> None:
    check_feeding(chunks, [])


@thoroughly
@given(mutated(), st.lists(st.integers(0, 400), max_size=12))
def test_however_it_is_cut_the_outcome_is_the_same(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(each for each in cuts if each < len(data))})
    parts = [data[a:b] for a, b in pairwise(places)]
    whole = check_feeding([data], [])
    for other in (check_feeding(parts, []), check_feeding(cut(data), [])):
        assert (other.names, other.is_done) == (whole.names, whole.is_done)
        assert other.out == whole.out if whole.reason is None else other.reason is not None


NAMES: Final = (ALLOWED, OTHER, "ALLOWED.org", "allowed.org:80", f"{ALLOWED}\tx", "")
VALUES: Final = ("4", "0", "+4", "04", "4, 4", "chunked", "identity", "Chunked", "", "\tx")
FIELDS: Final = ("Host", "host", "Content-Length", "Transfer-Encoding", "X", "Connection", "Host ")
ENDS: Final = ("\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ")
BODIES: Final = (b"", b"abcd", b"4\r\nabcd\r\n0\r\n\r\n", b"0\r\n\r\n", b"\r\n")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """More or less HTTP."""
    method = draw(st.sampled_from(["GET", "POST", "get", "HEAD", "FOO", "OPTIONS"]))
    targets = ["/", "/", "/", "*", f"http://{ALLOWED}/", f"http://{OTHER}/", "//x", "x"]
    version = draw(st.sampled_from(["HTTP/1.1"] * 5 + ["HTTP/1.0", "HTTP/0.9", "http/1.1"]))
    lines = [f"{method} {draw(st.sampled_from(targets))} {version}"]
    if draw(st.integers(0, 3)):
        lines.append(f"Host: {draw(st.sampled_from(NAMES))}")
    for _ in range(draw(st.integers(0, 2))):
        values = st.sampled_from(NAMES + VALUES)
        lines.append(f"{draw(st.sampled_from(FIELDS))}:{draw(values)}")
    text = "".join(line + draw(st.sampled_from(ENDS)) for line in lines) + "\r\n"
    return text.encode() + draw(st.sampled_from(BODIES))


def read_hosts(data: bytes) -> list[str]:
    """Of the requests that h11's server takes before it finds fault."""
    server = h11.Connection(h11.SERVER)
    hosts: list[str] = []
    server.receive_data(data)
    try:
        while True:
            event = server.next_event()
            if isinstance(event, h11.Request):
                target = event.target.decode("latin-1")
                named = target.split("/")[2] if target.startswith("http://") else ""
                hosts += [named or v.decode("latin-1") for k, v in event.headers if k == b"host"]
                server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                server.send(h11.EndOfMessage())
            elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                server.start_next_cycle()
            else:
                return hosts
    except h11.ProtocolError:
        return hosts


def normalise(host: str) -> str:
    """As a rule is asked for it."""
    return host.lower().partition(":")[0].rstrip(".")


@settings(thoroughly, max_examples=1500)
@given(st.lists(requests(), max_size=4).map(b"".join))
def test_what_is_let_through_h11_reads_the_same(data: bytes) -> None:
    outcome = inspect([data])
    seen = {normalise(each) for each in read_hosts(outcome.out)}
    assert seen <= {ALLOWED}
    if outcome.reason is None:
        assert {normalise(each) for each in read_hosts(data)} <= {ALLOWED}


def test_h11_does_read_other_hosts_out_of_what_isn_t_let_through() -> None:
    """The oracle above can find fault."""
    data = make_request() + make_request(OTHER, "/", "GET", "X: y").replace(b"\r\n", b"\n")
    assert read_hosts(data) == [ALLOWED, OTHER]
    assert inspect([data]).reason is not None
