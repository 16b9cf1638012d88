"""What a result reports of known programs, and what they used in truth.

    python -m benchmarks.accounting [--rounds N] [--json FILE]

The truth is told by the programs themselves at their very end: the processor time of each
process (CLOCK_PROCESS_CPUTIME_ID), its resident anonymous and shared pages (/proc/self/status),
bytes written, processes started. It wants a delegated cgroup v2; without one the same table
shows how near the watch comes. Ratios are medians; ``worst`` is the one farthest from 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import trio

import jail
from benchmarks.table import print_table

MiB = 1024 * 1024

HEAD = """
import mmap, os, sys, time
def tell(value):
    os.write(1, b"%d\\n" % value)
def spin(seconds):
    while time.process_time() < seconds: pass
    tell(time.process_time_ns() // 1000)
def read_resident():
    lines = open("/proc/self/status").read().splitlines()
    return sum(int(l.split()[1]) << 10 for l in lines if l.startswith(("RssAnon", "RssShmem")))
"""
SPIN = "spin(1)\nos._exit(0)"
SPIN_4 = """
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        spin(1)
        os._exit(0)
    children.append(pid)
spin(1)
for pid in children: os.waitpid(pid, 0)
os._exit(0)
"""
TOUCH = """
area = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for offset in range(0, 100 << 20, 4096): area[offset] = 1
tell(read_resident())
os._exit(0)
"""
PROCESSES = """
for _ in range(63):
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
tell(64)
for _ in range(63): os.wait()
os._exit(0)
"""
WRITE_TMPFS = """
with open("/tmp/f", "wb", buffering=0) as file:
    for _ in range(50): file.write(bytes(1 << 20))
tell((50 << 20) + read_resident())
os._exit(0)
"""
WRITE_DISK = """
name = f"/disk/{time.time_ns()}"  # whoever wrote a file first pays for its pages: writeback
with open(name, "wb", buffering=0) as file:
    for _ in range(50): file.write(bytes(1 << 20))
    os.fsync(file.fileno())
os.unlink(name)
tell(50 << 20)
os._exit(0)
"""


class Case(NamedTuple):
    """A known program, the figure that it is known by, and how near that must come."""

    name: str
    source: str
    limit: str
    read: Callable[[jail.Result], float | None]
    aim: float


def read_cpu_us(result: jail.Result) -> float:
    return result.cpu_time_s * 1e6


CASES = (
    Case("spin 1 s in 1 process: cpu time", SPIN, "cpu_time", read_cpu_us, 0.02),
    Case("spin 1 s in each of 4: cpu time", SPIN_4, "cpu_time", read_cpu_us, 0.02),
    Case("touch 100 MiB: peak", TOUCH, "memory", lambda r: r.memory_peak_bytes, 0.03),
    Case("write 50 MiB to /tmp: peak", WRITE_TMPFS, "memory", lambda r: r.memory_peak_bytes, 0.03),
    Case("64 processes: peak", PROCESSES, "pids", lambda r: r.processes_peak, 0.0),
    Case("write 50 MiB to a disk: io", WRITE_DISK, "io", lambda r: r.usage.io_write_bytes, 0.03),
)


async def measure(case: Case, supervisor: jail.Supervisor, disk: Path) -> tuple[float, float, str]:
    """(true, reported, by what)."""
    result = await supervisor.run(
        ["python3", "-c", HEAD + case.source],
        volumes=[f"{disk}:/disk"],
        memory="1g",
        wall_time=60,
    )
    if not result.ok:
        raise SystemExit(f"{case.name}: {result.verdict} {result.message} {result.stderr!r}")
    true = sum(map(int, result.stdout.split()))
    by = result.enforced_by.get(case.limit, "cgroup")
    return true, float(case.read(result) or 0), by


async def measure_all(rounds: int, disk: Path) -> dict[str, Any]:
    """Per case: the figures of every round, in turn, so that a slow minute hits all alike."""
    figures: dict[str, Any] = {case.name: {"ratios": [], "aim": case.aim} for case in CASES}
    async with jail.open_supervisor() as supervisor:
        await supervisor.run(["python3", "-c", HEAD])  # what it reads from disk is read once
        for _ in range(rounds):
            for case in CASES:
                true, reported, by = await measure(case, supervisor, disk)
                found = figures[case.name]
                found |= {"true": true, "reported": reported, "by": by}
                found["ratios"].append(reported / true)
    return figures


def make_row(name: str, found: dict[str, Any]) -> list[str]:
    ratios = found["ratios"]
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    return [
        name,
        f"{found['true']:.0f}",
        f"{found['reported']:.0f}",
        f"{statistics.median(ratios):.3f}",
        f"{worst:.3f}",
        f"±{found['aim']:.0%}",
        found["by"],
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each program")
    parser.add_argument("--disk", metavar="DIR", help="on a disk whose controller is delegated")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jail-accounting-", dir=args.disk) as folder:
        figures = trio.run(measure_all, args.rounds, Path(folder))
    print(f"on {platform.platform()}, {os.cpu_count()} processors")
    rows = [make_row(name, found) for name, found in figures.items()]
    print_table(["", "true", "reported", "median ratio", "worst", "aim", "by"], rows)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
