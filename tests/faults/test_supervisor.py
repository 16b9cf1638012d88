"""Whatever befalls a supervisor at whichever of its calls: nobody is left, and it says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import trio

from tests.faults.doomed import GONE_S, Day
from tests.part import require

ROOT: Final = Path(__file__).resolve().parents[2]
FEWEST: Final = 40
"""days that there are at least: with fewer, nothing was tried"""


async def live_days(kind: str, folder: Path) -> list[Day]:
    """Both ways to map ids, side by side. Who was left is said here; all else the oracle sees."""
    require("strace", "subuid")
    days: list[Day] = []

    async def live(userns: str) -> None:
        (folder / userns).mkdir()
        argv = [sys.executable, "-m", "tests.faults.doomed", kind, userns, str(folder / userns)]
        done = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, cwd=ROOT, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        days.extend(Day(*each) for each in json.loads(done.stdout))

    async with trio.open_nursery() as nursery:
        for userns in ("single", "auto"):
            nursery.start_soon(live, userns)
    left = [f"{day.fault}: {day.left} after {GONE_S} s" for day in days if day.left]
    assert not left, "\n".join(left)
    return days


async def test_a_supervisor_killed_at_any_call_leaves_nobody_and_no_word(tmp_path: Path) -> None:
    days = await live_days("deaths", tmp_path)
    assert sum(day.killed for day in days) > FEWEST


async def test_a_failed_call_of_a_supervisor_is_an_error_that_says_so(tmp_path: Path) -> None:
    """Or is survived; it is never a hang, nor a naked OSError, but where trio itself has failed."""
    days = await live_days("errors", tmp_path)
    naked = [day for day in days if day.said and not day.said.startswith(("JailError: ", "trio: "))]
    assert not naked, "\n".join(f"{day.fault}: {day.said}" for day in naked)
    assert not any(day.said == "JailError: " for day in days)
    assert sum(day.said.startswith("JailError") for day in days) > FEWEST
