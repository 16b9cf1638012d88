"""Whatever a supervisor was about to do when it was killed: nothing of it is left."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import trio

from tests.faults.doomed import GONE_S
from tests.part import require

ROOT: Final = Path(__file__).resolve().parents[2]
FEWEST: Final = 60


async def test_a_supervisor_killed_at_any_call_leaves_nobody_and_no_word(tmp_path: Path) -> None:
    """Processes are seen here, all else by the leak oracle."""
    require("strace", "subuid")

    async def doom(userns: str) -> None:
        folder = tmp_path / userns
        folder.mkdir()
        argv = [sys.executable, "-m", "tests.faults.doomed", userns, str(folder)]
        done = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, cwd=ROOT, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        deaths = json.loads(done.stdout)
        killed = sum(killed for _, killed, _ in deaths)
        left = [f"{fault}: {left} after {GONE_S} s" for fault, _, left in deaths if left]
        assert not left, "\n".join(left)
        assert killed >= FEWEST

    async with trio.open_nursery() as nursery:
        for userns in ("single", "auto"):
            nursery.start_soon(doom, userns)
