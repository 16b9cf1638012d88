"""The whole of it on a host that delegates: the demo ends as it must, and the doctor is content."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_as_it_must_where_the_kernel_holds_the_limits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    (bomb,) = [line for line in done.stdout.splitlines() if line.startswith("memory bomb")]
    assert "memory limit" in bomb


def test_the_doctor_says_that_all_tiers_are_reached() -> None:
    done = subprocess.run(
        ["jail", "doctor", "--json"], capture_output=True, timeout=60, check=False
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["tier"]) == (0, 2), report["causes"]
