"""The server's name in a TLS handshake. Pure.

A name is taken from a ClientHello that is exactly what RFC 8446 and RFC 6066 say: whole records of
handshake alone, every length used up, each extension once, one host_name. What is lax about any
of this reaches some server with another name than it shows, so it is refused, as is a hello that
hides its name (ECH) or has none.

The handshake is followed until the server has chosen: to a HelloRetryRequest the client answers
with a second ClientHello, and OpenSSL goes by the name in that one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from jail.egress.held import MAX_HELD_BYTES, Held, Steps, skip, wait, wait_for
from jail.egress.name import Unclear, parse_name

CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23
HEARTBEAT: Final = 24

MAX_PLAINTEXT_BYTES: Final = 2**14
MAX_RECORD_BYTES: Final = 2**14 + 2048
HEADER_BYTES: Final = 5

CLIENT_HELLO: Final = 1
SERVER_HELLO: Final = 2
SERVER_NAME: Final = 0
HOST_NAME: Final = 0
HIDING: Final = frozenset({*range(0xFE08, 0xFE0E), 0xFFCE})
"""encrypted_client_hello and its drafts; encrypted_server_name"""
RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""the random of a HelloRetryRequest: RFC 8446, 4.1.3"""


class Answer(Enum):
    """What the server says to a hello."""

    RETRY = "retry"
    CHOSEN = "chosen"
    NONE_YET = "none yet"
    STRANGE = "strange"


def is_tls(start: bytes) -> bool | None:
    """Whether a TLS server could take it for a handshake; None: more is needed to tell.

    Go takes every version below 0x1000 in the first record, GnuTLS those below 0x0300; Go and
    OpenSSL drop a warning that comes first; OpenSSL takes SSL 2's hello, which has no name. (Its
    form with three bytes of header is taken by NSS alone, which has it switched off.)
    """
    head = (*start[:6], *[None] * (6 - len(start[:6])))
    if head[0] is not None and head[0] >= 0x80:
        return _all_of(head[2], (CLIENT_HELLO,), head[3], (0, 2, 3))
    if head[0] is not None and not CHANGE_CIPHER_SPEC <= head[0] <= HEARTBEAT:
        return False
    if head[1] is None or head[1] == 3:
        return None if head[1] is None else True
    return _all_of(head[1], range(0x10), head[5], (1,))


def _all_of(
    one: int | None, ones: range | tuple[int, ...], two: int | None, twos: tuple[int, ...]
) -> bool | None:
    """Whether both bytes are what they could be; None while the one that would tell is missing."""
    if one is None or one not in ones:
        return None if one is None else False
    return None if two is None else two in twos


def read_hello(client: Held) -> Steps[str]:
    """The name that the next message asks for; it is read, but not passed on."""
    message = bytearray()
    while True:
        kind, size = yield from _read_header(client)
        if kind != HANDSHAKE or not 0 < size <= MAX_PLAINTEXT_BYTES:
            raise Unclear("TLS begins with something else than a ClientHello")
        yield from wait_for(client, size)
        message += client.take(size)
        if message[0] != CLIENT_HELLO:
            raise Unclear("TLS begins with something else than a ClientHello")
        if len(message) < 4:
            continue
        end = 4 + int.from_bytes(message[1:4])
        if end > MAX_HELD_BYTES or len(message) > end:
            raise Unclear("the ClientHello is too long, or something follows in its record")
        if len(message) == end:
            return parse_hello(bytes(message))


def follow(client: Held, server: Held, name: str) -> Steps[None]:
    """Lets pass what follows the hello, until the server has chosen by it.

    Before its ServerHello a client sends no handshake in clear but a second ClientHello; the
    relay shows us the server's bytes before the client gets them.
    """
    is_second = False
    greeting = Greeting(server)
    while True:
        answer = greeting.read()
        if answer is Answer.CHOSEN or (is_second and answer is Answer.RETRY):
            return
        if client.is_ended and not len(client):
            return
        if len(client) < HEADER_BYTES:
            yield from wait(client)
        elif client.peek(1)[0] == HANDSHAKE:
            if is_second or (yield from read_hello(client)) != name:
                raise Unclear("the second ClientHello names another server than the first")
            client.pass_read()
            is_second = True
        else:
            yield from _skip_record(client)


def _skip_record(client: Held) -> Steps[None]:
    kind, size = yield from _read_header(client)
    if kind not in (CHANGE_CIPHER_SPEC, ALERT, APPLICATION_DATA) or size > MAX_RECORD_BYTES:
        raise Unclear("TLS goes on with something else than a handshake")
    client.pass_read()
    yield from skip(client, size)


def _read_header(client: Held) -> Steps[tuple[int, int]]:
    """A record's content type and length."""
    yield from wait_for(client, HEADER_BYTES)
    header = client.take(HEADER_BYTES)
    if header[0] >= 0x80:
        raise Unclear("an SSL 2 hello, which has no place for a server's name")
    if header[1] != 3 or header[2] > 4:
        raise Unclear("a TLS record of no version that there is")
    return header[0], int.from_bytes(header[3:5])


def parse_hello(message: bytes) -> str:
    """The one name in a ClientHello, with its four bytes of header."""
    hello = _Reader(message[4:])
    if hello.read_int(2) >> 8 != 3:
        raise Unclear("a ClientHello of no version that there is")
    hello.read(32)
    session_id, suites, methods = hello.read_vector(1), hello.read_vector(2), hello.read_vector(1)
    if len(session_id) > 32 or not suites or len(suites) % 2 or not methods:
        raise Unclear("the ClientHello is malformed")
    extensions = _parse_extensions(hello.read_vector(2) if hello.is_left else b"")
    hello.check_end()
    if not HIDING.isdisjoint(extensions):
        raise Unclear("the ClientHello hides whom it is for: encrypted_client_hello (ECH)")
    if SERVER_NAME not in extensions:
        raise Unclear("the ClientHello names no server: it has no server_name (SNI)")
    return _parse_server_name(extensions[SERVER_NAME])


def _parse_extensions(block: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    reader = _Reader(block)
    while reader.is_left:
        kind = reader.read_int(2)
        if kind in found:
            raise Unclear("the ClientHello has an extension twice")
        found[kind] = reader.read_vector(2)
    return found


def _parse_server_name(extension: bytes) -> str:
    """RFC 6066 has a list, of which some servers take the first and some the last."""
    outer = _Reader(extension)
    names = _Reader(outer.read_vector(2))
    outer.check_end()
    if names.read_int(1) != HOST_NAME:
        raise Unclear("the ClientHello names its server by something else than a host name")
    name = names.read_vector(2)
    names.check_end()
    return parse_name(name)


class Greeting:
    """The server's first records, as far as they tell what it makes of the hello."""

    def __init__(self, server: Held) -> None:
        self._server = server
        self._message = bytearray()
        self._answer = Answer.NONE_YET

    def read(self) -> Answer:
        """What it has said so far. A warning (unrecognized_name) may come first."""
        while self._answer is Answer.NONE_YET and len(self._server) >= HEADER_BYTES:
            header = self._server.peek(HEADER_BYTES)
            size = HEADER_BYTES + int.from_bytes(header[3:5])
            if header[0] not in (ALERT, HANDSHAKE) or header[1] != 3 or size > MAX_RECORD_BYTES:
                self._answer = Answer.STRANGE
            elif len(self._server) < size:
                break
            elif header[0] == HANDSHAKE:
                self._message += self._server.peek(size)[HEADER_BYTES:]
                self._answer = self._judge()
            self._server.skip(size)
        return self._answer

    def _judge(self) -> Answer:
        if self._message[:1] not in (b"", bytes([SERVER_HELLO])):
            return Answer.STRANGE
        if len(self._message) < 38:
            return Answer.NONE_YET
        return Answer.RETRY if self._message[6:38] == RETRY else Answer.CHOSEN


class _Reader:
    """A structure's fields, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_left(self) -> bool:
        return self._at < len(self._data)

    def read(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise Unclear("the ClientHello is malformed")
        self._at += size
        return self._data[self._at - size : self._at]

    def read_int(self, size: int) -> int:
        return int.from_bytes(self.read(size))

    def read_vector(self, size: int) -> bytes:
        """Its length stands before it, in so many bytes."""
        return self.read(self.read_int(size))

    def check_end(self) -> None:
        if self.is_left:
            raise Unclear("the ClientHello is malformed")
