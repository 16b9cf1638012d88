"""The hosts in a stream of HTTP/1 requests. Pure.

Each request is followed to its last byte, so that the next one begins where the server thinks it
does. Heads are taken as RFC 9112 has them, without what it allows for old times' sake: no bare LF,
no folded line, no space before a colon, no blank line first, no HTTP/0.9. A body has one
Content-Length or is chunked, without chunk extensions and trailers; and it doesn't begin with a
request's first line, which a server that forgets to read it would take for one.

Two ways lead out of the stream, both only when the server has agreed: `Upgrade: websocket`, and
CONNECT, whose tunnel begins with anything. As answers aren't followed, only the first request's
is known for sure; so these two may only be the first. Any other upgrade may be asked for, as Java
does with h2c in every first request, and is not followed: if the server agrees, what is said then
(HTTP/2's `PRI * HTTP/2.0`, a TLS hello) is no request, and is refused.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from jail.egress.held import MAX_HELD_BYTES, Held, Steps, find, skip
from jail.egress.name import Cut, Unclear, parse_authority

BLANK: Final = rb"\t\n\x0b\x0c\r\x1c-\x1f \x85\xa0"
"""what some server or other splits a request line at: Python's str.split() has them all"""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST: Final = re.compile(rb"(%b{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])" % _TOKEN)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#\\]+)([/?].*)?", re.IGNORECASE)
# Python up to 3.4 ends a header's line at 0x85, too.
_FIELD: Final = re.compile(rb"(%b+):[ \t]*([\t\x20-\x7e\x80-\x84\x86-\xff]*)" % _TOKEN)
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_CHUNK: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])[ \r]")
_LAX: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_LAX_LINE_END: Final = re.compile(rb"\r?\n")
_LAX_HEAD_END: Final = re.compile(rb"\n\r?\n")
_HEAD_END: Final = re.compile(rb"\r\n\r\n")
_LINE_END: Final = re.compile(rb"\r\n")
_STRAY: Final = re.compile(
    rb"[B]*([^B]+[B]+[^B]+[B]+HTTP/[^B]*|GET[B]+[^B]+)[B]*".replace(b"B", BLANK), re.IGNORECASE
)
MAX_CHUNK_LINE_BYTES: Final = 17
MAX_STRAY_BYTES: Final = 64 * 1024
"""Python takes such lines"""


class Leaving(Enum):
    """How a stream of requests ends."""

    NEVER = "never"
    TUNNEL = "tunnel"
    SOCKET = "socket"


class Head(NamedTuple):
    """What of a request's head counts here."""

    name: str
    length: int | None
    """of the body; None: it is chunked"""
    leaving: Leaving


def read_head(client: Held, sent: bytes) -> Steps[bytes]:
    """A whole head, without its last CRLF; of which ``sent`` has gone before."""
    line = yield from find(client, _LAX_LINE_END, MAX_HELD_BYTES)
    # What is no request may never have a head's end.
    if line is None or not _REQUEST.fullmatch(sent + client.peek(line[0])):
        raise Unclear("not a request line of HTTP/1.0 or HTTP/1.1")
    end = yield from find(client, _LAX_HEAD_END, MAX_HELD_BYTES)
    if end is None:
        raise Unclear("the HTTP request's head is too long")
    text = client.take(end[1])
    if _LAX.search(text) or not text.endswith(b"\r\n\r\n"):
        raise Unclear("a line of the HTTP request ends in something else than CRLF")
    return sent + text[:-2]


def parse_head(text: bytes) -> Head:
    """Of a request: the name it is for, and where its body ends."""
    first, *lines = text.removesuffix(b"\r\n").split(b"\r\n")
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise Unclear("not a request line of HTTP/1.0 or HTTP/1.1")
    fields = [_parse_field(each) for each in lines]
    method, target, minor = request.groups()
    name = _decide_name(method, target, _get_all(fields, b"host"))
    length = _decide_length(fields, is_old=minor == b"0")
    upgrades = _get_all(fields, b"upgrade")
    if method != b"CONNECT":
        is_socket = [each.lower() for each in upgrades] == [b"websocket"]
        return Head(name, length, Leaving.SOCKET if is_socket else Leaving.NEVER)
    if upgrades or length != 0:
        raise Unclear("a CONNECT with a body or an upgrade", name)
    return Head(name, 0, Leaving.TUNNEL)


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Unclear("a malformed line in the HTTP request's head")
    return match[1].lower(), match[2].rstrip(b" \t")


def _get_all(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for each, value in fields if each == name]


def _decide_name(method: bytes, target: bytes, hosts: list[bytes]) -> str:
    """Servers go by the target or by Host; so both have to say the same."""
    named = _parse_target(method, target)
    if len(hosts) > 1:
        raise Unclear("the HTTP request has two Hosts")
    if not hosts and not (named and method == b"CONNECT"):  # Python's http.client sends none
        raise Unclear("the HTTP request has no Host")
    host = parse_authority(hosts[0]) if hosts else named
    if named not in ("", host):
        raise Unclear("the HTTP request's target is on another host than its Host", named)
    return host


def _parse_target(method: bytes, target: bytes) -> str:
    """The name in it; none in a mere path."""
    if method == b"CONNECT":
        if b":" not in target:
            raise Unclear("a CONNECT without a port")
        return parse_authority(target)
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return ""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Unclear("the HTTP request's target is neither a path nor an http: URL")
    return parse_authority(match[1])


def _decide_length(fields: list[tuple[bytes, bytes]], is_old: bool) -> int | None:
    lengths = _get_all(fields, b"content-length")
    codings = _get_all(fields, b"transfer-encoding")
    if codings:
        if is_old or lengths or [each.lower() for each in codings] != [b"chunked"]:
            raise Unclear("the HTTP request's body has no clear end: Transfer-Encoding")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Unclear("the HTTP request's body has no clear end: Content-Length")
    return int(lengths[0])


def skip_body(client: Held, length: int | None) -> Steps[None]:
    """Lets it go as it comes; if it is cut short, the server is left with what there is."""
    if length is None:
        try:
            yield from _skip_chunks(client)
        except Cut:
            client.skip(len(client))
    elif length:
        length -= yield from _skip_first_line(client, length)
        yield from skip(client, length)


def _skip_first_line(client: Held, length: int) -> Steps[int]:
    """Lets a body's first line go, unless it is a request's: how much has gone."""
    line, gone = bytearray(), 0
    while gone < length and len(line) < MAX_STRAY_BYTES:
        piece = client.peek(min(length - gone, MAX_STRAY_BYTES - len(line)))
        line += piece if line else piece.lstrip(b"\r\n")
        is_whole = b"\n" in line or gone + len(piece) == length or client.is_ended
        if is_whole and _STRAY.fullmatch(line.partition(b"\n")[0]):
            raise Unclear("the HTTP request's body begins like another request")
        gone += client.skip(len(piece))
        if is_whole:
            break
        if not len(client):
            yield
    return gone


def _skip_chunks(client: Held) -> Steps[None]:
    while True:
        size = yield from _read_chunk_line(client)
        if _CHUNK.fullmatch(size) is None:
            raise Unclear("a chunk's size is malformed, or has an extension")
        left = int(size, 16)
        client.pass_read()
        yield from skip(client, left)
        if (yield from _read_chunk_line(client)):
            raise Unclear("a chunk is longer than its size, or a trailer follows the last")
        client.pass_read()
        if left == 0:
            return


def _read_chunk_line(client: Held) -> Steps[bytes]:
    """Up to its CRLF, which is not in it."""
    end = yield from find(client, _LINE_END, MAX_CHUNK_LINE_BYTES)
    if end is None:
        raise Unclear("a chunk's size is malformed, or has an extension")
    return client.take(end[1])[:-2]


def read_status(server: Held) -> Steps[int]:
    """Of the answer to the request before; interim ones (100, 103) are read over. 0: it is none."""
    while True:
        end = yield from find(server, _HEAD_END, MAX_HELD_BYTES)
        if end is None:
            return 0
        match = _STATUS.match(server.peek(end[1]))
        server.skip(end[1])
        status = int(match[1]) if match else 0
        if status == 101 or not 100 <= status < 200:
            return status
