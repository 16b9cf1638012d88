"""What a client says: hellos made to measure, and what the inspector lets through of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from jail.egress.inspector import Inspector, Refused

ALLOWED: Final = "allowed.org"
OTHER: Final = "other.org"
VERSIONS: Final = (43, b"\x02\x03\x04")
SERVER_NAME: Final = 0
RETRY_RANDOM: Final = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)


class Outcome(NamedTuple):
    """What became of it."""

    out: bytes
    names: list[str]
    reason: str | None
    refused_name: str | None
    is_done: bool


def inspect(
    pieces: Iterable[bytes],
    allowed: Sequence[str] = (ALLOWED,),
    *,
    answers: dict[int, bytes] | None = None,
    is_ended: bool = False,
) -> Outcome:
    """Says the pieces; `answers` are the server's, by how many pieces come before."""
    inspector = Inspector(lambda name: name in allowed)
    out, reason, name = b"", None, None
    try:
        for at, piece in enumerate(pieces):
            out += inspector.tell((answers or {}).get(at, b""))
            out += inspector.feed(piece)
        if is_ended:
            out += inspector.end()
    except Refused as refused:
        reason, name = refused.reason, refused.name
    return Outcome(out, inspector.names, reason, name, reason is None and inspector.is_done)


def vector(data: bytes, size: int) -> bytes:
    """With its length before it."""
    return len(data).to_bytes(size) + data


def record(data: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    """One TLS record."""
    return bytes([kind]) + version + vector(data, 2)


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension."""
    return SERVER_NAME, vector(b"".join(bytes([kind]) + vector(each, 2) for each in names), 2)


def make_message(
    *extensions: tuple[int, bytes], suites: bytes = b"\x13\x01", session_id: bytes = b""
) -> bytes:
    """A ClientHello."""
    block = b"".join(kind.to_bytes(2) + vector(body, 2) for kind, body in extensions)
    body = b"\x03\x03" + bytes(32) + vector(session_id, 1) + vector(suites, 2) + b"\x01\0"
    return b"\x01" + vector(body + (vector(block, 2) if extensions else b""), 3)


def make_hello(name: str | bytes = ALLOWED, *extensions: tuple[int, bytes]) -> bytes:
    """A record with a ClientHello for this name."""
    text = name.encode() if isinstance(name, str) else name
    return record(make_message(server_name(text), VERSIONS, *extensions))


def make_server_hello(*, is_retry: bool = False) -> bytes:
    """As much of it as tells which it is."""
    random = RETRY_RANDOM if is_retry else bytes(32)
    return record(b"\x02" + vector(b"\x03\x03" + random + b"\0\x13\x01\0", 3))


class Client:
    """OpenSSL's, in memory."""

    def __init__(self, name: str | None = ALLOWED, context: ssl.SSLContext | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or make_client_context()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)

    def step(self, data: bytes = b"") -> bytes:
        """It gets this: what it says then."""
        return step(self.tls, self.incoming, self.outgoing, data)


def make_client_context() -> ssl.SSLContext:
    """Who takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def step(
    tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, data: bytes
) -> bytes:
    """One turn of a handshake."""
    incoming.write(data)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def make_request(
    host: str = ALLOWED, target: str = "/", method: str = "GET", *fields: str, body: bytes = b""
) -> bytes:
    """One HTTP request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return "".join(f"{each}\r\n" for each in (*lines, "")).encode() + body
