"""The network of the host that runs jails, and the secret services of that host.

Nobody in a jail may reach them: they are at its loopback, at its own addresses, and under an
abstract name. Whoever connects is told so, and counted.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys

from tests.network import place
from tests.network.ground import run_ip

WORD = b"the host's own\n"
ABSTRACT = "\0the host's own"


def main() -> None:
    print(os.readlink("/proc/self"), flush=True)  # the pid in the namespace of that /proc
    sys.stdin.readline()
    run_ip(
        "link set lo up",
        "link set eth0 up",
        f"addr add {place.HOST4}/24 dev eth0",
        f"addr add {place.HOST6}/64 dev eth0 nodad",
        f"route add default via {place.GATEWAY4}",
        f"route add default via {place.GATEWAY6}",
    )
    selector = selectors.DefaultSelector()
    for listener in open_listeners():
        selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            # What was registered are sockets; a selector takes numbers, too.
            answer(key.fileobj)  # type: ignore[arg-type]


def open_listeners() -> list[socket.socket]:
    addresses = ("127.0.0.1", "::1", place.HOST4, place.HOST6)
    listeners = [socket.socket(socket.AF_UNIX)]
    listeners[0].bind(ABSTRACT)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listeners += [socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)]
        for each in listeners[-2:]:
            each.bind((address, place.SENTINEL))
    for each in listeners:
        if each.type == socket.SOCK_STREAM:
            each.listen(64)
    return listeners


def answer(listener: socket.socket) -> None:
    if listener.type == socket.SOCK_DGRAM:
        _, peer = listener.recvfrom(65535)
        listener.sendto(WORD, peer)
        return
    accepted, _ = listener.accept()
    with accepted:
        accepted.sendall(WORD)


if __name__ == "__main__":
    main()
