"""A client that does one thing and tells how it went, as a line of JSON.

Inside a jail or without one; the standard library alone.

    client.py tcp ADDRESS PORT [TEXT]      connect, send, read once
    client.py udp ADDRESS PORT TEXT        the same, in datagrams
    client.py soon ADDRESS PORT            tcp, until it works
    client.py quic ADDRESS PORT            the first packet of a connection
    client.py http ADDRESS PORT HOST…      a request for each HOST over one connection
    client.py tls ADDRESS PORT NAME HOST   over TLS; NAME ``-`` is none
    client.py dns SERVER NAME udp|tcp      ask there, whatever resolv.conf says
    client.py look NAME                    getaddrinfo
    client.py rebind NAME PORT             look and connect, until the name is another's
    client.py expire NAME ADDRESS PORT     look, and connect to ADDRESS until that is shut
    client.py race NAME…                   look all up at once; in the order of their answers
    client.py udp_by_name NAME PORT TEXT   look NAME up, then as udp
    client.py then NAME ADDRESS PORT       look NAME up, then connect to ADDRESS
    client.py upload|download ADDRESS PORT COUNT
    client.py many ADDRESS PORT COUNT      so many connections at once, each of them used
    client.py slow ADDRESS PORT COUNT      read with pauses
    client.py reset ADDRESS PORT           until the other side resets
    client.py own ADDRESS                  be server and client at once
    client.py serve PORT TEXT              say TEXT to each client, and datagram
    client.py sweep PORT ADDRESS…          what each says by TCP and by UDP
    client.py raw KIND | abstract NAME     sockets of other families
"""

import contextlib
import errno
import hashlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Any

TIMEOUT_S = float(os.environ.get("TIMEOUT_S", "8"))
PAUSE_S = 0.005
BEGAN = time.monotonic()
LOOKED: dict[int, str] = {
    socket.EAI_NONAME: "no name",
    socket.EAI_NODATA: "no address",
    socket.EAI_AGAIN: "again",
}


def open_tcp(address: str, port: str) -> socket.socket:
    return socket.create_connection((address, int(port)), TIMEOUT_S)


def do_tcp(address: str, port: str, text: str = "") -> str:
    with open_tcp(address, port) as connection:
        connection.sendall(text.encode())
        return connection.recv(65536).decode()


def do_udp(address: str, port: str, text: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect((address, int(port)))
        connection.send(text.encode("latin-1"))
        return connection.recv(65536).decode("latin-1")


def do_quic(address: str, port: str) -> str:
    """An Initial of a version that nobody has, as long as it must be; the connection ids of the
    answer, which are the same the other way round (RFC 9000, 6.1).
    """
    initial = b"\xc3\x1a\x1a\x1a\x1a\x03abc\x02de".ljust(1200, b"\0")
    answer = do_udp(address, port, initial.decode("latin-1")).encode("latin-1")
    return str(answer[5:12].decode("latin-1"))


def do_http(address: str, port: str, *names: str) -> list[str]:
    with open_tcp(address, port) as connection:
        return [ask(connection, name) for name in names]


def do_tls(address: str, port: str, name: str, host: str) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with open_tcp(address, port) as plain:
        named = None if name == "-" else name
        with context.wrap_socket(plain, server_hostname=named) as connection:
            return ask(connection, host)


def ask(connection: socket.socket, host: str) -> str:
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    told = b""
    while not told.endswith(b"\n"):
        more = connection.recv(65536)
        if not more:
            raise EOFError(told.decode())
        told += more
    return told.partition(b"\r\n\r\n")[2].decode()


def do_dns(server: str, name: str, protocol: str) -> int:
    """The code of the answer."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    query = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    if protocol == "udp":
        return ord(do_udp(server, "53", query.decode("latin-1"))[3]) & 15
    with open_tcp(server, "53") as connection:
        connection.sendall(struct.pack(">H", len(query)) + query)
        return connection.recv(65536)[5] & 15


def do_look(name: str) -> list[str]:
    found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    return sorted({str(each[4][0]) for each in found})


def do_rebind(name: str, port: str) -> list[str]:
    """The peers' addresses, as long as somebody answers."""
    peers: list[str] = []
    while len(peers) < 2:
        with open_tcp(name, port) as connection:
            peer = connection.getpeername()[0]
        peers += [] if peer in peers else [peer]
        time.sleep(PAUSE_S)
    return peers


def do_expire(name: str, address: str, port: str) -> None:
    do_look(name)
    while True:
        open_tcp(address, port).close()
        time.sleep(PAUSE_S)


def do_race(*names: str) -> list[str]:
    done: list[str] = []

    def look(name: str) -> None:
        do_look(name)
        done.append(name)

    run_threads([threading.Thread(target=look, args=[each]) for each in names])
    return done


def do_udp_by_name(name: str, port: str, text: str) -> str:
    return do_udp(socket.gethostbyname(name), port, text)


def run_threads(threads: list[threading.Thread]) -> None:
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def do_then(name: str, address: str, port: str) -> str:
    do_look(name)
    return do_tcp(address, port, "hello")


def do_upload(address: str, port: str, count: str) -> list[str]:
    block, digest = os.urandom(1 << 20), hashlib.sha256()
    with open_tcp(address, port) as connection:
        for size in pieces(int(count), len(block)):
            digest.update(block[:size])
            connection.sendall(block[:size])
        connection.shutdown(socket.SHUT_WR)
        told = connection.makefile().read().split()
    return [*told, digest.hexdigest()]


def do_download(address: str, port: str, count: str, small: bool = False) -> list[str]:
    digest, got = hashlib.sha256(), 0
    with open_tcp(address, port) as connection:
        connection.sendall(f"{count}\n".encode())
        while data := connection.recv(1 << 16 if small else 1 << 20):
            digest.update(data)
            got += len(data)
            if small:
                time.sleep(PAUSE_S)
    return [str(got), digest.hexdigest()]


def do_slow(address: str, port: str, count: str) -> list[str]:
    return do_download(address, port, count, small=True)


def pieces(count: int, size: int) -> list[int]:
    return [size] * (count // size) + [count % size] * (count % size > 0)


def do_many(address: str, port: str, count: str) -> list[str]:
    """All of them are open before the first is used."""
    connections = [open_tcp(address, port) for _ in range(int(count))]
    said: list[str] = [""] * len(connections)

    def use(number: int) -> None:
        connections[number].sendall(str(number).encode())
        said[number] = connections[number].recv(100).decode()

    run_threads([threading.Thread(target=use, args=[n]) for n in range(len(connections))])
    return said


def do_reset(address: str, port: str) -> str:
    with open_tcp(address, port) as connection:
        connection.sendall(b"now")
        return connection.recv(10).decode()


def do_own(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 0), family=family) as server,
        open_tcp(address, str(server.getsockname()[1])) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"own")
        return accepted.recv(10).decode()


def do_serve(port: str, text: str) -> None:
    """By TCP and UDP, as long as it lives."""
    with (
        socket.create_server(("", int(port))) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("", int(port)))
        while True:
            if server in select.select([server, datagrams], [], [])[0]:
                with server.accept()[0] as accepted:
                    accepted.sendall(text.encode())
            else:
                datagrams.sendto(text.encode(), datagrams.recvfrom(100)[1])


def do_soon(address: str, port: str) -> str:
    """As tcp; the network may need a moment."""
    while True:
        try:
            return do_tcp(address, port, "hello")
        except OSError:
            if time.monotonic() > BEGAN + TIMEOUT_S:
                raise
            time.sleep(PAUSE_S)


def do_sweep(port: str, *addresses: str) -> dict[str, str]:
    said = {}
    for address in addresses:
        for name, do in (("tcp", do_tcp), ("udp", do_udp)):
            with contextlib.suppress(OSError):
                said[f"{name} {address}"] = do(address, port, "x")
    return said


def do_raw(kind: str) -> str:
    families = {
        "icmp": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "icmp6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        "ip": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
        "netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
    }
    socket.socket(*families[kind]).close()
    return "made"


def do_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + name)
        return connection.recv(100).decode()


def name_of(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return "timeout"
    if isinstance(error, socket.gaierror):
        return LOOKED.get(int(error.errno or 0), str(error))
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode.get(number or 0, type(error).__name__)


def main() -> None:
    told: dict[str, Any] = {"error": None, "said": None}
    try:
        told["said"] = globals()[f"do_{sys.argv[1]}"](*sys.argv[2:])
    except (OSError, EOFError) as error:
        told["error"] = name_of(error)
    told["elapsed_s"] = time.monotonic() - BEGAN
    print(json.dumps(told))


if __name__ == "__main__":
    main()
