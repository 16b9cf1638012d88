"""What a network costs: bare, by pasta and by slirp4netns alone, and by each of our modes.

    python -m benchmarks.network [--rounds N] [--jails N] [--json FILE]

In one run, in the tests' own internet: the server is at the other end of a veth pair, behind
another network namespace. All networks are there at once and are used in turn, so that a slow
second hits all alike; medians. ``up`` and ``down`` are one iperf3 stream, ``connect`` is
connect(2) alone, ``connections`` are connect, a line each way, close, one after the other.
``a jail with`` is from request to a program's result; what a helper adds to ``none`` is compared
with what it takes by itself until it is ready. ``all at once`` opens so many jails, lets each
fetch a line while all are alive, and closes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.table import print_table
from tests.network.place import SITE
from tests.network.world import World, open_world

ALONE: Final = {"pasta": "pasta alone", "slirp4netns": "slirp4netns alone"}
UNITS: Final = {"up": "Gbit/s", "down": "Gbit/s", "connect": "µs", "connections": "1/s"}
PATIENCE_S: Final = 1800.0
Samples = dict[str, dict[str, list[float]]]
"""of each measure, for each network, round by round"""


def run_inside(world: World, options: list[str]) -> dict[str, Any]:
    """On the host that runs jails; the servers of iperf3 are on both sides."""
    serve = ["iperf3", "--server", "--bind"]
    servers = [
        subprocess.Popen(world.enter([*serve, SITE], "hosts"), stdout=subprocess.DEVNULL),
        subprocess.Popen(world.enter([*serve, "127.0.0.1"]), stdout=subprocess.DEVNULL),
    ]
    try:
        wait_until_served(world)
        argv = [sys.executable, "-m", "benchmarks.network_inside", *options]
        done = subprocess.run(
            world.enter(argv), stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True
        )
    finally:
        for each in servers:
            each.kill()
            each.wait()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_until_served(world: World) -> None:
    deadline, listening = time.monotonic() + 10, ["ss", "-Hltn", "sport = 5201"]
    for place in ("hosts", "uplink"):
        while not subprocess.run(world.enter(listening, place), capture_output=True).stdout:
            if time.monotonic() > deadline:
                raise SystemExit("iperf3 does not listen")


def take_medians(samples: Samples) -> dict[str, dict[str, float]]:
    return {
        measure: {name: statistics.median(values) for name, values in by_network.items()}
        for measure, by_network in samples.items()
    }


def compare(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The ratios that the aims are about. Above 1 is more of it, be that good or bad."""
    medians = found["medians"]
    ratios = {}
    for way in ("up", "down"):
        speed = medians[way]
        ratios[f"pasta / pasta alone, {way}"] = (speed["pasta"] / speed["pasta alone"], 0.95)
        ours = speed["filtered"] / speed["slirp4netns alone"]
        ratios[f"filtered / slirp4netns alone, {way}"] = (ours, 1.0)
    connect = medians["connect"]
    latency = connect["filtered"] / connect["slirp4netns alone"]
    ratios["filtered / slirp4netns alone, connect"] = (latency, 2.0)
    for name, alone in ALONE.items():
        added = medians["set-up"][name] - medians["set-up"]["none"]
        ratios[f"set-up added by {name} / {alone}"] = (added / medians["start"][alone], 1.1)
    return {name: {"ratio": ratio, "aim": aim} for name, (ratio, aim) in ratios.items()}


def show(found: dict[str, Any]) -> None:
    medians = found["medians"]
    networks = list(medians["up"])
    head = ["", *(f"{name}, {unit}" for name, unit in UNITS.items())]
    print_table(head, [[n, *(f"{medians[m][n]:.4g}" for m in UNITS)] for n in networks])
    print()
    rows = [[name, f"{ms:.2f}"] for name, ms in medians["set-up"].items()]
    rows += [[f"{name}: until ready", f"{ms:.2f}"] for name, ms in medians["start"].items()]
    print_table(["a jail with", "ms"], rows)
    print()
    rows = [[n, f"{r['ratio']:.2f}", f"{r['aim']:g}"] for n, r in found["ratios"].items()]
    print_table(["ratio of medians", "measured", "aim"], rows)
    print()
    rows = [[n, str(each["jails"]), f"{each['s']:.1f}"] for n, each in found["at once"].items()]
    print_table(["all at once", "jails", "s"], rows)


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each, after one to warm up")
    parser.add_argument("--jails", type=int, default=200, help="with a network at once")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="jail-network-") as folder,
        open_world("subuid", Path(folder)) as world,
    ):
        found = run_inside(world, [str(args.rounds), str(args.jails)])
    found["medians"] = take_medians(found.pop("samples"))
    found["ratios"] = compare(found)
    show(found)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
