"""What real programs say to a server goes through, and is read as they mean it."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from jail.egress.inspector import Inspector, Refused
from tests.part import require
from tests.spoken import ALLOWED

PATIENCE_S: Final = 20.0
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD: Final = re.compile(rb"[A-Z]+ \S+ HTTP/1.[01]\r\n")

GO: Final = """
package main

import ("context"; "net"; "net/http"; "os"; "strings")

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(address)
	return net.Dial("tcp", "127.0.0.1:" + port)
}

func main() {
	client := http.Client{Transport: &http.Transport{DialContext: dial}}
	for _, body := range []string{"", "abc"} {
		response, err := client.Post(os.Args[1], "text/plain", strings.NewReader(body))
		if err == nil { response.Body.Close() }
	}
}
"""
NODE: Final = """
const url = process.argv[1]
const lookup = (name, options, done) => options.all
  ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)
const request = require(url.split(':')[0]).request(url, { method: 'POST', lookup }, response => {
  response.resume()
})
request.on('error', () => {})
request.write('abc')
request.end('def')
"""
PYTHON: Final = """
import socket, sys, urllib.error, urllib.request
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **options: real("127.0.0.1", *more, **options)
try:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], b"abc"), timeout=10).read()
except (OSError, urllib.error.URLError):
    assert sys.argv[1].startswith("https:")
"""


class Relay:
    """A server that keeps what it was asked, through an inspector, on one connection at a time."""

    def __init__(self, *answers: bytes) -> None:
        self.names: list[str] = []
        self.said = b""
        self.refused: list[Refused] = []
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock = self._listener.accept()[0]
                sock.settimeout(PATIENCE_S)
                with sock, suppress(TimeoutError, ConnectionError):
                    self._serve_one(sock)

    def _serve_one(self, sock: socket.socket) -> None:
        inspector = Inspector(lambda name: name == ALLOWED)
        try:
            while data := sock.recv(65536):
                self.said += inspector.feed(data)
                answer = self._make_answer(data)
                inspector.tell(answer)
                sock.sendall(answer)
                if not answer and data[0] == 0x16:
                    return
            self.said += inspector.end()
        except Refused as refused:
            self.refused.append(refused)
        finally:
            self.names += inspector.names

    def _make_answer(self, data: bytes) -> bytes:
        heads = HEAD.findall(data)
        return b"".join(self._answers.pop(0) if self._answers else OK for _ in heads)


@contextmanager
def listen(*answers: bytes) -> Iterator[Relay]:
    relay = Relay(*answers)
    try:
        yield relay
    finally:
        relay.close()


def run(*argv: str) -> None:
    """A client that may fail: who answers is no real server."""
    variables = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    subprocess.run(argv, timeout=PATIENCE_S * 2, env=variables, capture_output=True)


def curl(relay: Relay, *argv: str) -> None:
    require("curl")
    run("curl", "-s", "-k", "--resolve", f"{ALLOWED}:{relay.port}:127.0.0.1", *argv)


def run_curl(relay: Relay, scheme: str, _: Path) -> None:
    url = f"{scheme}://{ALLOWED}:{relay.port}"
    curl(relay, "-d", "abc", f"{url}/one?x=%20", f"{url}/two")
    curl(relay, "-H", "Expect:", "-T", __file__, url + "/three")
    curl(relay, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", "-T", __file__, url + "/four")
    curl(relay, "-0", url + "/five")


def run_git(relay: Relay, scheme: str, _: Path) -> None:
    require("git")
    resolve = f"http.curloptResolve={ALLOWED}:{relay.port}:127.0.0.1"
    run("git", "-c", resolve, "ls-remote", f"{scheme}://{ALLOWED}:{relay.port}/project.git")


def run_python(relay: Relay, scheme: str, _: Path) -> None:
    run(sys.executable, "-c", PYTHON, f"{scheme}://{ALLOWED}:{relay.port}/x")


def run_node(relay: Relay, scheme: str, _: Path) -> None:
    require("node")
    run("node", "-e", NODE, f"{scheme}://{ALLOWED}:{relay.port}/x")


def run_go(relay: Relay, scheme: str, folder: Path) -> None:
    require("go")
    (folder / "client.go").write_text(GO)
    cache = {"GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "HOME": str(folder)}
    argv = ["go", "build", "-o", "client", "client.go"]
    subprocess.run(argv, check=True, cwd=folder, env={"PATH": os.environ["PATH"], **cache})
    run(str(folder / "client"), f"{scheme}://{ALLOWED}:{relay.port}/x")


CLIENTS: Final[dict[str, Callable[[Relay, str, Path], None]]] = {
    "curl": run_curl,
    "git": run_git,
    "go": run_go,
    "node": run_node,
    "python": run_python,
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_clients_say_goes_through(client: str, scheme: str, tmp_path: Path) -> None:
    with listen() as relay:
        CLIENTS[client](relay, scheme, tmp_path)
    assert relay.refused == []
    assert set(relay.names) == {ALLOWED}
    assert relay.said.startswith(b"\x16\x03" if scheme == "https" else (b"POST", b"GET"))


def test_openssl_s_client_says_a_name_or_is_refused() -> None:
    require("openssl")
    for words, names in (["-servername", ALLOWED], [ALLOWED]), (["-noservername"], []):
        with listen() as relay:
            run("openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", *words)
        assert relay.names == names
        assert len(relay.refused) == (not names)


def test_curl_speaks_to_a_proxy() -> None:
    """Absolute targets; a CONNECT, and what is said in its tunnel."""
    agreed = b"HTTP/1.1 200 OK\r\n\r\n"
    with listen() as relay:
        curl(relay, "-x", f"http://{ALLOWED}:{relay.port}", f"http://{ALLOWED}/x")
    assert relay.said.startswith(b"GET http://allowed.org/x HTTP/1.1\r\n")
    assert relay.refused == []
    for url, start in ((f"https://{ALLOWED}/", b"\x16\x03"), (f"http://{ALLOWED}/", b"GET /")):
        with listen(agreed) as relay:
            curl(relay, "-p", "-x", f"http://{ALLOWED}:{relay.port}", url)
        assert relay.said.startswith(b"CONNECT allowed.org:")
        assert relay.said.partition(b"\r\n\r\n")[2].startswith(start)
        assert relay.refused == []
    with listen(agreed) as relay:
        curl(relay, "-p", "-x", f"http://{ALLOWED}:{relay.port}", "https://other.org/")
    assert [each.name for each in relay.refused] == ["other.org"]


def test_curl_upgrades_to_a_websocket_but_not_to_http_2() -> None:
    key = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Key: x")
    with listen(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n") as relay:
        curl(relay, "-m", "1", *key, f"http://{ALLOWED}:{relay.port}/")
    assert relay.said.startswith(b"GET /") and relay.refused == []
    upgraded = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    for option, answers, is_refused in (
        ("--http2", [], False),
        ("--http2", [upgraded], True),
        ("--http2-prior-knowledge", [], True),
    ):
        with listen(*answers) as relay:
            curl(relay, option, f"http://{ALLOWED}:{relay.port}/")
        assert (len(relay.refused) == 1) == is_refused
        assert b"HTTP/2" not in relay.said


def test_python_s_client_sends_chunks_and_keeps_the_connection() -> None:
    with listen() as relay:
        connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=PATIENCE_S)
        for body in (iter([b"abc", b"def"]), b"ghi", None):
            connection.request("POST", "/", body, {"Host": ALLOWED}, encode_chunked=True)
            assert connection.getresponse().read() == b"ok"
        connection.close()
    assert relay.refused == [] and relay.said.count(b"POST /") == 3
