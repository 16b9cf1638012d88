"""What a system-call policy costs: no filter and each of the shipped ones, in one run.

    python -m benchmarks.seccomp [--rounds N] [--json FILE]

Every program runs in a jail of its own, as ``jail run --seccomp NAME`` would run it (refusals are
reported), in turn, so that a slow second hits all alike; ratios are medians over the rounds of
(with the policy) / (``unconfined``). Times are the processor's, so that a busy machine does not
spoil them, but where it says “elapsed”. ``empty`` is a filter that allows everything: what the
kernel takes for having one at all. ``loop`` is getppid(2) and nothing else, ``find`` walks
/usr, ``compile`` is gcc's cc1 on a file of some size. ``made`` is a policy from text to BPF,
``first`` the same in a fresh interpreter, imports included, ``cached`` what a jail does instead
when the policy was compiled before. ``learn`` compares ``jail policy learn`` with ``jail run``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

import jail
from benchmarks.table import print_table
from jail.policy import cache
from jail.policy.filters import make_filters
from jail.policy.load import list_policies, load_policy

LOOP: Final = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    for (int n = 0; n < 2000000; n++) syscall(SYS_getppid);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    printf("%ld\n", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec);
    return 0;
}
"""
FUNCTION: Final = """
int f%d(int *a, int n) {
    int sum = %d;
    for (int i = 0; i < n; i++) {
        for (int j = i; j < n; j++) if (a[j] < a[i]) { int t = a[i]; a[i] = a[j]; a[j] = t; }
        sum += a[i] * (i ^ %d);
    }
    return sum;
}
"""
FUNCTIONS: Final = 150
NO_POLICY: Final = "unconfined"
EMPTY: Final = "empty"
AIMS: Final = {"loop": 1.6, "find": 1.05, "compile": 1.05}
AIM_MADE_MS: Final = 15.0
AIM_CACHED_MS: Final = 0.1
AIM_LEARN: Final = 10.0
ROUNDS_OF_LEARNING: Final = 3
FIRST: Final = """
import sys, time
began = time.process_time()
from jail.policy.filters import make_filters
from jail.policy.load import load_policy
make_filters(load_policy(sys.argv[1]), "denied")
print((time.process_time() - began) * 1000)
"""

Times = dict[str, dict[str, list[float]]]
"""of each workload, for each policy, round by round"""


def make_workloads(folder: Path) -> dict[str, list[str]]:
    """Their command lines inside, where ``folder`` is /bench."""
    folder.chmod(0o755)
    (folder / "loop.c").write_text(LOOP)
    text = "".join(FUNCTION % (n, n, n) for n in range(FUNCTIONS))
    (folder / "work.c").write_text(text)
    (folder / f"{EMPTY}.toml").write_text('default = "allow"\n')
    subprocess.run(["gcc", "-O2", "-o", folder / "loop", folder / "loop.c"], check=True)
    found = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, check=True)
    compiler = found.stdout.decode().strip()
    return {
        "loop": ["/bench/loop"],
        "find": ["find", "/usr", "-type", "d", "!", "-readable", "-prune", "-o", "-false"],
        "compile": [compiler, "-quiet", "-O1", "/bench/work.c", "-o", "/tmp/work.s"],
    }


async def time_workloads(folder: Path, workloads: dict[str, list[str]], rounds: int) -> Times:
    """Milliseconds; the first round warms caches and does not count."""
    policies = [NO_POLICY, EMPTY, *list_policies()]
    times: Times = {name: {policy: [] for policy in policies} for name in workloads}
    async with jail.open_supervisor() as supervisor:
        for index in range(rounds + 1):
            for name, argv in workloads.items():
                turn = index % len(policies)  # nobody is always the first, or behind the same one
                for policy in policies[turn:] + policies[:turn]:
                    result = await run_one(supervisor, folder, policy, argv)
                    if index:
                        times[name][policy].append(read_milliseconds(name, result))
    return times


async def run_one(
    supervisor: jail.Supervisor, folder: Path, policy: str, argv: list[str]
) -> jail.Result:
    volumes = [f"{folder}:/bench:ro"]
    name = f"{folder}/{EMPTY}.toml" if policy == EMPTY else policy
    async with supervisor.open_jail(seccomp=name, volumes=volumes, memory="1g") as living:
        result = await living.run(argv)
    if not result.ok:
        raise SystemExit(f"{policy}: {argv}: {result.verdict} {result.message} {result.stderr!r}")
    return result


def read_milliseconds(name: str, result: jail.Result) -> float:
    """The loop tells its own."""
    return int(result.stdout) / 1e6 if name == "loop" else result.cpu_time_s * 1000


def compare(times: dict[str, list[float]]) -> dict[str, float]:
    """For each policy the median of its ratios to no policy, pair by pair."""
    bare = times[NO_POLICY]
    return {
        policy: statistics.median(a / b for a, b in zip(values, bare, strict=True))
        for policy, values in times.items()
        if policy != NO_POLICY
    }


def measure_policies(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds in which each policy is made, and in which it is found in the cache."""
    with tempfile.TemporaryDirectory(prefix="jail-seccomp-") as folder:
        return {name: measure_policy(name, Path(folder), rounds) for name in list_policies()}


def measure_policy(name: str, cache_dir: Path, rounds: int) -> dict[str, float]:
    policy = load_policy(name)

    def read_cached() -> None:
        cache._read_filters.cache_clear()
        cache.read_filters(policy, cache_dir)

    read_cached()
    return {
        "made": time_calls(lambda: make_filters(policy, "denied"), rounds),
        "first": statistics.median(time_first(name) for _ in range(3)),
        "cached": time_calls(read_cached, rounds * 20),
    }


def time_calls(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        began = time.process_time()
        call()
        times.append((time.process_time() - began) * 1000)
    return statistics.median(times)


def time_first(name: str) -> float:
    argv = [sys.executable, "-c", FIRST, name]
    return float(subprocess.run(argv, capture_output=True, check=True).stdout)


def measure_learning(folder: Path, workloads: dict[str, list[str]]) -> dict[str, float]:
    """How many times slower each is while it is watched; whole commands, the jail's start too."""
    ratios = {}
    for name in ("find", "compile"):
        pairs = []
        for _ in range(ROUNDS_OF_LEARNING):
            plain = time_command(["run"], folder, workloads[name])
            watched = time_command(["policy", "learn", "-o", "/dev/null"], folder, workloads[name])
            pairs.append(watched / plain)
        ratios[name] = statistics.median(pairs)
    return ratios


def time_command(words: list[str], folder: Path, argv: list[str]) -> float:
    volume = ["--memory", "1g", "-v", f"{folder}:/bench:ro"]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jail", *words, *volume, "--", *argv],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def show(summary: dict[str, Any]) -> None:
    policies = list_policies()
    rows = [
        [f"{name} (aim {AIMS[name]:g})", f"{summary['median_ms'][name][NO_POLICY]:.0f}"]
        + [f"{ratios[policy]:.2f}" for policy in (EMPTY, *policies)]
        for name, ratios in summary["ratios"].items()
    ]
    print_table(["", "no filter, ms", *(f"× {each}" for each in (EMPTY, *policies))], rows)
    print()
    rows = [
        [f"{key}{aim}", *(f"{summary['policies'][policy][key]:.3f}" for policy in policies)]
        for key, aim in (
            ("made", f" (aim {AIM_MADE_MS:g})"),
            ("first", ""),
            ("cached", f" (aim {AIM_CACHED_MS:g})"),
        )
    ]
    print_table(["ms", *policies], rows)
    print()
    rows = [[name, f"{ratio:.1f}", f"{AIM_LEARN:g}"] for name, ratio in summary["learn"].items()]
    print_table(["learn / run, elapsed", "measured", "aim"], rows)


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="of each, after one to warm up")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jail-seccomp-") as name:
        folder = Path(name)
        workloads = make_workloads(folder)
        times = trio.run(time_workloads, folder, workloads, args.rounds)
        learn = measure_learning(folder, workloads)
    summary = {
        "median_ms": {
            name: {policy: statistics.median(each) for policy, each in values.items()}
            for name, values in times.items()
        },
        "ratios": {name: compare(values) for name, values in times.items()},
        "policies": measure_policies(args.rounds),
        "learn": learn,
    }
    show(summary)
    if args.json:
        Path(args.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
