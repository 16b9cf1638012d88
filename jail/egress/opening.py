"""What a connection begins with: TLS, HTTP, or something that carries no server's name. Pure.

TLS: the first record could be taken for a handshake by some TLS server (`hello.is_tls`).

HTTP: the first line (up to its LF, blanks before it set aside) has ` HTTP/` in any case, or begins
with `GET` or `CONNECT` and a blank; or its text up to there has a blank before `/` or `SCHEME://`,
and the line no NUL. That is more than servers take: old ones take any word for a method and any
protocol for HTTP/1.0. Such a line has to be a strict request's; nothing of it goes before that is
known.

Anything else goes at once, and for good when its first line has ended without looking like that:
after a line that it can't read every HTTP server closes. So STARTTLS and its like aren't seen, nor
what is asked of a SOCKS server. PostgreSQL's `SSLRequest` is: what follows it is judged anew. A
header of the PROXY protocol is refused, as the names come behind it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from jail.egress.head import BLANK
from jail.egress.held import MAX_HELD_BYTES, Held, Steps, find
from jail.egress.hello import is_tls
from jail.egress.name import Unclear

_BLANKS: Final = re.compile(rb"[%b]*" % BLANK)
_REQUEST: Final = re.compile(rb"[%b]http/" % BLANK, re.IGNORECASE)
_TELLING: Final = re.compile(rb"[\n\0]|" + _REQUEST.pattern, re.IGNORECASE)
_VERB: Final = re.compile(rb"(GET|PROXY)[%b]|CONNECT[%b]+[^{%b]" % ((BLANK,) * 3))
"""`CONNECT {` is said to NATS"""
_TARGET: Final = re.compile(rb"[%b](/|[a-z][a-z0-9+.-]{0,31}://)" % BLANK, re.IGNORECASE)
_BINARY: Final = re.compile(rb"[^\x20-\x7e%b]" % BLANK)
_ASKS_FOR_TLS: Final = bytes.fromhex("00000008 04d2162f")
_ASKS_FOR_GSS: Final = bytes.fromhex("00000008 04d21630")
_PROXY_BLANKS: Final = b"\r\n\r\n"
_PROXY_LINE: Final = b"\0\r"

MAX_KEPT_BYTES: Final = 64
MAX_LINE_BYTES: Final = 2 * 1024 * 1024
"""Go takes heads of 1 MiB"""


class Opening(Enum):
    """What is spoken."""

    TLS = "tls"
    HTTP = "http"
    OTHER = "other"


def find_opening(client: Held) -> Steps[tuple[Opening, bytes]]:
    """What it is; and of a request's first line, what has gone when that wasn't known yet."""
    while True:
        start = client.peek(len(_ASKS_FOR_TLS))
        if start in (_ASKS_FOR_TLS, _ASKS_FOR_GSS):
            client.skip(len(start))
        elif is_tls(start):
            return Opening.TLS, b""
        elif not client.is_ended and _is_short(start):
            yield
        else:
            sent = yield from _read_line(client)
            return (Opening.OTHER, b"") if sent is None else (Opening.HTTP, sent)


def _is_short(start: bytes) -> bool:
    """Whether more has to come before it is known what this isn't."""
    return is_tls(start) is None or (
        len(start) < len(_ASKS_FOR_TLS) and _ASKS_FOR_TLS.startswith(start)
    )


def _read_line(client: Held) -> Steps[bytes | None]:
    """Of a request's line, what has gone already; None if it's none."""
    blanks = yield from _skip_blanks(client)
    line = _FirstLine()
    while True:
        rest = client.peek(len(client)).partition(b"\n")
        is_request = line.judge(rest[0], is_whole=bool(rest[1]))
        if is_request is None:
            yield from _wait_for_line(client)
            continue
        if is_request:
            if blanks or line.is_long:
                raise Unclear("not a request line of HTTP/1.0 or HTTP/1.1")
            return line.kept
        line.add(rest[0])
        if rest[1] and blanks == _PROXY_BLANKS and line.kept == _PROXY_LINE:
            raise Unclear("a PROXY protocol header comes before what is said")
        client.skip(len(client))
        if rest[1] or line.size > MAX_LINE_BYTES or client.is_ended:
            return None
        yield


def _wait_for_line(client: Held) -> Steps[None]:
    """Until it has come whole, or what tells that it's a request's or none."""
    if (yield from find(client, _TELLING, MAX_HELD_BYTES)) is None:
        raise Unclear("not a request line of HTTP/1.0 or HTTP/1.1")


def _skip_blanks(client: Held) -> Steps[bytes]:
    """The last few of those that come before the first line."""
    skipped = b""
    while True:
        found = client.find(_BLANKS, 0, len(client))
        size = found[1] if found else 0
        skipped = (skipped + client.peek(size))[-8:]
        client.skip(size)
        if len(client) or client.is_ended:
            return skipped
        yield


class _FirstLine:
    """As much of it as is needed to see what it is."""

    def __init__(self) -> None:
        self.kept = b""
        self.size = 0
        self._is_text = True

    @property
    def is_long(self) -> bool:
        """Whether its beginning has been forgotten."""
        return self.size > len(self.kept)

    def judge(self, more: bytes, is_whole: bool) -> bool | None:
        """Whether it is a request's; None: it may be, and has to wait."""
        line = self.kept + more
        if _REQUEST.search(line) or (not self.is_long and _VERB.match(line)):
            return True
        target = _TARGET.search(line, 0, self._find_binary(line)) if self._is_text else None
        if target is None or b"\0" in line:
            return False
        return True if is_whole else None

    def add(self, more: bytes) -> None:
        """It has gone on."""
        line = self.kept + more
        self._is_text = self._is_text and self._find_binary(line) == len(line)
        self.size += len(more)
        self.kept = line[-MAX_KEPT_BYTES:]

    def _find_binary(self, line: bytes) -> int:
        match = _BINARY.search(line)
        return match.start() if match else len(line)
