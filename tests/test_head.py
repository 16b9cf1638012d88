"""The hosts in a stream of HTTP requests, and where each request ends."""

from __future__ import annotations

from typing import Final

import pytest

from jail.egress.head import Head, Leaving, parse_head
from jail.egress.name import Unclear, parse_authority
from tests.spoken import ALLOWED, OTHER, inspect, make_hello, make_request, make_server_hello

GET: Final = make_request()
ELSEWHERE: Final = make_request(OTHER)
CHUNKED: Final = make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked")
SOCKET: Final = make_request(ALLOWED, "/", "GET", "Upgrade: websocket", "Connection: Upgrade")
CONNECT: Final = make_request(f"{ALLOWED}:443", f"{ALLOWED}:443", "CONNECT")


def post(body: bytes, *fields: str) -> bytes:
    """With its length."""
    return make_request(ALLOWED, "/", "POST", f"Content-Length: {len(body)}", *fields, body=body)


def check_refused(data: bytes, reason: str) -> None:
    """Nothing of it goes, and that is why, in one piece as in many."""
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        outcome = inspect(pieces, is_ended=True)
        assert outcome.reason is not None and reason in outcome.reason, outcome
        assert len(outcome.out) < 33 and b"\n" not in outcome.out


def check_passes(data: bytes, names: list[str] | None = None) -> None:
    """All of it goes, in one piece as in many."""
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        outcome = inspect(pieces, is_ended=True)
        assert outcome[:3] == (data, [ALLOWED] if names is None else names, None)


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        make_request("Allowed.ORG"),
        make_request("allowed.org."),
        make_request("allowed.org:8080"),
        make_request(" allowed.org\t"),
        make_request(ALLOWED, "http://allowed.org/x?y"),
        make_request(ALLOWED, "HTTP://Allowed.org:80"),
        make_request(ALLOWED, "https://allowed.org?x"),
        make_request(ALLOWED, "*", "OPTIONS"),
        make_request(ALLOWED, "//other.org/", "M-SEARCH"),
        make_request(ALLOWED, "/", "get"),
        make_request(ALLOWED, "/", "GET", "X:", "Y: \xe9", "Expect: 100-continue"),
        make_request(ALLOWED, "/", "GET", "X-Forwarded-Host: other.org"),
        b"GET / HTTP/1.0\r\nhOST:allowed.org\r\n\r\n",
        post(b""),
        post(b"GET / HTTP/1.1"[:-1] + b"!x y\n"),
        post(b"x" * 20_000),
        post(b"\r\n\r\n\r\nx"),
        post(b"\r\n" * 40_000),
        CHUNKED + b"0\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n00A\r\n0123456789\r\n000\r\n\r\n",
    ],
)
def test_requests_that_go_as_they_are(request_: bytes) -> None:
    check_passes(request_)
    check_passes(request_ * 3)
    outcome = inspect([request_ + ELSEWHERE])
    assert (outcome.names, outcome.refused_name) == ([ALLOWED, OTHER], OTHER)


def test_the_next_request_on_a_connection_is_looked_at_too() -> None:
    outcome = inspect([GET, post(b"abc"), ELSEWHERE])
    assert outcome[:4] == (
        GET + post(b"abc"),
        [ALLOWED, OTHER],
        "this name is not allowed",
        OTHER,
    )


LINES: Final = {
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/0.9 with a host": b"GET http://other.org/\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": GET.replace(b"1.1", b"2.0"),
    "HTTP/1.2": GET.replace(b"1.1", b"1.2"),
    "HTTP/01.1": GET.replace(b"1.1", b"01.1"),
    "http/1.1": GET.replace(b"HTTP", b"http"),
    "two blanks": GET.replace(b" /", b"  /"),
    "a tab": GET.replace(b" /", b"\t/"),
    "a blank before": b" " + GET,
    "a blank after": GET.replace(b"1.1\r", b"1.1 \r"),
    "a line before": b"\r\n" + GET,
    "a bare LF before": b"\n" + GET,
    "0xa0 before": b"\xa0" + GET,
    "a form feed for a blank": GET.replace(b"T /", b"T\x0c/"),
    "0x85 for a blank": GET.replace(b"/ ", b"/\x85"),
    "a blank in the target": GET.replace(b"/ ", b"/ x "),
    "a NUL in the target": GET.replace(b"/ ", b"/\0 "),
    "8 bits in the target": GET.replace(b"/ ", b"/\xc3\xa4 "),
    "a bare LF behind": GET.replace(b"1.1\r\n", b"1.1\n"),
    "a bare CR behind": GET.replace(b"1.1\r\n", b"1.1\r"),
    "no method": GET.removeprefix(b"GET"),
    "a method that is none": GET.replace(b"GET", b"GE(T"),
    "a long method": GET.replace(b"GET", b"G" * 33),
    "a long method split": GET.replace(b"GET", b"G" * 100),
    "old Apache's any protocol": b"FOO / BAR\r\nHost: other.org\r\n\r\n",
    "RTSP": b"OPTIONS rtsp://other.org/ RTSP/1.0\r\n\r\n",
    "PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + ELSEWHERE,
}


@pytest.mark.parametrize("what", LINES)
def test_a_request_line_that_isn_t_strict(what: str) -> None:
    for pieces in ([LINES[what]], [LINES[what][at : at + 1] for at in range(len(LINES[what]))]):
        outcome = inspect(pieces, is_ended=True)
        assert outcome.reason is not None, outcome
        assert b"\n" not in outcome.out.lstrip(b"\r\n")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no Host"),
        (b"GET / HTTP/1.0\r\n\r\n", "no Host"),
        (b"GET http://allowed.org/ HTTP/1.1\r\n\r\n", "no Host"),
        (GET.replace(b"\r\n", b"\n"), "CRLF"),
        (GET.replace(b"1.1\r\n", b"1.1\r\nX: y\rHost: other.org\r\n"), "CRLF"),
        (GET.replace(b"1.1\r\n", b"1.1\r\nX: y\nHost: other.org\r\n"), "CRLF"),
        (GET.replace(b"org\r\n", b"org\r\r\n"), "CRLF"),
        (GET.replace(b"Host:", b"Host :"), "malformed line"),
        (GET.replace(b"Host:", b" Host:"), "malformed line"),
        (GET.replace(b": ", b":\r\n "), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\n\t.evil\r\n"), "malformed line"),
        (GET.replace(b"Host: ", b"Host "), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\nX: a\0b\r\n"), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\nX: a\x0bHost: other.org\r\n"), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\nX: a\x85Host: other.org\r\n"), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\n: a\r\n"), "malformed line"),
        (GET.replace(b"org\r\n", b"org\r\nHost: other.org\r\n"), "two Hosts"),
        (GET.replace(b"org\r\n", b"org\r\nhost: allowed.org\r\n"), "two Hosts"),
        (make_request(""), "malformed"),
        (make_request("allowed.org:"), "malformed"),
        (make_request("allowed.org:80:80"), "malformed"),
        (make_request("allowed.org:99999"), "malformed"),
        (make_request("allowed.org:+80"), "malformed"),
        (make_request("user@allowed.org"), "malformed"),
        (make_request("allowed.org@other.org"), "malformed"),
        (make_request("allowed.org other.org"), "malformed"),
        (make_request("allowed.org, other.org"), "malformed"),
        (make_request("allowed.org/other.org"), "malformed"),
        (make_request("allowed.org#.other.org"), "malformed"),
        (make_request("allowed..org"), "malformed"),
        (make_request("allowed.org.."), "malformed"),
        (make_request("[::1"), "malformed"),
        (make_request("[::1%25eth0]"), "malformed"),
        (make_request("[allowed.org]"), "malformed"),
        (make_request("0x7f.1"), "malformed"),
        (make_request("127.1"), "malformed"),
        (make_request("010.0.0.1"), "malformed"),
        (make_request(ALLOWED, "http://other.org/"), "another host than its Host"),
        (make_request(OTHER, "http://allowed.org/"), "another host than its Host"),
        (make_request(ALLOWED, "http://allowed.org@other.org/"), "malformed"),
        (make_request(ALLOWED, "http://allowed.org\\@other.org/"), "neither a path"),
        (make_request(ALLOWED, "http://allowed.org#@other.org/"), "neither a path"),
        (make_request(ALLOWED, "http:///x"), "neither a path"),
        (make_request(ALLOWED, "http:/other.org/x"), "neither a path"),
        (make_request(ALLOWED, "ftp://allowed.org/x"), "neither a path"),
        (make_request(ALLOWED, "allowed.org:80"), "neither a path"),
        (make_request(ALLOWED, "*"), "neither a path"),
        (make_request(ALLOWED, "index.html"), "neither a path"),
    ],
)
def test_a_head_from_which_the_host_can_t_be_told(head: bytes, reason: str) -> None:
    check_refused(head, reason)


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "content-length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 05",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5 5",),
        ("Content-Length: 5_0",),
        ("Content-Length:",),
        ("Content-Length: ٥",),
        ("Content-Length: 9999999999999999999",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ('Transfer-Encoding: "chunked"',),
        ("Transfer-Encoding:",),
    ],
)
def test_a_body_whose_end_can_be_read_two_ways(fields: tuple[str, ...]) -> None:
    check_refused(make_request(ALLOWED, "/", "POST", *fields, body=b"12345"), "no clear end")


def test_http_1_0_knows_no_chunks() -> None:
    check_refused(CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", "no clear end")


@pytest.mark.parametrize(
    "body",
    [
        b"5;x\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"0\r\nHost: other.org\r\n\r\n",
        b"0\r\n\n",
        b"0000000000000000000005\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello",
    ],
)
def test_chunks_that_aren_t_strict(body: bytes) -> None:
    for pieces in ([CHUNKED + body], [CHUNKED, *(body[i : i + 1] for i in range(len(body)))]):
        outcome = inspect([*pieces, ELSEWHERE], is_ended=True)
        assert outcome.reason is not None
        assert outcome.names == [ALLOWED]


@pytest.mark.parametrize("body", [b"", b"5", b"5\r", b"5\r\nhel", b"5\r\nhello\r\n", b"0\r\n"])
def test_a_client_may_give_up_in_the_middle_of_a_body(body: bytes) -> None:
    check_passes(CHUNKED + body)
    check_passes(post(b"x" * 99)[:-9])


@pytest.mark.parametrize(
    "body",
    [
        ELSEWHERE,
        b"\r\n\r\n" + ELSEWHERE,
        b"GET http://other.org/ HTTP/1.0",
        b"x\t/ http/1.1 \n",
        b"GET http://other.org/\n",
        b"GET http://other.org/" + b"x" * 60_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_body_that_a_server_may_take_for_a_request(body: bytes) -> None:
    """Such a server forgets to read the body: CL.0, as it is called."""
    request = post(body)
    for pieces in ([request], [request[at : at + 1] for at in range(len(request))]):
        outcome = inspect(pieces)
        assert outcome.reason is not None and "like another request" in outcome.reason


def test_a_request_in_a_body_is_seen_however_it_is_cut() -> None:
    request = post(b"\r\n" + ELSEWHERE)
    for at in range(len(request)):
        assert inspect([request[:at], request[at:]]).reason is not None


def test_a_log_may_be_posted() -> None:
    check_passes(post(b'192.0.2.1 - - [1/Jan/2026] "GET / HTTP/1.1" 200 5 "-" "x"\n' * 100))


def test_an_endless_head_is_refused() -> None:
    check_refused(GET[:-2] + b"X: " + b"y" * 70_000, "too long")
    check_refused(make_request(ALLOWED, "/" + "y" * 70_000), "not a request line")
    check_refused(b"FOO /" + b"y" * 70_000, "not a request line")
    check_passes(make_request(ALLOWED, "/" + "y" * 9_000))


@pytest.mark.parametrize(
    "field",
    [
        "Upgrade: h2c",
        "Upgrade: websocket, h2c",
        "Upgrade: TLS/1.2",
        "Upgrade: HTTP/2.0",
        "Upgrade:",
    ],
)
def test_an_upgrade_to_what_carries_names_of_its_own_is_not_followed(field: str) -> None:
    request = make_request(ALLOWED, "/", "GET", field)
    answers = {1: b"HTTP/1.1 101 Switching Protocols\r\n\r\n"}
    assert inspect([request, GET], answers=answers)[:3] == (request + GET, [ALLOWED], None)
    for then in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", make_hello(), b"\0\0\0\4\0\0\0\0\0\n"):
        outcome = inspect([request, then], answers=answers, is_ended=True)
        assert outcome.reason is not None and outcome.out == request


def test_a_websocket_is_one_when_the_server_has_said_so() -> None:
    frames = b"\x81\x85\x01\x03\x03\x03hello" + b"\n GET / HTTP/1.1\r\nHost: other.org\r\n\r\n"
    yes = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    for answer in (yes, early + yes):
        outcome = inspect([SOCKET, frames], answers={1: answer})
        assert outcome == (SOCKET + frames, [ALLOWED], None, None, True)
        parts = inspect([SOCKET, b"", frames], answers={1: answer[:30], 2: answer[30:]})
        assert parts == outcome


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 426 x\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 1010 x\r\n\r\n",
        b"garbage\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_without_the_server_s_consent_it_stays_a_stream_of_requests(answer: bytes) -> None:
    for first in (SOCKET, CONNECT):
        outcome = inspect([first, GET, ELSEWHERE], answers={1: answer})
        assert (outcome.out, outcome.refused_name) == (first + GET, OTHER)
        outcome = inspect([first, b"SSH-2.0-x\r\n"], answers={1: answer})
        assert outcome.reason is not None and outcome.out == first


def test_what_is_said_before_the_answer_waits_for_it() -> None:
    outcome = inspect([SOCKET + ELSEWHERE], answers={})
    assert outcome[:3] == (SOCKET, [ALLOWED], None)
    assert not outcome.is_done
    said = inspect([SOCKET + b"x", b""], answers={1: b"HTTP/1.1 101 x\r\n\r\n"})
    assert said.out == SOCKET + b"x"
    flood = inspect([SOCKET, bytes(70_000)])
    assert flood.reason is not None and flood.out == SOCKET


def test_only_the_first_request_may_lead_out_of_http() -> None:
    """The answer to a later one can't be told from a part of an earlier answer's body."""
    for later in (SOCKET, CONNECT):
        outcome = inspect([GET, later], answers={1: b"HTTP/1.1 101 x\r\n\r\n"})
        assert outcome.reason is not None and "isn't the first" in outcome.reason


AGREED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    ("tunnelled", "names", "is_refused"),
    [
        (make_hello(ALLOWED), [ALLOWED], False),
        (make_hello(OTHER), [ALLOWED, OTHER], True),
        (GET, [ALLOWED], False),
        (ELSEWHERE, [ALLOWED, OTHER], True),
        (b"SSH-2.0-x\r\n", [ALLOWED], False),
    ],
)
def test_a_tunnel_is_looked_into_from_its_start(
    tunnelled: bytes, names: list[str], is_refused: bool
) -> None:
    outcome = inspect([CONNECT, tunnelled], answers={1: AGREED})
    assert (outcome.names, outcome.reason is not None) == (names, is_refused)
    assert outcome.out == CONNECT + (b"" if is_refused else tunnelled)


def test_tls_in_a_tunnel_is_followed_as_outside() -> None:
    answers = {1: AGREED, 2: make_server_hello(is_retry=True)}
    good, bad = (inspect([CONNECT, make_hello(), make_hello(n)], answers=answers) for n in NAMES)
    assert good.is_done
    assert bad.reason is not None


NAMES: Final = (ALLOWED, OTHER)


def test_a_tunnel_in_a_tunnel_and_so_on() -> None:
    few = dict.fromkeys(range(1, 10), AGREED)
    assert inspect([CONNECT] * 3 + [GET], answers=few).out == CONNECT * 3 + GET
    many = inspect([CONNECT] * 9, answers=few)
    assert many.reason is not None and "too many tunnels" in many.reason


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (make_request(OTHER, f"{OTHER}:443", "CONNECT"), "not allowed"),
        (make_request(ALLOWED, f"{OTHER}:443", "CONNECT"), "another host"),
        (make_request(OTHER, f"{ALLOWED}:443", "CONNECT"), "another host"),
        (make_request(ALLOWED, ALLOWED, "CONNECT"), "without a port"),
        (make_request(ALLOWED, "/", "CONNECT"), "without a port"),
        (make_request(ALLOWED, f"{ALLOWED}:443", "CONNECT", "Content-Length: 5"), "with a body"),
        (make_request(ALLOWED, f"{ALLOWED}:1", "CONNECT", "Upgrade: websocket"), "or an upgrade"),
        (CONNECT.replace(b" HTTP/1.1", b""), "not a request line"),
    ],
)
def test_a_connect_to_elsewhere(request_: bytes, reason: str) -> None:
    for pieces in ([request_], [request_[at : at + 1] for at in range(len(request_))]):
        outcome = inspect(pieces)
        assert outcome.reason is not None and reason in outcome.reason


def test_a_connect_without_host_as_python_says_it() -> None:
    text = b"CONNECT allowed.org:443 HTTP/1.0\r\n"
    assert parse_head(text) == Head(ALLOWED, 0, Leaving.TUNNEL)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1:80", "192.0.2.1"),
        (b"[2001:DB8:0::1]:80", "2001:db8::1"),
        (b"[::ffff:127.0.0.1]", "::ffff:7f00:1"),
        (b"a_b-c.org:1", "a_b-c.org"),
        (b"localhost", "localhost"),
    ],
)
def test_hosts_as_the_rules_are_asked_for_them(text: bytes, host: str) -> None:
    assert parse_authority(text) == host


def test_a_host_that_is_none() -> None:
    for text in (b"", b".", b"-a", b"a-", b"a b", b"\xe4", b"a:b", b"[1.2.3.4]", b"1.2.3", b"[]"):
        with pytest.raises(Unclear):
            parse_authority(text)
