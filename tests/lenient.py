"""Real servers that tell by which name they were asked, and take more than they should."""

from __future__ import annotations

import io
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.spoken import Client, step

SOURCES: Final = Path(__file__).parent / "servers"
PATIENCE_S: Final = 10.0
Ask = Callable[[bytes], list[str]]


class _Handler(BaseHTTPRequestHandler):
    """Python's, that answers to any method and reads a body or forgets it."""

    protocol_version = "HTTP/1.1"
    forgets_body = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._note
        raise AttributeError(name)

    def _note(self) -> None:
        # Nobody serves: what a handler calls its server is where the names go.
        named: list[str] = self.server  # type: ignore[assignment]
        # Python runs //x together, so this is an absolute target alone.
        with suppress(ValueError):
            host = urlsplit(self.path).netloc if "://" in self.path else ""
            named.append(normalise(host or self.headers.get("Host", "")))
        with suppress(ValueError):
            if not self.forgets_body:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


class _Forgetful(_Handler):
    forgets_body = True


class _Socket:
    """What a handler needs of one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None: ...


def normalise(host: str) -> str:
    """As a rule is asked for it."""
    return re.sub(r":\d*$", "", host.strip().lower()).rstrip(".")


def ask_python(data: bytes) -> list[str]:
    """Python's http.server, in memory."""
    return _ask_python(_Handler, data)


def ask_forgetful_python(data: bytes) -> list[str]:
    """The same, whose handler doesn't read the body: the next request begins there."""
    return _ask_python(_Forgetful, data)


def _ask_python(handler: type[_Handler], data: bytes) -> list[str]:
    names: list[str] = []
    # Neither a socket nor a server: bytes for the one, a list of names for the other.
    handler(_Socket(data), ("192.0.2.1", 1), names)  # type: ignore[arg-type]
    return names


def ask_openssl(data: bytes) -> list[str]:
    """Its TLS server, in memory: once for each hello that it takes."""
    names: list[str] = []
    server = Server(names)
    with suppress(ssl.SSLError):
        server.step(data)
    return names


class Server:
    """OpenSSL's. It wants a curve that no client offers a key for: there is a second hello."""

    def __init__(self, names: list[str], certificate: Path | None = None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ecdh_curve("secp521r1")
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.sni_callback = lambda _tls, name, _context: names.append(str(name))
        if certificate is not None:
            context.load_cert_chain(certificate)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def step(self, data: bytes) -> bytes:
        """One turn of the handshake."""
        return step(self.tls, self.incoming, self.outgoing, data)


@contextmanager
def run_node() -> Iterator[Ask]:
    """node's http server, as lax as it can be made."""
    with _run("node", str(SOURCES / "names.js")) as ports:
        yield lambda data: _ask(ports[0], data)


@contextmanager
def run_go(folder: Path) -> Iterator[tuple[Ask, Ask]]:
    """Go's net/http and crypto/tls."""
    program = folder / "names"
    cache = {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "HOME": str(folder)}
    argv = ["go", "build", "-o", str(program), str(SOURCES / "names.go")]
    subprocess.run(argv, check=True, env={"PATH": "/usr/bin:/bin", **cache}, cwd=folder)
    with _run(str(program)) as ports:
        yield lambda data: _ask(ports[0], data), lambda data: _ask(ports[1], data)


@contextmanager
def _run(*argv: str) -> Iterator[list[int]]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield [int(each) for each in process.stdout.readline().split()]
        finally:
            process.kill()


def _ask(port: int, data: bytes) -> list[str]:
    answers = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        with suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while more := sock.recv(65536):
                answers += more
    return [normalise(each) for each in re.findall(r"^name=(.*)$", answers.decode(), re.MULTILINE)]


def make_second_hello(client: Client, certificate: Path) -> tuple[bytes, bytes, bytes]:
    """A client's first hello, the server's request to say it again, and the second."""
    server = Server([], certificate)
    first = client.step()
    retry = server.step(first)
    return first, retry, client.step(retry)
