"""What happens between a supervisor and its jails, told as JSON: ``python -m … NAME USERNS``.

Played on the host of a world that runs jails. Servers that have to be watched closely are ours,
at that host's own address, which is open to a jail where a rule names it and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import trio

from jail import Jail, Result, Supervisor, open_supervisor
from tests.network import place

PORT: Final = 5555
HERE: Final = (place.HOST4, PORT)
RULES: Final = (f"{place.HOST4}:{PORT}", f"{place.SITE}", f"{place.SITE}/udp", place.SILENT)
CONNECT: Final = "import socket,sys,time; c=socket.create_connection({},5); "
BIG: Final = 3_000_001
LONG_S: Final = 30.0

Scene = Callable[[Supervisor, str], Awaitable[Any]]


def open_filtered(
    supervisor: Supervisor, userns: str, *rules: str
) -> AbstractAsyncContextManager[Jail]:
    return supervisor.open_jail(userns=userns, network="filtered", allow=rules or RULES)


async def run(jail: Jail, text: str, **options: Any) -> Result:
    return await jail.run(["/usr/bin/python3", "-c", text], **options)


def tell(result: Result) -> dict[str, Any]:
    network = result.network.to_json()
    return {"said": result.stdout.decode(), "error": result.stderr.decode(), **network}


class Server:
    """At the host's own address; ``ends`` has what became of each connection."""

    def __init__(self, reads: bool) -> None:
        self.reads = reads
        self.begun = trio.Event()
        self.over = trio.Event()
        self.ends: list[tuple[int, str]] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        size, how = 0, "end"
        self.begun.set()
        try:
            if not self.reads:
                await self._wait_reset(stream)
            async for data in stream:
                size += len(data)
        except (trio.BrokenResourceError, OSError):
            how = "reset"
        self.ends.append((size, how))
        self.over.set()

    async def _wait_reset(self, stream: trio.SocketStream) -> None:
        """EPOLLERR and EPOLLHUP make it writable again: epoll_ctl(2)."""
        while True:
            code = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            await trio.sleep(0.01)


@asynccontextmanager
async def open_server(reads: bool = True) -> AsyncGenerator[Server, None]:
    server = Server(reads)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(PORT, host=place.HOST4)
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


async def last_words(supervisor: Supervisor, userns: str) -> Any:
    """The program ends with its last byte said, and so does the jail."""
    async with open_server() as server:
        async with open_filtered(supervisor, userns) as jail:
            text = CONNECT.format(HERE) + f"c.sendall(bytes({BIG}))"
            told = tell(await run(jail, text))
        with trio.move_on_after(LONG_S):
            await server.over.wait()
        return {**told, "ends": server.ends}


async def broken_off(supervisor: Supervisor, userns: str) -> Any:
    """Nobody reads; the jail is closed in the middle, by an end or by a cancellation."""
    ends = []
    for is_cancelled in (False, True):
        async with open_server(reads=False) as server:
            with trio.CancelScope() as scope:
                async with open_filtered(supervisor, userns) as jail:
                    text = CONNECT.format(HERE) + "c.sendall(bytes(1<<28))"
                    async with jail.start(["/usr/bin/python3", "-c", text]):
                        await server.begun.wait()
                        if is_cancelled:
                            scope.cancel()
            with trio.move_on_after(LONG_S):
                await server.over.wait()
            ends.append(server.ends)
    return {"ends": ends}


async def two_runs(supervisor: Supervisor, userns: str) -> Any:
    """One after the other, and a third that is quick while the first kind goes on."""
    async with open_filtered(supervisor, userns) as jail:
        say = CONNECT + "c.sendall(b'x'*{}); c.recv(9)"
        first = tell(await run(jail, say.format((place.SITE, place.ECHO), 10)))
        second = tell(await run(jail, say.format((place.SITE, place.ECHO), 20)))
        holds = CONNECT.format((place.SITE, place.ECHO)) + "print(flush=True); time.sleep(60)"
        async with jail.start(["/usr/bin/python3", "-c", holds]) as holder:
            assert holder.stdout
            await holder.stdout.receive_some(1)
            began = time.monotonic()
            await jail.run(["true"])
            quick_s = time.monotonic() - began
    return {"first": first, "second": second, "quick_s": quick_s}


async def many_places(supervisor: Supervisor, userns: str) -> Any:
    """More than a log holds."""
    text = """
import socket, errno
codes = set()
for port in range(1000, 2300):
    with socket.socket() as s:
        s.settimeout(20)
        codes.add(s.connect_ex(("203.0.113.20", port)))
print(*(errno.errorcode[c] for c in codes))
"""
    async with open_filtered(supervisor, userns) as jail:
        return tell(await run(jail, text))


FLOOD: Final = f"""
import resource, socket, sys, time
print(flush=True)
kept, until = [], time.monotonic() + 4
while time.monotonic() < until:
    for target in (("{place.SHARED}", 80), ("{place.SILENT}", 80), ("127.0.0.1", 1)):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(target)
        kept.append(s)
    del kept[:-3000]
"""
UDP_FLOOD: Final = f"""
import socket, time
print(flush=True)
s, until, n = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), time.monotonic() + 4, 0
while time.monotonic() < until:
    n += 1
    if n % 20 == 0:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.sendto(b"x" * 100, (("{place.SITE}", 7), ("{place.SHARED}", 7), ("127.0.0.1", 1))[n % 3])
    except OSError:
        pass
"""
HONEST: Final = f"""
import socket, time
longest = 0
for _ in range(20):
    began = time.monotonic()
    with socket.create_connection(("{place.SITE}", {place.ECHO}), 10) as c:
        c.sendall(b"hello")
        assert c.recv(5) == b"hello"
    longest = max(longest, time.monotonic() - began)
print(longest)
"""


async def flood(supervisor: Supervisor, userns: str) -> Any:
    return await _flood(supervisor, userns, FLOOD)


async def udp_flood(supervisor: Supervisor, userns: str) -> Any:
    return await _flood(supervisor, userns, UDP_FLOOD)


async def _flood(supervisor: Supervisor, userns: str, text: str) -> Any:
    """One jail floods us, what becomes of another one?"""
    async with (
        open_filtered(supervisor, userns) as bad,
        open_filtered(supervisor, userns) as good,
    ):
        before = read_memory()
        async with bad.start(["/usr/bin/python3", "-c", text]) as flooder:
            assert flooder.stdout
            await flooder.stdout.receive_some(1)
            honest = await run(good, HONEST)
            files = count_files()
            told = (await flooder.wait()).network
        grown = read_memory() - before
        again = await run(bad, HONEST)
    return {
        "honest": honest.stdout.decode(),
        "again": again.stdout.decode(),
        "files": files,
        "grown_bytes": grown,
        "attempts": len(told.attempts),
        "error": honest.stderr.decode(),
    }


def read_memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def count_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def no_descriptor(supervisor: Supervisor, userns: str) -> Any:
    """While none is left, nothing spins; when there are some again, it goes on."""
    text = f"""
import socket, sys
print(flush=True); sys.stdin.read(1)
socks = [socket.socket() for _ in range(3)]
for s, target in zip(socks, ((("{place.SITE}", 7)), ("{place.SITE}", 53), ("127.0.0.1", 1))):
    s.setblocking(False); s.connect_ex(target)
print(flush=True)
socks[0].settimeout(20); socks[0].sendall(b"hello"); print(socks[0].recv(5))
"""
    async with (
        open_filtered(supervisor, userns) as jail,
        jail.start(["/usr/bin/python3", "-c", text]) as process,
    ):
        assert process.stdin and process.stdout
        await process.stdout.receive_some(1)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        await process.stdin.send_all(b"x")
        await process.stdout.receive_some(1)
        began_s = time.process_time()
        await trio.sleep(1)
        spun_s = time.process_time() - began_s
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        said = b""
        with trio.move_on_after(LONG_S):
            async for data in process.stdout:
                said += data
        return {"spun_s": spun_s, "said": said.decode(), "result": tell(await process.wait())}


INWARD: Final = """
import errno, socket
def name(code): return errno.errorcode.get(code, "OK")
def tcp(family, address, port):
    with socket.socket(family) as s:
        s.settimeout(5)
        code = s.connect_ex((address, port))
        if code:
            return name(code)
        try:
            s.sendall(b"x")
            return s.recv(1).decode() or "end"
        except OSError as error:
            return name(error.errno)
def udp(family, address, port, source=None):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        if source: s.bind(source)
        s.connect((address, port))
        try:
            s.send(b"x"); return s.recv(9).decode()
        except OSError as error:
            return name(error.errno) if error.errno else "timeout"
four, six = socket.AF_INET, socket.AF_INET6
said = {"tcp": [tcp(four, "127.0.0.1", 1), tcp(six, "::1", 1), tcp(four, "10.0.2.100", 1)],
        "udp": [udp(four, "127.0.0.1", 1), udp(six, "::1", 1)]}
try:
    socket.socket().bind(("127.0.0.1", 1)); said["bound"] = "OK"
except OSError as error:
    said["bound"] = name(error.errno)
"""
FOREIGN: Final = """
def listen(address, port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port)); s.listen(); return s
own = [listen(a, p) for a in ("9.9.9.9", "203.0.113.20", "10.0.2.3") for p in (4444, 8080)]
said["to itself"] = [tcp(four, "9.9.9.9", 4444), tcp(four, "203.0.113.20", 8080)]
said["from a foreign one"] = udp(four, "SITE", 7, ("9.9.9.9", 5000))
said["from loopback"] = udp(four, "SITE", 7, ("127.0.0.1", 5001))
with socket.socket() as s:
    s.settimeout(5); s.bind(("9.9.9.9", 6000)); s.connect(("SITE", 7)); s.sendall(b"hi")
    said["by tcp"] = s.recv(2).decode()
all_ports = listen("0.0.0.0", 7777)
said["own"] = tcp(four, "SITE", 7)
"""


async def inward(supervisor: Supervisor, userns: str) -> Any:
    """Straight to our own port, and from and to addresses that are somebody else's."""
    text = INWARD + FOREIGN.replace("SITE", place.SITE) + "import json; print(json.dumps(said))"
    async with open_filtered(supervisor, userns) as jail:
        result = await run(jail, text)
        assert result.ok, result.stderr
        return json.loads(result.stdout)


SCENES: Final[dict[str, Scene]] = {
    each.__name__: each
    for each in (
        *(last_words, broken_off, two_runs, many_places, flood, udp_flood, no_descriptor, inward),
    )
}


async def main(name: str, userns: str) -> None:
    async with open_supervisor() as supervisor:
        async with open_filtered(supervisor, userns):
            before = count_files()  # with all that a first jail brings
        told = await SCENES[name](supervisor, userns)
        await supervisor.wait_gone()
        left = count_files() - before
    print(json.dumps({**told, "left_files": left}))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
