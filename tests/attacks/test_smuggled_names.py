"""Another server's name, shown to the inspector as less than the server takes it for.

The control is the server itself: it is given the same bytes without an inspector, and serves the
other name.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jail.egress.inspector import Inspector, Refused
from tests.lenient import (
    Ask,
    Server,
    ask_forgetful_python,
    ask_openssl,
    ask_python,
    make_second_hello,
    run_go,
    run_node,
)
from tests.part import require
from tests.spoken import (
    ALLOWED,
    Client,
    inspect,
    make_client_context,
    make_hello,
    make_message,
    make_request,
    record,
    server_name,
    vector,
)
from tests.test_inspector import requests

SMUGGLED: Final = "another.org"
"""as long as the allowed one: it can be written over it"""
GET: Final = make_request()
BAD: Final = make_request(SMUGGLED)
MESSAGE: Final = make_hello(SMUGGLED)[5:]

REQUESTS: Final = {
    "plain": BAD,
    "second": GET + BAD,
    "bare LF": BAD.replace(b"\r\n", b"\n"),
    "second with bare LF": GET + BAD.replace(b"\r\n", b"\n"),
    "line before": b"\r\n" + BAD,
    "LF before": b"\n" + BAD,
    "blank before": b" " + BAD,
    "0xa0 before": b"\xa0" + BAD,
    "form feeds": BAD.replace(b" / ", b"\x0c/\x0b"),
    "0x85": BAD.replace(b" / ", b"\x85/\x85"),
    "tabs": BAD.replace(b" / ", b"\t/\t"),
    "blank after": BAD.replace(b"1.1\r", b"1.1 \r"),
    "lower case": BAD.replace(b"GET", b"get").replace(b"Host", b"hOST"),
    "binary method": BAD.replace(b"GET", b"\x01\xff"),
    "NUL in the method": BAD.replace(b"GET", b"\0X"),
    "long method": BAD.replace(b"GET", b"X" * 60_000),
    "long binary method": BAD.replace(b"GET", b"\x01" * 60_000),
    "HTTP/0.9": f"GET http://{SMUGGLED}/\r\n".encode(),
    "HTTP/1.0": BAD.replace(b"1.1", b"1.0"),
    "HTTP/1.7": BAD.replace(b"1.1", b"1.7"),
    "absolute": make_request(ALLOWED, f"http://{SMUGGLED}/"),
    "absolute with bare LF": make_request(ALLOWED, f"http://{SMUGGLED}/").replace(b"\r", b""),
    "absolute with a user": make_request(ALLOWED, f"http://{ALLOWED}@{SMUGGLED}/"),
    "other scheme": make_request(ALLOWED, f"ws://{SMUGGLED}/"),
    "two Hosts": GET.replace(b"\r\n\r\n", f"\r\nHost: {SMUGGLED}\r\n\r\n".encode()),
    "two Hosts, first": BAD.replace(b"\r\n\r\n", f"\r\nHost: {ALLOWED}\r\n\r\n".encode()),
    "folded Host": GET.replace(b"Host: ", f"Host: {SMUGGLED}\r\n ".encode()),
    "Host folded away": BAD.replace(b"Host", b"X: y\r\n Host: allowed.org\r\nHost"),
    "Host behind CR": GET.replace(b"Host", f"X: y\rHost: {SMUGGLED}\r\nX".encode()),
    "blank before colon": BAD.replace(b"Host", b"Host "),
    "port": make_request(f"{SMUGGLED}:80"),
    "last dot": make_request(f"{SMUGGLED}."),
    "upper case": make_request(SMUGGLED.upper()),
    "CONNECT": make_request(ALLOWED, f"{SMUGGLED}:443", "CONNECT"),
    "OPTIONS": make_request(SMUGGLED, "*", "OPTIONS"),
    "upgrade": make_request(SMUGGLED, "/", "GET", "Upgrade: x", "Connection: upgrade"),
    "behind an upgrade": make_request(ALLOWED, "/", "GET", "Upgrade: websocket") + BAD,
    "behind h2c": make_request(ALLOWED, "/", "GET", "Upgrade: h2c") + BAD,
    "behind HEAD": make_request(ALLOWED, "/", "HEAD") + BAD,
    "length 0": make_request(ALLOWED, "/", "POST", "Content-Length: 0") + BAD,
    "length +0": make_request(ALLOWED, "/", "POST", "Content-Length: +0") + BAD,
    "length 0_0": make_request(ALLOWED, "/", "POST", "Content-Length: 0_0") + BAD,
    "length 010": make_request(ALLOWED, "/", "POST", "Content-Length: 010") + b"0123456789" + BAD,
    "two lengths": make_request(ALLOWED, "/", "POST", "Content-Length: 0", "Content-Length: 99")
    + BAD,
    "two other lengths": make_request(
        ALLOWED, "/", "POST", "Content-Length: 99", "Content-Length: 0"
    )
    + BAD,
    "length and chunks": make_request(
        ALLOWED, "/", "POST", "Content-Length: 99", "Transfer-Encoding: chunked"
    )
    + b"0\r\n\r\n"
    + BAD,
    "chunks and length": make_request(
        ALLOWED, "/", "POST", "Transfer-Encoding: chunked", "Content-Length: 5"
    )
    + b"0\r\n\r\n"
    + BAD,
    "odd coding": make_request(ALLOWED, "/", "POST", "Transfer-Encoding: x", "Content-Length: 0")
    + BAD,
    "chunks": make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked")
    + b"1\r\nx\r\n0\r\n\r\n"
    + BAD,
    "chunk with an extension": make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked")
    + b"1;x\nx\r\n0\r\n\r\n"
    + BAD,
    "chunk with bare LF": make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked")
    + b"1\nx\n0\n\n"
    + BAD,
    "trailers": make_request(ALLOWED, "/", "POST", "Transfer-Encoding: chunked")
    + b"0\r\nX: y\r\n\r\n"
    + BAD,
    "body": make_request(ALLOWED, "/", "POST", f"Content-Length: {len(BAD)}") + BAD,
    "body behind blanks": make_request(ALLOWED, "/", "GET", f"Content-Length: {len(BAD) + 2}")
    + b"\n\n"
    + BAD,
    "body with 0.9": make_request(ALLOWED, "/", "POST", "Content-Length: 27")
    + f"GET http://{SMUGGLED}/x\r\n".encode(),
}

HELLOS: Final = {
    "plain": record(MESSAGE),
    "fragments": b"".join(record(bytes([each])) for each in MESSAGE),
    "warning first": record(b"\x01\x70", 21) + record(MESSAGE),
    "warnings first": record(b"\x01\x70", 21) * 4 + record(MESSAGE),
    "warning of version 2": record(b"\x01\x70", 21, b"\x02\0") + record(MESSAGE),
    "warning between": record(MESSAGE[:9]) + record(b"\x01\x70", 21) + record(MESSAGE[9:]),
    "change cipher first": record(b"\x01", 20) + record(MESSAGE),
    "empty record first": record(b"") + record(MESSAGE),
    "version 0": record(MESSAGE, version=b"\0\0"),
    "version 2": record(MESSAGE, version=b"\2\0"),
    "version 3.9": record(MESSAGE, version=b"\3\x09"),
    "version 15": record(MESSAGE, version=b"\x0f\xff"),
    "upper case": record(make_message(server_name(SMUGGLED.upper().encode()))),
    "two names": record(make_message(server_name(ALLOWED.encode(), SMUGGLED.encode()))),
    "two names, first": record(make_message(server_name(SMUGGLED.encode(), ALLOWED.encode()))),
    "another type first": record(
        make_message((0, vector(b"\x01\0\x01x\0" + vector(SMUGGLED.encode(), 2), 2)))
    ),
    "two extensions": record(
        make_message(server_name(ALLOWED.encode()), server_name(SMUGGLED.encode()))
    ),
    "something behind": record(make_hello()[5:] + MESSAGE),
    "behind postgres": bytes.fromhex("0000000804d2162f") + record(MESSAGE),
}


def let_through(data: bytes) -> bytes:
    """What a server gets of it."""
    return inspect([data], is_ended=True).out


def check_server(ask: Ask, tricks: dict[str, bytes], least: int) -> None:
    """Some tricks work on it, but not through the inspector."""
    working = {name for name, data in tricks.items() if SMUGGLED in ask(data)}
    assert len(working) >= least, working
    through = {name for name, data in tricks.items() if set(ask(let_through(data))) - {ALLOWED}}
    assert through == set()


@pytest.mark.parametrize("ask", [ask_python, ask_forgetful_python])
def test_python_s_server_gets_no_request_for_another_name(ask: Ask) -> None:
    check_server(ask, REQUESTS, 35)


def test_node_s_server_gets_no_request_for_another_name() -> None:
    require("node")
    with run_node() as ask:
        check_server(ask, REQUESTS, 20)


@pytest.mark.timeout(300)
def test_go_s_servers_get_no_request_and_no_hello_for_another_name(tmp_path: Path) -> None:
    require("go")
    with run_go(tmp_path) as (ask_http, ask_tls):
        check_server(ask_http, REQUESTS, 20)
        check_server(ask_tls, HELLOS, 10)


def test_openssl_gets_no_hello_for_another_name() -> None:
    check_server(ask_openssl, HELLOS, 3)


def test_every_trick_is_seen_through() -> None:
    for name, data in {**REQUESTS, **HELLOS}.items():
        outcome = inspect([data], is_ended=True)
        assert outcome.reason is not None or "upgrade" in name, name


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server."""
    require("openssl")
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    files = ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run([*argv, *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".key").read_bytes())
    return path


def test_the_second_hello_is_for_the_same_server(certificate: Path) -> None:
    """OpenSSL goes by the second, after it has asked for one: a HelloRetryRequest."""
    first, retry, second = make_second_hello(Client(ALLOWED), certificate)
    smuggled = second.replace(ALLOWED.encode(), SMUGGLED.encode())
    assert smuggled != second

    control = list[str]()
    server = Server(control, certificate)
    assert server.step(first) and SMUGGLED not in control
    with suppress(ssl.SSLError):
        server.step(smuggled)
    assert SMUGGLED in control

    assert inspect([first, second], answers={1: retry}).is_done
    for pieces in ([first, smuggled], [first + smuggled]):
        outcome = inspect(pieces, answers={1: retry})
        assert outcome.reason is not None
        assert SMUGGLED.encode() not in outcome.out


def limit(version: ssl.TLSVersion) -> Callable[[], ssl.SSLContext]:
    """A client of this version alone."""

    def make() -> ssl.SSLContext:
        context = make_client_context()
        context.minimum_version = context.maximum_version = version
        return context

    return make


@pytest.mark.parametrize("make", [limit(ssl.TLSVersion.TLSv1_2), limit(ssl.TLSVersion.TLSv1_3)])
def test_honest_handshakes_go_through_byte_by_byte(
    make: Callable[[], ssl.SSLContext], certificate: Path
) -> None:
    """The version of 1.3 is with a HelloRetryRequest: the server wants another curve."""
    names: list[str] = []
    client, server = Client(ALLOWED, make()), Server(names, certificate)
    inspector = Inspector(lambda name: name == ALLOWED)
    told = b""
    for _ in range(5):
        said = client.step(told)
        told = server.step(b"".join(inspector.feed(said[i : i + 1]) for i in range(len(said))))
        for i in range(len(told)):
            assert inspector.tell(told[i : i + 1]) == b""
    assert client.tls.version() == server.tls.version() is not None
    assert set(names) == {ALLOWED}
    assert inspector.is_done


# -- without a list of tricks ---------------------------------------------------------------------

thoroughly: Final = settings(
    max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of them or two, with a few bytes changed, dropped, doubled or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, min(len(data), 300))), draw(st.integers(0, 3))
        new = st.one_of(
            st.binary(max_size=2), st.sampled_from([b"\r\n", b"\n", b" ", b"\0", b"\t"])
        )
        data[at : at + size] = draw(new) + draw(st.sampled_from([b"", bytes(data[at : at + 20])]))
    return bytes(data)


def check_names(ask: Ask, data: bytes) -> None:
    """What the server reads out of what goes through is what the inspector read."""
    inspector = Inspector(lambda name: name in (ALLOWED, f"x.{ALLOWED}"))
    out = b""
    with suppress(Refused):
        out += inspector.feed(data)
        out += inspector.end()
    assert set(ask(out)) <= set(inspector.names) & {ALLOWED, f"x.{ALLOWED}"}


@thoroughly
@given(mutated([*HELLOS.values(), make_hello(), Client(ALLOWED).step(), Client(SMUGGLED).step()]))
def test_openssl_reads_no_other_name_out_of_any_hello(data: bytes) -> None:
    check_names(ask_openssl, data)


good: Final = [GET, make_request(f"x.{ALLOWED}"), make_request(ALLOWED, "/", "POST", "X: y")]


@thoroughly
@given(st.one_of(mutated([*REQUESTS.values(), *good]), st.lists(requests()).map(b"".join)))
def test_python_reads_no_other_name_out_of_any_requests(data: bytes) -> None:
    check_names(ask_python, data)
    check_names(ask_forgetful_python, data)
