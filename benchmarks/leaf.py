"""What a cgroup of its own costs a jail, and how far a cpu-time limit is overshot.

    python -m benchmarks.leaf [--rounds N] [--json FILE]

Cold jails with and without a leaf, in turn, in one run: /bin/true of a static busybox, from
request to reaped result. It wants to be started in a cgroup v2 that is its caller's own and holds
nobody else. A host that keeps its controllers on cgroup v1 can measure it too, as far as making,
joining, reading and removing a leaf goes: ``hugetlb``, if that is on v2, stands in for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import trio

import jail
from benchmarks.startup import check, make_rootfs
from benchmarks.table import print_table
from jail.cgroup.grant import WANTED

STAND_IN = frozenset({"hugetlb"})
LIMIT_S = 0.5
SPIN = "while :; do :; done"
SPINS = {"1 process": SPIN, "4 processes": f"{SPIN} & {SPIN} & {SPIN} & {SPIN}"}


async def find_none(*_: Any) -> tuple[None, tuple[str, ...]]:
    """In place of the search for a subtree."""
    return None, ()


async def open_first(supervisor: jail.Supervisor, spec: jail.JailSpec) -> str:
    """Start its zygote; gives why its jails have no leaves, "" if they have."""
    async with supervisor.open_jail(spec) as first:
        check(await first.run(["/bin/true"]))
        return "; ".join(first.plan.passed_over) if first.plan.grant is None else ""


async def measure_start(
    supervisors: dict[str, jail.Supervisor], spec: jail.JailSpec, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each, in turn."""
    times: dict[str, list[float]] = {name: [] for name in supervisors}
    for index in range(rounds + 5):
        for name, supervisor in supervisors.items():
            began = time.perf_counter()
            check(await supervisor.run(["/bin/true"], spec))
            if index >= 5:  # the first warm caches
                times[name].append((time.perf_counter() - began) * 1000)
    return times


async def measure_overshoot(
    supervisor: jail.Supervisor, root: Path, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of processor time beyond the limit."""
    beyond: dict[str, list[float]] = {name: [] for name in SPINS}
    spec = jail.make_spec(rootfs=root, cpu_time=LIMIT_S)
    for _ in range(rounds):
        for name, script in SPINS.items():
            result = await supervisor.run(["/bin/sh", "-c", script], spec)
            if result.limit != "cpu_time":
                raise SystemExit(f"{name}: {result.verdict} {result.message}")
            beyond[name].append((result.cpu_time_s - LIMIT_S) * 1000)
    return beyond


async def measure(root: Path, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(start, overshoot)."""
    spec = jail.make_spec(rootfs=root)
    async with jail.open_supervisor() as having, jail.open_supervisor() as without:
        if reasons := await open_first(having, spec):
            raise SystemExit(f"no cgroup here to make a leaf in: {reasons}")
        with mock.patch("jail.launcher.open_subtree", find_none):
            await open_first(without, spec)
        supervisors = {"without a leaf": without, "with a leaf": having}
        times = await measure_start(supervisors, spec, rounds)
        return times, await measure_overshoot(having, root, max(5, rounds // 10))


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="of each, after five to warm up")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    with ExitStack() as stack:
        for module in ("arrange", "find", "subtree"):
            stack.enter_context(mock.patch(f"jail.cgroup.{module}.WANTED", WANTED | STAND_IN))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jail-leaf-"))
        times, beyond = trio.run(measure, make_rootfs(Path(folder)), args.rounds)
    print(f"on {platform.platform()}, {os.cpu_count()} processors")
    rows = [[n, *(f"{q:.2f}" for q in statistics.quantiles(v, n=4))] for n, v in times.items()]
    print_table(["ms", "lower quartile", "median", "upper quartile"], rows)
    medians = [statistics.median(values) for values in times.values()]
    print(f"a leaf costs {medians[1] - medians[0]:.2f} ms (aim: at most 0.5)\n")
    rows = [[n, f"{statistics.median(v):.1f}", f"{max(v):.1f}", "50"] for n, v in beyond.items()]
    print_table([f"ms beyond a cpu time of {LIMIT_S} s", "median", "most", "aim"], rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"start_ms": times, "beyond_ms": beyond}) + "\n")


if __name__ == "__main__":
    main()
