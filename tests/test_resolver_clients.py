"""Real programs ask our resolver: what they make of its answers, and that none waits for a no."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.part import require

CHECKOUT: Final = Path(__file__).resolve().parents[1]
LOOK_UP: Final = (
    "import socket, sys\n"
    "try: print(*sorted({each[4][0] for each in socket.getaddrinfo(sys.argv[1], 80)}))\n"
    "except socket.gaierror as error: sys.exit(error.strerror)"
)
NODE_LOOK_UP: Final = (
    "require('dns').lookup(process.argv[1], {all: true}, (error, found) => "
    "console.log(error ? error.code : found.map(each => each.address).sort().join(' ')))"
)
SOON_S: Final = 4.0
"""a resolver that waits for another answer waits five: resolv.conf(5)"""


def run(*argv: str) -> Any:
    require("unshare", "ip", "mount")
    inside = ["unshare", "-Urnm", sys.executable, "-m", "tests.resolved", *argv]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=30, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wall_time_s"] < SOON_S
    return found


def test_the_c_library_finds_what_is_allowed() -> None:
    found = run(sys.executable, "-c", LOOK_UP, "www.example.org")
    assert found["stdout"] == "198.51.100.7 2001:470::7\n"


def test_the_c_library_takes_a_no_at_once_and_for_good() -> None:
    """It would ask again after REFUSED or SERVFAIL, and then call the failure temporary."""
    found = run(sys.executable, "-c", LOOK_UP, "secret.evil.org")
    assert found["stderr"] == "Name or service not known\n"
    assert sorted(found["told"]) == [
        ["secret.evil.org", "A", False],
        ["secret.evil.org", "AAAA", False],
    ]
    assert found["asked"] == []


def test_the_c_library_finds_what_is_left_when_one_kind_of_address_leads_nowhere() -> None:
    found = run(sys.executable, "-c", LOOK_UP, "inside.example.org")
    assert found["stdout"] == "198.51.100.8\n"


def test_the_c_library_comes_back_over_tcp_for_more_than_a_datagram_holds() -> None:
    found = run(sys.executable, "-c", LOOK_UP, "many.example.org")
    assert len(found["stdout"].split()) == 60


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("www.example.org", "198.51.100.7 2001:470::7"),
        ("inside.example.org", "198.51.100.8"),
        ("secret.evil.org", "ENOTFOUND"),
    ],
)
def test_node_finds_what_is_allowed_and_takes_a_no(name: str, answer: str) -> None:
    require("node")
    assert run("node", "-e", NODE_LOOK_UP, name)["stdout"].strip() == answer


@pytest.mark.parametrize("option", ["+notcp", "+tcp"])
def test_dig_sees_the_answer_and_why_there_is_none(option: str) -> None:
    require("dig")
    found = run("dig", option, "www.example.org", "secret.evil.org", "ANY", "example.org")
    assert "198.51.100.7" in found["stdout"]
    assert "(Filtered): (no rule allows this name)" in found["stdout"]
    assert "status: NXDOMAIN" in found["stdout"]
    assert "Warning" not in found["stdout"] and "malformed" not in found["stdout"]
