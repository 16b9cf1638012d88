"""How much slower a program is while a policy is learned from it.

    python -m benchmarks.learning [--rounds N]

The least time of each program in a jail, and in one that is watched, interleaved; beside it the
time that is left when that of a jail for ``true`` is taken away. Aim: at most ten times.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.table import print_table
from jail.foreground import Request, run_foreground
from jail.learning import run_watched
from jail.policy.compile import read_target
from jail.policy.learn.note import Learned
from jail.policy.learn.watch import Watch
from jail.policy.load import load_policy
from jail.result import Result
from jail.spec import JailSpec, make_spec

PROGRAMS: Final = {
    "true": ["true"],
    "find /usr": ["find", "/usr"],
    "a compile": ["gcc", "-O2", "-o", "/tmp/a", "/source/a.c"],
    "python": ["python3", "-c", "import asyncio, email, http.client, json, ssl"],
    "getppid": ["python3", "-c", "import os\nfor _ in range(100_000): os.getppid()"],
}
SOURCE: Final = '#include <stdio.h>\n#include <stdlib.h>\nint main() { puts(getenv("HOME")); }\n'


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "a.c").write_text(SOURCE)
        spec = make_spec(volumes=[f"{folder}:/source:ro"], memory="2g", output_limit=None)
        times = {name: measure(spec, argv, rounds) for name, argv in PROGRAMS.items()}
    jail_s, _ = times["true"]
    rows = []
    for name, (plain_s, watched_s) in times.items():
        own = (watched_s - jail_s) / max(plain_s - jail_s, 1e-4)
        factors = f"{watched_s / plain_s:.1f}", "" if name == "true" else f"{own:.1f}"
        rows.append([name, f"{plain_s * 1000:.0f}", f"{watched_s * 1000:.0f}", *factors])
    print_table(["", "jail (ms)", "watched (ms)", "×", "× without the jail"], rows)


def measure(spec: JailSpec, argv: list[str], rounds: int) -> tuple[float, float]:
    """The least seconds of each, the jail's making among them."""
    request = Request(spec=spec, argv=tuple(argv), shows=False)
    plain, watched = [], []
    for _ in range(rounds):
        plain.append(clock(partial(run_foreground, request), argv))
        watched.append(clock(lambda: run_watched(request, make_watch()), argv))
    return min(plain), min(watched)


def make_watch() -> Watch:
    """As the command does."""
    target = read_target()
    strict, ceiling = (load_policy(name).read_rules(target) for name in ("strict", "default"))
    return Watch(Learned("default", target.machine), strict, ceiling, target)


def clock(run: Callable[[], Result], argv: list[str]) -> float:
    start = time.perf_counter()
    result = run()
    if result.exit_code not in (0, 1):  # find(1) may not look everywhere
        sys.exit(f"{argv}: {result.verdict} {result.message}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
