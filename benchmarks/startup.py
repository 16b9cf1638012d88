"""What isolation costs: bare spawn, bwrap and jail, in one run, on one root filesystem.

    python -m benchmarks.startup [--rounds N] [--json FILE]

From request to reaped result, ``/bin/true`` of a static busybox, interleaved, medians. ``cold``
opens a jail with every namespace, filter and limit, runs the program, and waits until the jail
is gone; ``second`` is one more program in a living jail. ``command`` is the whole process
``jail run -- true``, interpreter start included. ``cpu`` compares CPU-bound work inside and out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

import jail
from benchmarks.table import print_table

BUSYBOX = "/usr/bin/busybox"
SPIN = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
ROUNDS_OF_COMMAND = 7
ROUNDS_OF_CPU = 7

Action = Callable[[], Awaitable[None]]


def make_rootfs(folder: Path) -> Path:
    """A root filesystem of busybox alone, readable by everybody."""
    folder.chmod(0o755)
    (folder / "bin").mkdir()
    for name in ("proc", "dev", "tmp", "work"):
        (folder / name).mkdir()
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in ("true", "sh"):
        (folder / "bin" / name).symlink_to("busybox")
    return folder


def spawn(argv: list[str]) -> None:
    """posix_spawn and wait, as bare as it gets from Python; output goes nowhere."""
    null = (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)
    pid = os.posix_spawn(argv[0], argv, {}, file_actions=[null])
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{argv}: wait status {status}")


def bwrap(root: Path) -> list[str]:
    """Every namespace, the same root, own /proc, /dev and /tmp: what the jail has."""
    program = shutil.which("bwrap") or sys.exit("bwrap is not installed")
    mounts = ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return [program, "--unshare-all", *mounts, "/bin/true"]


async def time_rounds(actions: dict[str, Action], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, taken in turn, so that a slow second hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(rounds + 3):
        for name, action in actions.items():
            began = time.perf_counter()
            await action()
            if index >= 3:  # the first three warm caches
                times[name].append((time.perf_counter() - began) * 1000)
    return times


async def measure_startup(root: Path, rounds: int) -> dict[str, list[float]]:
    """bare, bwrap, cold jails of both kinds of ids, and a second program."""
    options: dict[str, Any] = {"rootfs": root}
    bare, peer = [str(root / "bin/true")], bwrap(root)
    auto, single = (jail.make_spec(**options, userns=kind) for kind in ("auto", "single"))

    async with jail.open_supervisor() as supervisor, supervisor.open_jail(**options) as living:

        async def run_cold(spec: jail.JailSpec) -> None:
            check(await supervisor.run(["/bin/true"], spec))

        async def run_second() -> None:
            check(await living.run(["/bin/true"]))

        async def run_bare() -> None:
            spawn(bare)

        async def run_bwrap() -> None:
            spawn(peer)

        async def run_single() -> None:
            await run_cold(single)

        async def run_auto() -> None:
            await run_cold(auto)

        actions: dict[str, Action] = {
            "bare spawn": run_bare,
            "bwrap --unshare-all": run_bwrap,
            "jail, cold": run_auto,
            "jail, cold, one id": run_single,
            "jail, second program": run_second,
        }
        return await time_rounds(actions, rounds)


def measure_command(root: Path) -> list[float]:
    """The whole process ``jail run -- true``."""
    argv = [sys.executable, "-m", "jail", "run", "--rootfs", str(root), "--", "/bin/true"]
    times = []
    for _ in range(ROUNDS_OF_COMMAND):
        began = time.perf_counter()
        subprocess.run(argv, check=True)
        times.append((time.perf_counter() - began) * 1000)
    return times


async def measure_cpu(root: Path) -> list[float]:
    """Speed inside over speed outside of a CPU-bound loop, pair by pair."""
    ratios = []
    async with jail.open_jail(rootfs=root) as living:
        for _ in range(ROUNDS_OF_CPU):
            began = time.perf_counter()
            await trio.run_process([str(root / "bin/sh"), "-c", SPIN])
            outside = time.perf_counter() - began
            began = time.perf_counter()
            check(await living.run(["/bin/sh", "-c", SPIN]))
            ratios.append(outside / (time.perf_counter() - began))
    return ratios


def check(result: jail.Result) -> None:
    """A benchmark of failures measures nothing."""
    if not result.ok:
        raise SystemExit(f"{result.verdict}: {result.message} {result.stderr!r}")


def summarise(times: dict[str, list[float]], cpu: list[float]) -> dict[str, Any]:
    """Medians in milliseconds, ratios to the peers of the same run, and the aims beside them."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare, peer = medians["bare spawn"], medians["bwrap --unshare-all"]
    return {
        "median_ms": medians,
        "quartiles_ms": {name: statistics.quantiles(v, n=4) for name, v in times.items()},
        "ratios": {
            "cold / bwrap": {"ratio": medians["jail, cold"] / peer, "aim": 0.8},
            "cold, one id / bwrap": {"ratio": medians["jail, cold, one id"] / peer, "aim": 0.8},
            "second / bare": {"ratio": medians["jail, second program"] / bare, "aim": 1.5},
            "cpu inside / outside": {"ratio": statistics.median(cpu), "aim": 0.99},
        },
    }


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60, help="of each, after three to warm up")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jail-startup-") as folder:
        root = make_rootfs(Path(folder))
        times = trio.run(measure_startup, root, args.rounds)
        cpu = trio.run(measure_cpu, root)
        times["jail run -- true (whole command)"] = measure_command(root)
    summary = summarise(times, cpu)
    rows = [
        [name, *(f"{value:.2f}" for value in statistics.quantiles(values, n=4))]
        for name, values in times.items()
    ]
    print_table(["ms", "lower quartile", "median", "upper quartile"], rows)
    print()
    rows = [[n, f"{r['ratio']:.2f}", f"{r['aim']:g}"] for n, r in summary["ratios"].items()]
    print_table(["ratio of medians", "measured", "aim"], rows)
    if args.json:
        Path(args.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
