"""The network that a gate makes, as the kernel tells it back to the real programs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final, NamedTuple

import pytest

from jail.egress import netlink
from jail.network.decide import make_gate
from tests.part import require

pytestmark = pytest.mark.beside

SCRIPT: Final = """
import json, socket, subprocess, sys
from jail.network.decide import make_gate
from jail.zygote.gate import open_gate
from jail.zygote.init import raise_loopback, rung
raise_loopback()
fds = open_gate(make_gate(sys.argv[1] == "6"), rung)
socks = [socket.socket(fileno=fd) for fd in fds]
def run(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout
def look(*words):
    return json.loads(run("ip", "-j", *words))
print(json.dumps({
    "rules": run("nft", "list", "ruleset"),
    "addresses": look("address"), "routes": look("route"),
    "routes6": look("-6", "route", "show", "table", "all"),
    "sockets": [[s.family, s.type, list(s.getsockname())[:2]] for s in socks],
}))
"""

MARKED: Final = f"meta mark 0x{netlink.MARK:08x}"
RULES: Final = (
    "ip daddr 127.0.0.0/8 accept",
    "ip daddr 10.0.2.100 accept",
    "ip6 daddr ::1 accept",
    "ip6 daddr fd00:6a::100 accept",
    f"tcp flags syn / syn,ack {MARKED} meta nfproto ipv4 tproxy ip to 127.0.0.1:1 accept",
    f"tcp flags syn / syn,ack {MARKED} meta nfproto ipv6 tproxy ip6 to [::1]:1 accept",
    f"{MARKED} accept",
    "tcp flags syn / syn,ack limit rate over 4000/second burst 1000 packets drop",
    "tcp flags syn / syn,ack log group 1 snaplen 160 drop",
    "meta l4proto tcp accept",
    "meta l4proto udp meta nfproto ipv4 tproxy ip to 127.0.0.1:1 accept",
    "meta l4proto udp meta nfproto ipv6 tproxy ip6 to [::1]:1 accept",
    "reject",
)


class Made(NamedTuple):
    """What the kernel tells of it."""

    rules: str
    addresses: list[dict[str, Any]]
    routes: list[dict[str, Any]]
    routes6: list[dict[str, Any]]
    sockets: list[list[Any]]


def make(version: str) -> Made:
    require("nft", "ip", "unshare")
    argv = ("unshare", "-Urn", sys.executable, "-c", SCRIPT, version)
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=20)
    return Made(**json.loads(done.stdout))


@pytest.fixture(scope="module")
def made() -> Made:
    return make("6")


def test_the_rules_are_these_and_no_others(made: Made) -> None:
    lines = [line.strip() for line in made.rules.splitlines()]
    assert lines == [
        "table inet jail {",
        "chain out {",
        "type filter hook prerouting priority mangle; policy drop;",
        *RULES,
        "}",
        "}",
    ]


def test_there_is_lo_and_every_address_is_on_it(made: Made) -> None:
    (lo,) = [each for each in made.addresses if "UP" in each["flags"]]
    assert lo["ifname"] == "lo"
    told = {(each["local"], each["prefixlen"]) for each in lo["addr_info"]}
    assert told == {("127.0.0.1", 8), ("10.0.2.100", 32), ("::1", 128), ("fd00:6a::100", 128)}
    assert not [each for each in lo["addr_info"] if each.get("tentative")]


def test_there_is_one_route_and_it_leads_nowhere(made: Made) -> None:
    (route,) = made.routes
    kind = {name: route[name] for name in ("type", "dst", "dev", "prefsrc")}
    assert kind == {"type": "local", "dst": "default", "dev": "lo", "prefsrc": "10.0.2.100"}
    assert "gateway" not in route
    (route6,) = find_defaults(made)
    kind6 = {name: route6[name] for name in ("type", "dev", "prefsrc")}
    assert kind6 == {"type": "local", "dev": "lo", "prefsrc": "fd00:6a::100"}
    assert {each["dev"] for each in made.routes6} == {"lo"}


def find_defaults(made: Made) -> list[dict[str, Any]]:
    return [each for each in made.routes6 if each["dst"] == "default"]


def test_the_sockets_are_the_seven_in_order(made: Made) -> None:
    stream, datagram, raw, netlink_family = 1, 2, 3, 16
    ends = [[2, ["127.0.0.1", 1]], [10, ["::1", 1]]]
    assert made.sockets[:4] == [
        [family, kind, name] for kind in (stream, datagram) for family, name in ends
    ]
    assert [each[:2] for each in made.sockets[4:6]] == [[2, raw], [10, raw]]
    assert made.sockets[6][0] == netlink_family


def test_without_ipv6_the_rest_is_the_same() -> None:
    made = make("4")
    (lo,) = [each for each in made.addresses if "UP" in each["flags"]]
    assert "fd00:6a::100" not in {each["local"] for each in lo["addr_info"]}
    assert find_defaults(made) == []
    assert len(made.routes) == 1
    assert [each[:2] for each in made.sockets[:6]] == [
        [2, 1],
        [2, 1],
        [2, 2],
        [2, 2],
        [2, 3],
        [2, 3],
    ]


def test_all_jails_have_the_same() -> None:
    assert make_gate(True) == make_gate(True)
    assert make_gate(True).ruleset == make_gate(False).ruleset
