"""One connection, one decision, one entry: also where a port is used again."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import pytest

from jail.egress.relay import ALL_CHUNKS_BYTES, CHUNK_BYTES, find_chunk_bytes
from tests.network import place
from tests.network.option import allow
from tests.network.world import PYTHON, World

PORT: Final = "40000"
CONNECT: Final = """
import errno, socket, sys, time
def connect(own, address, port, patience_s=8):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(patience_s)
    made.bind(("", own))
    made.connect((address, port))
    return made
def abandon(own, address, port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", own))
    made.setblocking(False)
    made.connect_ex((address, port))
    made.close()
own, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
"""
ABANDON: Final = (
    CONNECT
    + """
abandon(own, address, port)
connect(0, address, port).close()  # what came before it has been decided
print("abandoned")
"""
)
ECHO: Final = (
    CONNECT
    + """
made = connect(own, address, port)
made.sendall(b"hello")
print(made.recv(9).decode())
"""
)
# Until the name's address is shut for others: then it has to be for this one.
EXPIRE: Final = (
    CONNECT
    + """
socket.gethostbyname("brief.test")
abandon(own, address, port)
try:
    while True:
        connect(0, address, port).close()
        time.sleep(0.05)
except ConnectionRefusedError:
    pass
try:
    connect(own, address, port)
    print("open")
except ConnectionRefusedError:
    print("shut")
"""
)
DATAGRAM: Final = """
import socket, sys
own, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.settimeout(8)
made.bind(("", own))
made.sendto(b"hello", (address, port))
print(made.recv(9).decode())
"""

FLOOD: Final = """
import socket, sys, time
made, port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), int(sys.argv[1])
question = b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4site\\4test\\0\\0\\1\\0\\1"
until, sent = time.monotonic() + 3, 0
while time.monotonic() < until:
    try:
        made.sendto(question, (f"203.0.113.{sent % 200}", port))
    except OSError:
        pass
    sent += 1
print(sent)
"""


def run_all(world: World, options: dict[str, Any], *programs: list[str]) -> list[Any]:
    """What each run in one jail is told."""
    words = [json.dumps(each) for each in (options, *programs)]
    done = world.run(sys.executable, "-m", "tests.network.runs", *words)
    assert done.status == 0, done
    return list(json.loads(done.stdout))


def python(program: str, *words: str) -> list[str]:
    return [PYTHON, "-c", program, *words]


def test_a_connection_that_was_given_up_opens_nothing_later(world: World) -> None:
    argv = python(EXPIRE, PORT, place.SITE, str(place.ECHO))
    done = world.run_jail(*allow("brief.test"), "--", *argv)
    assert (done.stdout, done.status) == (b"shut\n", 0), done


def test_a_connection_from_a_port_of_an_earlier_run_is_in_the_later_ones_log(
    world: World,
) -> None:
    words = PORT, place.SITE, str(place.ECHO)
    options = {"allow": [f"{place.SITE}:{place.ECHO}"]}
    _, told = run_all(world, options, python(ABANDON, *words), python(ECHO, *words))
    assert told["out"] == "hello\n"
    (attempt,) = told["attempts"]
    assert (attempt["count"], attempt["sent_bytes"], attempt["received_bytes"]) == (1, 5, 5)


def test_datagrams_from_a_port_of_an_earlier_run_are_in_the_later_ones_log(
    world: World,
) -> None:
    argv = python(DATAGRAM, PORT, place.SITE, str(place.ECHO))
    options = {"allow": [f"{place.SITE}:{place.ECHO}/udp"]}
    for told in run_all(world, options, argv, argv):
        assert told["out"] == "hello\n"
        (attempt,) = told["attempts"]
        assert (attempt["count"], attempt["sent_bytes"], attempt["received_bytes"]) == (1, 5, 5)


@pytest.mark.parametrize("port", ["80", "53"])
def test_a_flood_of_datagrams_takes_a_small_part_of_the_supervisors_time(
    world: World, port: str
) -> None:
    """Others' jails wait for the same thread, and nobody charges it to this one."""
    (told,) = run_all(world, {"allow": ["site.test"]}, python(FLOOD, port))
    assert int(told["out"]) > 10_000
    assert told["supervisor_cpu_s"] < 1.5


def test_readers_that_do_not_read_have_little_held_for_them() -> None:
    held = sum(2 * find_chunk_bytes(number) for number in range(1, 1025))
    assert held < 16 * ALL_CHUNKS_BYTES
    assert find_chunk_bytes(1) == CHUNK_BYTES
