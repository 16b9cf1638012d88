"""An HTTP/1.1 server, plain and over TLS, that tells what it was asked, under which name."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from tests.network.place import CERTIFIED, DEFAULT_NAME

BLOCK: Final = b"0123456789abcdef" * 4096
MAX_HEAD_BYTES: Final = 65536
BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)

Note = Callable[[dict[str, Any]], None]


class Request(NamedTuple):
    """One head, and what followed."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    def get(self, key: str, otherwise: str = "") -> str:
        return parse_qs(urlsplit(self.target).query).get(key, [otherwise])[0]


class Names:
    """The certificates; each connection gets the one of the name that it asks for."""

    def __init__(self, folder: Path) -> None:
        self._contexts = {name: _make_context(folder / f"{name}.pem") for name in CERTIFIED}
        self.asked: dict[Any, str | None] = {}
        self.default = self._contexts[DEFAULT_NAME]
        self.default.sni_callback = self._choose

    def _choose(self, connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        self.asked[connection] = name
        connection.context = self._contexts.get(name or "", self.default)

    def accept(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        return trio.SSLStream(stream, self.default, server_side=True, https_compatible=True)


def _make_context(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def serve_tls(
    names: Names, stream: trio.SocketStream, where: dict[str, Any], note: Note, files: Path
) -> None:
    secured = names.accept(stream)
    with suppress(*BROKEN):
        await secured.do_handshake()
        where["sni"] = names.asked.pop(secured._ssl_object, None)
        where["certificate"] = where["sni"] if where["sni"] in CERTIFIED else DEFAULT_NAME
        await serve_requests(secured, where, note, files)
        await secured.aclose()


async def serve_requests(
    stream: trio.abc.Stream, where: dict[str, Any], note: Note, files: Path
) -> None:
    """Until the client has had enough; ``where`` is the place that it reached."""
    with suppress(*BROKEN):
        async for request in _read_requests(stream):
            told = {"host": request.headers.get("host"), "target": request.target, **where}
            note(told)
            await _respond(stream, request, {"method": request.method, **told}, files)
            if request.headers.get("connection", "").lower() == "close":
                return


async def _read_requests(stream: trio.abc.Stream) -> AsyncIterator[Request]:
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = await stream.receive_some(65536)
            if not more or len(data) > MAX_HEAD_BYTES:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target = (*first.split(" "), "/", "/")[:2]
        headers = {
            k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        if "100-continue" in headers.get("expect", ""):
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces, count = [bytes(data)], len(data)
        while count < length:
            pieces.append(bytes(await stream.receive_some(1 << 20)) or _complain())
            count += len(pieces[-1])
        data = b"".join(pieces)
        yield Request(method, target, headers, data[:length])
        data = data[length:]


def _complain() -> bytes:
    raise trio.BrokenResourceError("half a body")


async def _respond(
    stream: trio.abc.Stream, request: Request, told: dict[str, Any], files: Path
) -> None:
    """``/to?url=`` redirects, ``/bytes?n=`` is long, ``/chunked`` comes in pieces, ``/files/`` has
    files, ``/sum`` digests what was posted; all else tells the place.
    """
    if request.path == "/to":
        await _send(stream, b"", 302, {"Location": request.get("url")})
    elif request.path == "/bytes":
        await _send_many(stream, int(request.get("n")))
    elif request.path == "/chunked":
        pieces = [b"%x\r\n%s\r\n" % (len(each), each) for each in (b"one ", b"two ", b"three", b"")]
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send_all(head + b"".join(pieces))
    elif request.path.startswith("/files/"):
        file = files / request.path.removeprefix("/files/")
        found = file.is_file()
        await _send(stream, file.read_bytes() if found else b"", 200 if found else 404)
    elif request.path == "/sum":
        await _send(stream, hashlib.sha256(request.body).hexdigest().encode())
    else:
        await _send(stream, json.dumps(told).encode() + b"\n")


async def _send(
    stream: trio.abc.Stream, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} It", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)


async def _send_many(stream: trio.abc.Stream, count: int) -> None:
    await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
    await send_pattern(stream, count)


async def send_pattern(stream: trio.abc.Stream, count: int) -> None:
    """The same bytes each time: ``BLOCK`` over and over."""
    for _ in range(count // len(BLOCK)):
        await stream.send_all(BLOCK)
    await stream.send_all(BLOCK[: count % len(BLOCK)])


def digest_pattern(count: int) -> str:
    """What a client must have at the end."""
    digest = hashlib.sha256(BLOCK * (count // len(BLOCK)))
    digest.update(BLOCK[: count % len(BLOCK)])
    return digest.hexdigest()
