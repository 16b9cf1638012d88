"""The tests' own internet is what it says: without a jail, all of it answers.

So what is refused inside a jail is refused by the jail.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.network import place
from tests.network.uplink import ABSTRACT, WORD
from tests.network.world import World, open_world
from tests.part import require
from tests.sight import find_marked

FAST_S = 2.0


@pytest.mark.parametrize("kind", ["single", "subuid"])
def test_jails_run_in_it_and_all_ends_with_it(kind: str, tmp_path: Path) -> None:
    if kind == "subuid":
        require("subuid")
    with open_world(kind, tmp_path) as world:
        own = world.run("grep", "-c", "Cap[IPEA].*:.0000000000000000", "/proc/self/status")
        assert own.stdout == b"4\n"
        done = world.run_jail("--", "cat", "/proc/self/uid_map")
        assert done.status == 0, done.stderr
        assert len(done.stdout.splitlines()) == (1 if kind == "single" else 3)
        assert find_marked(str(tmp_path))
    assert not find_marked(str(tmp_path))


def test_it_is_not_seen_from_outside(world: World) -> None:
    routes = world.run("cat", "/proc/self/net/fib_trie").stdout.decode()
    assert place.HOST4 in routes and place.OTHER not in routes
    assert routes != Path("/proc/self/net/fib_trie").read_text()
    assert world.run("readlink", "/proc/self/ns/net").stdout.decode() != os.readlink(
        "/proc/self/ns/net"
    )


@pytest.mark.parametrize("address", [*place.SERVERS, *(f"::ffff:{a}" for a in place.PRIVATE[:1])])
def test_every_server_answers(world: World, address: str) -> None:
    assert world.visit("tcp", address, "7", "hello").said == "hello"
    assert world.visit("udp", address, "7", "hello").said == "hello"
    assert world.visit("tcp", address, "22").said == "SSH-2.0-world\r\n"
    told = json.loads(world.visit("tls", address, "443", "site.test", "any.test").said)
    assert told["address"] == address.removeprefix("::ffff:")
    assert (told["sni"], told["host"]) == ("site.test", "any.test")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", place.HOST4, place.HOST6])
def test_the_host_has_services_of_its_own(world: World, address: str) -> None:
    port = str(place.SENTINEL)
    assert world.visit("tcp", address, port).said == WORD.decode()
    assert world.visit("udp", address, port, "x").said == WORD.decode()
    assert world.visit("abstract", ABSTRACT[1:]).said == WORD.decode()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (place.MANY_REFUSE[0], "ECONNREFUSED"),
        (place.UNREACHABLE, "EHOSTUNREACH"),
        (place.UNREACHABLE6, "ENETUNREACH"),
        (place.PROHIBITED, "EHOSTUNREACH"),
    ],
)
def test_the_dead_say_so_at_once(world: World, address: str, error: str) -> None:
    visit = world.visit("tcp", address, "80")
    assert (visit.error, visit.elapsed_s < FAST_S) == (error, True)


def test_the_silent_say_nothing(world: World) -> None:
    done = world.run("curl", "-s", "--connect-timeout", "0.3", f"http://{place.SILENT}")
    assert done.status == 28


def test_neighbours_at_one_address_are_told_apart(world: World) -> None:
    for name in place.SHARED_NAMES:
        url = f"https://{name}/"
        done = world.run("curl", "-sS", "--cacert", str(world.authority), url)
        assert done.json["certificate"] == name, done.stderr
    nobody = json.loads(world.visit("tls", place.SHARED, "443", "-", "one.shared.test").said)
    assert (nobody["sni"], nobody["certificate"]) == (None, place.DEFAULT_NAME)


def test_names_have_addresses_by_udp_and_tcp_and_are_counted(world: World) -> None:
    assert world.visit("look", "site.test").said == sorted([place.SITE, place.SITE6])
    assert world.visit("look", "chain.test").said == sorted([place.SITE, place.SITE6])
    assert len(world.visit("look", "many.test").said) == 20
    assert world.visit("look", "nobody.test").error == "no name"
    world.forget()
    for protocol in ("udp", "tcp"):
        assert world.visit("dns", place.PUBLIC_DNS, "site.test", protocol).said == 0
    asked = {"name": "site.test", "type": "A", "server": place.PUBLIC_DNS}
    assert world.read_asked() == [{**asked, "protocol": p} for p in ("udp", "tcp")]


def test_answers_change_from_query_to_query(world: World) -> None:
    good, bad = ({"records": place.a(each)} for each in (place.SITE, "10.1.2.3"))
    world.script("rebind.test", good, bad)
    dig = ("dig", "+short", "rebind.test")
    assert [world.run(*dig).stdout for _ in range(3)] == [
        f"{each}\n".encode() for each in (place.SITE, "10.1.2.3", "10.1.2.3")
    ]
    world.forget()
    assert world.run(*dig).stdout == b""


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ("silence", "timed out"),
        ("other id", "ID mismatch"),
        ("other question", "Question section mismatch"),
        ("garbage", "Got bad packet"),
        ("endless name", "Got bad packet"),
        ("truncated", "retrying in TCP mode"),
    ],
)
def test_resolvers_lie_when_they_are_told_to(world: World, lie: str, told: str) -> None:
    world.script("lie.test", {"records": place.a(place.SITE), "lie": lie})
    done = world.run("dig", "+tries=1", "+time=1", "lie.test")
    assert told in done.stdout.decode() + done.stderr


def test_bytes_arrive_both_ways(world: World) -> None:
    count, told, own = world.visit("upload", place.SITE, "9", "3000001").said
    assert (count, told) == ("3000001", own)
    assert world.visit("reset", place.SITE, "5001").error == "ECONNRESET"
    assert world.visit("many", place.SITE, "7", "200").said == [str(n) for n in range(200)]


def test_quic_is_answered(world: World) -> None:
    assert world.visit("quic", place.SITE, "443").said == "\x02de\x03abc"
