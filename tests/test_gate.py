"""A gate whose supervisor has no descriptor left: it waits, and claims nothing it can't know."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any, Final

import pytest
import trio

from jail.egress.gate import Gate, Injector, OwnAddresses
from jail.egress.packet import Place

WATCHED_S: Final = 0.6
ALMOST_IDLE_S: Final = 0.2
LOOPBACK: Final = Place(ip_address("127.0.0.1"), 7)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def make_gate(listener: socket.socket) -> Gate:
    """Nobody's SYN is ever let in by it."""

    def never(*_: Any) -> Any:
        raise AssertionError

    log, raw4, raw6 = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3))
    injector = Injector(raw4, raw6)
    return Gate(log, (listener,), injector, never, never, never, 1)


async def test_who_can_not_be_let_in_waits_and_nothing_spins() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    gate = make_gate(listener)
    with socket.create_connection(listener.getsockname()) as client:
        client.setblocking(False)
        async with trio.open_nursery() as nursery:
            with no_descriptor_left():
                nursery.start_soon(gate.accept, listener)
                began_s = time.process_time()
                await trio.sleep(WATCHED_S)
                assert time.process_time() - began_s < ALMOST_IDLE_S
                with pytest.raises(BlockingIOError):
                    client.recv(1)
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(client)
            assert client.recv(1) == b"", "nobody has let it in"
            nursery.cancel_scope.cancel()
    gate.close()
    gate._injector.close()


async def test_an_address_that_nobody_could_look_at_is_not_said_to_be_another_s() -> None:
    own = OwnAddresses()
    with no_descriptor_left(), pytest.raises(OSError) as raised:
        own.has(LOOPBACK)
    assert raised.value.errno == errno.EMFILE
    assert own.has(LOOPBACK)
