"""The host is what the other tests here take it for. No jail is involved."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.part import require

ROOT = Path("/sys/fs/cgroup")
BLOCK = Path("/mnt/block")
MiB = 1024 * 1024
IN_SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--property", "Delegate=yes", "--")
SPLIT = """
cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
mkdir leaf jail
echo $$ >leaf/cgroup.procs  # no process may be where controllers are enabled
echo "$CONTROLLERS" >cgroup.subtree_control
join() { echo 0 >jail/cgroup.procs; }
"""


def run_in_scope(script: str, controllers: str = "+cpu +memory +pids", **env: str) -> str:
    """In a scope of its own, delegated to us; it may ``join`` the cgroup ``jail`` below it."""
    done = subprocess.run(
        [*IN_SCOPE, "sh", "-euc", SPLIT + script],
        env={**os.environ, **env, "CONTROLLERS": controllers},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parse_flat(text: str) -> dict[str, int]:
    """``name number`` lines, as most files of a cgroup have them."""
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.M)}


def test_there_is_cgroup_v2_and_no_other() -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    assert re.findall(r" - (cgroup2?) ", mounts) == ["cgroup2"]
    assert Path("/proc/self/cgroup").read_text().startswith("0::/")
    assert {"cpu", "io", "memory", "pids"} <= set((ROOT / "cgroup.controllers").read_text().split())


def test_a_user_manager_runs() -> None:
    done = subprocess.run(
        ["systemctl", "--user", "is-system-running"], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "running\n"


def test_our_own_cgroup_is_roots_as_after_any_login() -> None:
    own = ROOT / Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
    assert own.name.startswith("session-")
    assert not os.access(own / "cgroup.procs", os.W_OK)


def test_a_scope_gets_cpu_memory_and_pids() -> None:
    files = run_in_scope("ls jail").split()
    assert {"cpu.max", "cpu.stat", "memory.max", "memory.peak", "pids.max", "pids.peak"} <= set(
        files
    )
    assert {"cgroup.kill", "cgroup.freeze", "memory.oom.group", "memory.swap.max"} <= set(files)


def test_memory_max_kills_and_counts_it() -> None:
    events = run_in_scope(f"""
        echo {16 * MiB} >jail/memory.max
        ! (join; exec python3 -c 'b"x" * {64 * MiB}') || exit 9
        cat jail/memory.events
    """)
    assert parse_flat(events)["oom_kill"] == 1


def test_memory_peak_is_what_was_touched() -> None:
    peaks = run_in_scope(f"""
        (join; exec python3 -c pass)
        cat jail/memory.peak
        (join; exec python3 -c 'b"x" * {64 * MiB}')
        cat jail/memory.peak
    """)
    before, after = map(int, peaks.split())
    assert 62 * MiB < after - before < 66 * MiB


def test_pids_max_refuses_and_counts_it() -> None:
    events = run_in_scope("""
        echo 1 >jail/pids.max
        ! (join; ls | cat) 2>/dev/null || exit 9
        cat jail/pids.events
    """)
    assert parse_flat(events)["max"] >= 1


def test_cpu_stat_is_the_time_that_was_spent() -> None:
    spin = "import time\nwhile time.process_time() < 1: pass"
    stat = run_in_scope('(join; exec python3 -c "$SPIN"); cat jail/cpu.stat', SPIN=spin)
    assert parse_flat(stat)["usage_usec"] == pytest.approx(1_000_000, rel=0.1)


def test_cgroup_kill_ends_all_of_it() -> None:
    told = run_in_scope("""
        (join; trap '' TERM; exec sleep 60) &
        until grep -q . jail/cgroup.procs; do :; done
        echo 1 >jail/cgroup.kill
        wait $! || echo $?
    """)
    assert told == "137\n"


def test_io_stat_counts_what_a_disk_is_written() -> None:
    require("block")
    stat = run_in_scope(
        f"""
        (join; exec dd if=/dev/zero of={BLOCK}/file bs=1M count=3 conv=fsync status=none)
        rm {BLOCK}/file
        cat jail/io.stat
        """,
        controllers="+io",
    )
    written = re.search(r"wbytes=(\d+)", stat)
    assert written is not None, stat
    assert 3 * MiB <= int(written[1]) < 4 * MiB
