"""The server's name in a TLS hello: the one there is, or a reason why it can't be told."""

from __future__ import annotations

import ssl
from typing import Final

import pytest

from jail.egress.held import Held
from jail.egress.hello import Answer, Greeting, is_tls, parse_hello
from jail.egress.name import Unclear
from tests.spoken import (
    ALLOWED,
    OTHER,
    VERSIONS,
    Client,
    inspect,
    make_client_context,
    make_hello,
    make_message,
    make_server_hello,
    record,
    server_name,
    vector,
)

HELLO: Final = make_hello()
MESSAGE: Final = HELLO[5:]
CCS: Final = record(b"\x01", 20)
DATA: Final = record(bytes(100), 23)


def check_refused(data: bytes, reason: str) -> None:
    """Nothing of it goes, and that is why."""
    outcome = inspect([data, b""])
    assert outcome.reason is not None and reason in outcome.reason, outcome
    assert outcome.out == b""


def test_a_hello_for_an_allowed_name_goes_as_it_is() -> None:
    outcome = inspect([HELLO])
    assert outcome[:3] == (HELLO, [ALLOWED], None)


def test_a_hello_for_another_name_is_refused_by_name() -> None:
    outcome = inspect([make_hello(OTHER)])
    assert outcome[:4] == (b"", [OTHER], "this name is not allowed", OTHER)


def test_upper_case_is_the_same_name() -> None:
    assert inspect([make_hello("ALLOWED.Org")]).names == [ALLOWED]


@pytest.mark.parametrize("minor", range(5))
def test_every_version_of_a_record_that_there_is(minor: int) -> None:
    assert inspect([record(MESSAGE, version=bytes([3, minor]))]).reason is None


@pytest.mark.parametrize("version", [b"\x03\x05", b"\x03\xff", b"\x00\x02", b"\x02\0", b"\x0f\0"])
def test_a_record_of_another_version_is_refused(version: bytes) -> None:
    """Go takes the last three: all below 0x1000."""
    check_refused(record(MESSAGE, version=version), "no version that there is")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50, len(MESSAGE) - 1])
def test_a_hello_over_several_records(size: int) -> None:
    parts = [record(MESSAGE[at : at + size]) for at in range(0, len(MESSAGE), size)]
    assert inspect([b"".join(parts)]).names == [ALLOWED]
    assert inspect([*parts]).out == b"".join(parts)


def test_a_hello_a_byte_at_a_time_goes_when_it_is_whole() -> None:
    pieces = [HELLO[at : at + 1] for at in range(len(HELLO))]
    assert inspect(pieces[:-1]).out == b""
    assert inspect(pieces).out == HELLO


def test_large_hellos_are_taken_and_endless_ones_are_not() -> None:
    parts = make_message(server_name(ALLOWED.encode()), (21, bytes(40_000)))
    records = [record(parts[at : at + 2**14]) for at in range(0, len(parts), 2**14)]
    assert inspect(records).out == b"".join(records)
    check_refused(record(b"\x01\x01\x00\x00"), "too long")
    slow = b"".join(record(bytes([each])) for each in b"\x01" + vector(bytes(40_000), 3))
    check_refused(slow, "isn't said in")


@pytest.mark.parametrize("size", [0, 2**14 + 1])
def test_a_record_without_content_or_with_too_much(size: int) -> None:
    check_refused(record((MESSAGE + bytes(2**15))[:size]), "something else than a ClientHello")


@pytest.mark.parametrize(
    "first",
    [
        record(b"\x01\x70", 21),
        record(b"\x02\x28", 21),
        CCS,
        DATA,
        record(b"\x01\0\x01x", 24),
        record(b"\0\0\0\0"),
        record(b"\x10\0\0\0"),
    ],
)
def test_something_else_than_a_hello_first(first: bytes) -> None:
    """OpenSSL and Go drop a warning that comes first, and take the hello behind it."""
    check_refused(first + HELLO, "something else than a ClientHello")


def test_an_alert_between_the_parts_of_a_hello() -> None:
    halves = record(MESSAGE[:20]) + record(b"\x01\0", 21) + record(MESSAGE[20:])
    check_refused(halves, "something else than a ClientHello")


def test_something_behind_the_hello_in_its_record() -> None:
    check_refused(record(MESSAGE + make_hello(OTHER)[5:]), "something follows")


BARE: Final = make_message(VERSIONS)
UNCLEAR: Final = {
    "no extensions": (make_message(), "no server_name"),
    "no server_name": (make_message(VERSIONS), "no server_name"),
    "an empty name": (make_message(server_name(b"")), "name is malformed"),
    "an empty list": (make_message((0, b"\0\0")), "malformed"),
    "an empty extension": (make_message((0, b"")), "malformed"),
    "two names": (make_message(server_name(b"allowed.org", b"other.org")), "malformed"),
    "the same name twice": (make_message(server_name(b"allowed.org", b"allowed.org")), "malformed"),
    "another type": (make_message(server_name(b"allowed.org", kind=1)), "something else than a"),
    "another type first": (
        make_message((0, vector(b"\x01\0\x01x\0" + vector(b"allowed.org", 2), 2))),
        "something else than a",
    ),
    "two extensions": (
        make_message(server_name(b"allowed.org"), server_name(b"other.org")),
        "twice",
    ),
    "another extension twice": (
        make_message(server_name(b"allowed.org"), VERSIONS, VERSIONS),
        "twice",
    ),
    "more behind the list": (make_message((0, server_name(b"allowed.org")[1] + b"\0")), "malform"),
    "a NUL": (make_message(server_name(b"allowed.org\0.other.org")), "name is malformed"),
    "a last dot": (make_message(server_name(b"allowed.org.")), "name is malformed"),
    "a first dot": (make_message(server_name(b".allowed.org")), "name is malformed"),
    "a blank": (make_message(server_name(b"allowed.org ")), "name is malformed"),
    "a port": (make_message(server_name(b"allowed.org:443")), "name is malformed"),
    "no ASCII": (make_message(server_name("ällowed.org".encode())), "name is malformed"),
    "a star": (make_message(server_name(b"*.allowed.org")), "name is malformed"),
    "an address": (make_message(server_name(b"192.0.2.1")), "an address stands"),
    "an address in hex": (make_message(server_name(b"0xc0000201")), "an address stands"),
    "an IPv6 address": (make_message(server_name(b"2001:db8::1")), "name is malformed"),
    "a long name": (make_message(server_name(b"a." * 130 + b"org")), "name is malformed"),
    "a long label": (make_message(server_name(b"a" * 64 + b".org")), "name is malformed"),
    "ECH": (make_message(server_name(b"allowed.org"), (0xFE0D, bytes(200))), "(ECH)"),
    "a draft of ECH": (make_message(server_name(b"allowed.org"), (0xFE0A, b"")), "(ECH)"),
    "ESNI": (make_message(server_name(b"allowed.org"), (0xFFCE, b"")), "(ECH)"),
    "odd suites": (make_message(server_name(b"allowed.org"), suites=b"\x13\x01\0"), "malformed"),
    "no suites": (make_message(server_name(b"allowed.org"), suites=b""), "malformed"),
    "a long session": (
        make_message(server_name(b"allowed.org"), session_id=bytes(33)),
        "malformed",
    ),
    "bytes at its end": (b"\x01" + vector(MESSAGE[4:] + b"\0", 3), "malformed"),
    "cut short": (b"\x01" + vector(MESSAGE[4:-1], 3), "malformed"),
    "version 2": (b"\x01" + vector(b"\0\x02" + MESSAGE[6:], 3), "no version"),
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_a_hello_whose_name_can_t_be_told(what: str) -> None:
    message, reason = UNCLEAR[what]
    check_refused(record(message), reason)


def test_a_hello_cut_anywhere_is_malformed() -> None:
    for size in range(4, len(MESSAGE)):
        with pytest.raises(Unclear):
            parse_hello(MESSAGE[:size])


def test_grease_a_psk_and_early_data_are_nothing_to_us() -> None:
    extensions = [(0x0A0A, b""), VERSIONS, (0x2A2A, b"\0"), (42, b""), (41, bytes(80))]
    message = make_message(*extensions[:1], server_name(b"allowed.org"), *extensions[1:])
    early = record(message) + CCS + DATA * 3
    assert inspect([early]).out == early


@pytest.mark.parametrize("version", [b"\x00\x02", b"\x03\x00", b"\x03\x01", b"\x03\x03"])
def test_ssl_2_s_hello_is_refused(version: bytes) -> None:
    """OpenSSL still takes it for later versions; it has no place for a name."""
    body = b"\x01" + version + b"\0\x03\0\0\0\x10" + b"\0\0\x2f" + bytes(16)
    check_refused((0x8000 | len(body)).to_bytes(2) + body, "SSL 2")


@pytest.mark.parametrize(
    ("start", "verdict"),
    [
        (b"", None),
        (b"\x16", None),
        (b"\x16\x03", True),
        (b"\x16\x01\0\0\x40", None),
        (b"\x16\x01\0\0\x40\x01", True),
        (b"\x16\x01\0\0\x40\0", False),
        (b"\x16\x10", False),
        (b"\x13Bit", False),
        (b"\x19\x03\x01", False),
        (b"\x80", None),
        (b"\x80\x2e\x01", None),
        (b"\x80\x2e\x01\x03", True),
        (b"\x80\x2e\x02", False),
        (b"\x81\x85\x01\x77", False),
        (b"SSH-2.0", False),
        (b"\0\0\0\x08", False),
    ],
)
def test_what_could_be_taken_for_tls(start: bytes, verdict: bool | None) -> None:
    assert is_tls(start) is verdict


def test_the_second_hello_has_to_name_the_same_server() -> None:
    """RFC 8446, 4.1.2: nothing else of it may differ either; OpenSSL goes by the second name."""
    retry = {1: make_server_hello(is_retry=True)}
    assert inspect([HELLO, HELLO, DATA], answers=retry)[2:] == (None, None, True)
    for pieces in ([HELLO, make_hello(OTHER)], [HELLO, CCS, make_hello(OTHER)]):
        outcome = inspect(pieces, answers=retry)
        assert outcome.reason is not None and "another server" in outcome.reason
        assert outcome.out == b"".join(pieces[:-1])


def test_the_second_name_has_to_be_the_first_even_if_both_are_allowed() -> None:
    outcome = inspect([HELLO + make_hello(OTHER)], [ALLOWED, OTHER])
    assert outcome.reason is not None and "another server" in outcome.reason


@pytest.mark.parametrize("between", [b"", CCS, DATA, CCS + DATA * 5, record(b"\x01\0", 21)])
def test_the_second_hello_is_found_behind_early_data_before_the_server_answers(
    between: bytes,
) -> None:
    outcome = inspect([HELLO + between + make_hello(OTHER)])
    assert outcome.reason is not None and "another server" in outcome.reason
    assert outcome.out == b""


def test_a_third_hello_and_other_handshake_before_the_server_has_answered() -> None:
    for more in (HELLO + HELLO, record(b"\x10\0\0\0"), record(b"x", 24), record(b"", 23, b"\4\0")):
        assert inspect([HELLO + more]).reason is not None


@pytest.mark.parametrize("rest", [DATA, record(b"\x10\0\0\x01x") + CCS + record(b"\x01" * 40)])
def test_once_the_server_has_chosen_nothing_is_looked_at(rest: bytes) -> None:
    """In TLS 1.2 the client's encrypted Finished may begin like a ClientHello."""
    outcome = inspect([HELLO, rest, b"\x16\x03"], answers={1: make_server_hello()})
    assert outcome == (HELLO + rest + b"\x16\x03", [ALLOWED], None, None, True)


def test_a_client_that_has_nothing_more_to_say_is_let_go() -> None:
    assert inspect([HELLO], is_ended=True).reason is None
    assert inspect([HELLO + DATA[:-5]], is_ended=True).out == HELLO + DATA[:-5]
    assert inspect([HELLO[:-5]], is_ended=True).reason is not None


WARNING: Final = record(b"\x01\x70", 21)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", Answer.NONE_YET),
        (make_server_hello()[:40], Answer.NONE_YET),
        (make_server_hello()[:-1], Answer.NONE_YET),
        (make_server_hello(), Answer.CHOSEN),
        (WARNING + make_server_hello(), Answer.CHOSEN),
        (make_server_hello(is_retry=True), Answer.RETRY),
        (WARNING, Answer.NONE_YET),
        (b"HTTP/1.1 400 Bad Request\r\n", Answer.STRANGE),
        (record(b"\x0b\0\0\0"), Answer.STRANGE),
        (
            b"".join(record(bytes([each])) for each in make_server_hello(is_retry=True)[5:]),
            Answer.RETRY,
        ),
    ],
)
def test_what_the_server_answers(data: bytes, answer: Answer) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        server = Held()
        greeting = Greeting(server)
        for piece in pieces:
            server.add(piece)
            greeting.read()
        assert greeting.read() is answer


def make_contexts() -> dict[str, ssl.SSLContext]:
    """Clients that say it in many ways."""
    made = {name: make_client_context() for name in ("plain", "1.2", "1.3", "alpn", "weak")}
    made["1.2"].maximum_version = ssl.TLSVersion.TLSv1_2
    made["1.3"].minimum_version = ssl.TLSVersion.TLSv1_3
    made["alpn"].set_alpn_protocols(["h2", "http/1.1"] * 500)
    made["weak"].set_ciphers("ALL:@SECLEVEL=0")
    made["weak"].minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return made


@pytest.mark.parametrize("kind", make_contexts())
def test_openssl_s_hellos(kind: str) -> None:
    hello = Client(ALLOWED, make_contexts()[kind]).step()
    assert inspect([hello])[:3] == (hello, [ALLOWED], None)
    assert inspect([hello[at : at + 1] for at in range(len(hello))]).out == hello
    unnamed = Client(None, make_contexts()[kind]).step()
    check_refused(unnamed, "no server_name")
