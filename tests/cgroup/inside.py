"""Programs that run in a cgroup of their own, delegated to us: :func:`run_in_own`, and shells
that hand on a part of it: :func:`run_with_parent`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.command import JAIL, Done

ROOT: Final = Path("/sys/fs/cgroup")
PATIENCE_S: Final = 50
IN_SCOPE: Final = ("systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", "--")
WITH_PARENT: Final = """
cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir home parent
echo $$ >home/cgroup.procs  # no process may be where controllers are enabled
echo "+cpu +io +memory +pids" >cgroup.subtree_control
parent=$PWD/parent
run() { status=0; $JAIL "$@" || status=$?; echo "status $status" >&2; }
until_() { n=0; until eval "$1"; do n=$((n + 1)); [ $n -lt 200 ] || exit 77; sleep 0.05; done; }
leaves() { find "$parent" -name 'jail-*.*-*.*'; }
left() { find "$parent" -mindepth 1 -type d; cat "$parent/cgroup.subtree_control"; }
"""
"""``run`` is jail run with its exit status on stderr, ``until_`` waits for a condition,
``leaves`` are the jails' cgroups, ``left`` is empty where nothing of jail's is left"""
WITH_JAIL: Final = """
import json, os, signal, subprocess, sys
from pathlib import Path
import trio
import jail

own = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip()[3:])

def look():
    return {
        "procs": [int(pid) for pid in (own / "cgroup.procs").read_text().split()],
        "enabled": (own / "cgroup.subtree_control").read_text().split(),
        "below": sorted(each.name for each in own.iterdir() if each.is_dir()),
    }

def tell(**what):
    print(json.dumps({"pid": os.getpid(), "own": str(own), **what}), flush=True)
"""
"""``look`` is what a cgroup is like, ``tell`` writes a line"""


def run_in_own(source: str) -> Done:
    """Python, as the only process of its cgroup."""
    return _run([*IN_SCOPE, sys.executable, "-c", WITH_JAIL + source])


def run_with_parent(script: str) -> Done:
    """A shell, in the cgroup ``home`` of one that is ours, beside ``$parent``."""
    return _run([*IN_SCOPE, "sh", "-euc", WITH_PARENT + script])


def _run(argv: list[str]) -> Done:
    env = {**os.environ, "JAIL": " ".join([*JAIL, "run"])}
    done = subprocess.run(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


def find_ours() -> list[str]:
    """Every cgroup of jail's on the whole host, scopes too."""
    return [path for path, _, _ in os.walk(ROOT) if os.path.basename(path).startswith("jail-")]


def list_scopes() -> str:
    """The units of jail's that the user's service manager knows."""
    argv = ["systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "jail-*"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def wait_until_gone(seconds: float) -> None:
    """A scope goes when systemd has seen that it is empty. Polls with a deadline."""
    deadline = time.monotonic() + seconds
    while left := [*find_ours(), *list_scopes().splitlines()]:
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.02)
