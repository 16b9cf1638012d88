"""The watch over the neighbourhood bites: a neighbour who is hurt is heard."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.neighbour import Neighbour, count_family, read_parent


@pytest.fixture
def victim() -> Iterator[Neighbour]:
    victim = Neighbour()
    yield victim
    victim.close()


def find_family(pid: int) -> list[int]:
    children = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    below = [child for child in children if read_parent(child) == pid]
    return below + [each for child in below for each in find_family(child)]


def test_a_neighbour_left_in_peace_has_nothing_to_report(victim: Neighbour) -> None:
    for _ in range(3):
        victim.work()
        assert victim.rest() == []
    assert victim.is_alive


def test_a_killed_agent_of_the_neighbour_is_heard(victim: Neighbour) -> None:
    victim.work()
    assert victim.rest() == []
    agents = [
        pid
        for pid in find_family(victim.pid)
        if Path(f"/proc/{pid}/comm").read_text().strip() == "jail:agent"
    ]
    assert len(agents) == 2
    os.kill(agents[0], signal.SIGKILL)
    victim.work()
    assert any("a neighbour's program" in flaw for flaw in victim.rest())
    assert not victim.is_alive


def test_a_killed_supervisor_of_the_neighbour_is_heard(victim: Neighbour) -> None:
    victim.work()
    os.kill(victim.pid, signal.SIGKILL)
    (flaw,) = victim.rest()
    assert "gone" in flaw
    assert not victim.is_alive


def test_the_neighbour_at_rest_is_all_there(victim: Neighbour) -> None:
    assert count_family(victim.pid) in (4, 6)
