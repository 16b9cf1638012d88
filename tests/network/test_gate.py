"""A gate under load and in want: what one jail does to it, the others don't feel."""

from __future__ import annotations

import sys
from typing import Any, Final

import pytest

from jail.egress.book import MAX_ENTRIES
from tests.network import place
from tests.network.scene import BIG, PORT
from tests.network.world import World
from tests.part import require

MAX_GROWN_BYTES: Final = 64 << 20
QUICK_S: Final = 2.0
ALMOST_IDLE_S: Final = 0.5


@pytest.fixture(params=["auto", "single"])
def userns(request: pytest.FixtureRequest) -> str:
    if request.param == "auto":
        require("subuid")
    return str(request.param)


def play(world: World, name: str, userns: str = "auto") -> dict[str, Any]:
    done = world.run(sys.executable, "-m", "tests.network.scene", name, userns)
    assert done.status == 0, done.stderr
    told: dict[str, Any] = done.json
    assert told["left_files"] <= 0, told
    return told


def test_what_was_sent_arrives_and_is_counted_though_the_program_has_ended(
    world: World, userns: str
) -> None:
    told = play(world, "last_words", userns)
    (attempt,) = told["attempts"]
    assert (attempt["address"], attempt["port"]) == (place.HOST4, PORT)
    assert (attempt["allowed"], attempt["count"], attempt["sent_bytes"]) == (True, 1, BIG)
    assert told["ends"] == [[BIG, "end"]]


def test_a_connection_that_the_jail_s_end_breaks_off_is_reset(world: World, userns: str) -> None:
    for ends in play(world, "broken_off", userns)["ends"]:
        assert [how for _, how in ends] == ["reset"]


def test_each_run_has_its_own_log_and_waits_for_no_other(world: World) -> None:
    told = play(world, "two_runs")
    assert [each["sent_bytes"] for each in told["first"]["attempts"]] == [10]
    assert [each["sent_bytes"] for each in told["second"]["attempts"]] == [20]
    assert told["quick_s"] < 0.4


def test_a_log_that_is_full_says_so(world: World) -> None:
    told = play(world, "many_places")
    assert told["said"] == "ECONNREFUSED\n"
    assert told["partial"] and len(told["attempts"]) == MAX_ENTRIES


@pytest.mark.parametrize("kind", ["flood", "udp_flood"])
def test_a_flood_leaves_another_jail_quick(world: World, kind: str) -> None:
    told = play(world, kind)
    assert float(told["honest"]) < QUICK_S, told
    assert float(told["again"]) < QUICK_S, told
    assert told["grown_bytes"] < MAX_GROWN_BYTES
    assert told["attempts"] <= MAX_ENTRIES


def test_without_a_descriptor_nothing_spins_and_nothing_breaks(world: World) -> None:
    told = play(world, "no_descriptor")
    assert told["spun_s"] < ALMOST_IDLE_S
    assert told["said"].strip() == "b'hello'"


def test_our_own_port_is_nobody_s_way_and_foreign_addresses_are_one_s_own(
    world: World, userns: str
) -> None:
    told = play(world, "inward", userns)
    for said in told["tcp"]:
        assert said in ("ECONNREFUSED", "ECONNRESET", "end")
    assert told["udp"] == ["ECONNREFUSED", "ECONNREFUSED"]
    assert told["bound"] == "EACCES"
    assert told["to itself"] == ["ECONNREFUSED", "ECONNREFUSED"]
    assert told["from a foreign one"] == told["from loopback"] == "x"
    assert (told["by tcp"], told["own"]) == ("hi", "x")
