"""Limits that a cgroup holds: nothing gets past them, and the verdict is the right one.

Catalogue: RS-01, RS-03, RS-04, RS-05, RS-11, RS-14, RS-18.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jail
from jail import Jail, JailBroken, Result, Supervisor, Verdict
from tests.command import run_jail
from tests.sight import assert_works

MiB: Final = 1024 * 1024
OVERSHOOT_S: Final = 0.5
"""what this virtual machine's one slow processor may add to the 50 ms of a real one"""
SPIN: Final = "while :; do :; done"

HOG: Final = Path(__file__).parents[1] / "probes/hog.py"
HOGS: Final = (
    "anonymous",
    "many_processes",
    "child_of_another_session",
    "vforked_child",
    "executed_anew",
    "shared_mapping",
    "file_in_tmp",
    "mapped_file_in_shm",
    "deleted_file",
    "memfd",
    "memfds_in_flight",
    "system_v",
)
"""what a program can do to have memory"""
KERNEL_HOGS: Final = ("pipes", "sockets", "page_tables")
"""memory of the kernel's own that is the program's doing"""


async def run(supervisor: Supervisor, source: str, **options: Any) -> Result:
    options = {"wall_time": 50, "cpu_time": 50, **options}
    return await supervisor.run(["python3", "-c", source], **options)


async def run_hog(supervisor: Supervisor, name: str, size: int, memory: int) -> Result:
    return await supervisor.run(
        ["python3", "/hog.py", name, str(size)],
        volumes=[f"{HOG}:/hog.py:ro"],
        memory=memory,
        ulimits=["nofile=4096"],
        disk="1g",
        wall_time=50,
        cpu_time=50,
    )


@pytest.mark.parametrize("hog", HOGS)
async def test_no_kind_of_memory_gets_past_the_limit(supervisor: Supervisor, hog: str) -> None:
    """A neighbour goes on while the kernel ends it."""
    async with supervisor.open_jail() as neighbour:
        result = await run_hog(supervisor, hog, 96 * MiB, memory=48 * MiB)
        await assert_works(neighbour)
    assert (result.verdict, result.limit) == (Verdict.MLE, "memory"), (
        result.message,
        result.stderr,
    )
    assert result.enforced_by["memory"] == "cgroup"
    assert result.usage.oom_kills
    assert result.memory_peak_bytes == pytest.approx(48 * MiB, rel=0.03)


@pytest.mark.parametrize("hog", [*HOGS, *KERNEL_HOGS])
async def test_the_same_within_the_limit_is_well(supervisor: Supervisor, hog: str) -> None:
    """The control: it is the limit that ended it."""
    result = await run_hog(supervisor, hog, 16 * MiB, memory=256 * MiB)
    assert result.ok, (result.verdict, result.message, result.stderr)
    assert result.usage.oom_kills == 0
    assert result.memory_peak_bytes is not None
    assert result.memory_peak_bytes > 16 * MiB, "it is on its account"


@pytest.mark.parametrize("hog", KERNEL_HOGS)
async def test_memory_of_the_kernel_s_is_the_program_s(supervisor: Supervisor, hog: str) -> None:
    """It is killed, or refused with an error of its own; above the limit it never is."""
    async with supervisor.open_jail() as neighbour:
        result = await run_hog(supervisor, hog, 96 * MiB, memory=32 * MiB)
        await assert_works(neighbour)
    assert not result.ok
    assert result.verdict is not Verdict.IE, result.message
    assert result.memory_peak_bytes is not None
    assert 24 * MiB < result.memory_peak_bytes < 33 * MiB


async def test_a_program_that_stays_below_its_limit_by_a_little_is_well(
    supervisor: Supervisor,
) -> None:
    """The agent's own memory is not on the program's account."""
    empty = await run(supervisor, "pass", memory="64m")
    assert empty.memory_peak_bytes is not None
    size = 64 * MiB - empty.memory_peak_bytes - 2 * MiB
    result = await run(supervisor, f"b = bytearray({size})", memory="64m")
    assert result.ok, (result.verdict, result.message)
    more = await run(supervisor, f"b = bytearray({size + 4 * MiB})", memory="64m")
    assert more.verdict is Verdict.MLE


async def test_the_kernel_ends_the_whole_jail_and_not_a_part_of_it(
    supervisor: Supervisor,
) -> None:
    """A parent that waits for its killed child would go on with half a result."""
    source = "import os\nif os.fork(): os.wait(); print('went on', flush=True)\n"
    source += "else: held = bytearray(96 << 20)"
    result = await run(supervisor, source, memory="48m")
    assert (result.verdict, result.stdout) == (Verdict.MLE, b"")


async def test_a_living_jail_that_ran_out_of_memory_is_broken_and_says_so(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail(memory="48m") as j:
        assert (await j.run(["true"])).ok
        result = await j.run(["python3", "-c", f"b = bytearray({128 * MiB})"])
        assert result.verdict is Verdict.MLE
        with pytest.raises(JailBroken, match="memory limit"):
            await j.run(["true"])


FAMILIES: Final = {
    "itself": SPIN,
    "its children": f"for i in 1 2 3 4; do ({SPIN}) & done; wait",
    "orphans": f"for i in 1 2; do (setsid sh -c '{SPIN}' &) ; done; sleep 60",
    "children that live for a moment": "while :; do true & wait; done",
    "children that nobody waits for": "trap '' CHLD; while :; do /bin/true & /bin/true; done",
    "a program executed anew": f"exec sh -c '{SPIN}'",
    "children of a vfork": 'exec python3 -c "import os\nwhile True: '
    "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)\"",
}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_cpu_time_is_the_whole_tree_s(supervisor: Supervisor, family: str) -> None:
    async with supervisor.open_jail() as neighbour:
        result = await supervisor.run(["sh", "-c", FAMILIES[family]], cpu_time=0.6, wall_time=30)
        await assert_works(neighbour)
    assert (result.verdict, result.limit) == (Verdict.TLE, "cpu_time"), result.message
    assert result.enforced_by["cpu_time"] == "cgroup"
    assert 0.6 < result.cpu_time_s < 0.6 + OVERSHOOT_S


async def test_a_sleeper_uses_no_cpu_time(supervisor: Supervisor) -> None:
    result = await supervisor.run(["sleep", "1"], cpu_time=0.5)
    assert result.ok, result.message
    assert result.cpu_time_s < 0.3


BOMBS: Final = {
    "fork": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "vfork": "import os, sys\nargv = ['sleep', '60']\nwhile True:\n"
    " try: os.posix_spawnp('sleep', argv, {})\n except OSError: pass",
    "threads": "import threading, time\nwhile True:\n"
    " try: threading.Thread(target=time.sleep, args=[60]).start()\n except RuntimeError: pass",
    "sessions": "import os\nwhile True:\n try:\n"
    "  if os.fork() == 0: os.setsid()\n except OSError: pass",
}


@pytest.mark.parametrize("bomb", BOMBS, ids=str)
async def test_a_bomb_is_refused_and_counted(supervisor: Supervisor, bomb: str) -> None:
    async with supervisor.open_jail() as neighbour:
        result = await run(supervisor, BOMBS[bomb], pids_limit=32, cpu_time=2)
        await assert_works(neighbour)
    assert result.processes_peak == 32
    assert result.usage.refused_forks is not None
    assert result.usage.refused_forks > 0
    assert result.verdict in (Verdict.PLE, Verdict.TLE)


async def test_a_program_that_is_refused_a_process_and_fails_for_it(
    supervisor: Supervisor,
) -> None:
    result = await run(supervisor, "import os\nfor i in range(9): os.fork()", pids_limit=4)
    assert (result.verdict, result.limit) == (Verdict.PLE, "pids")
    assert result.enforced_by["pids"] == "cgroup"


async def test_processes_below_the_limit_are_counted_and_none_is_refused(
    supervisor: Supervisor,
) -> None:
    source = "import os, time\nfor i in range(63):\n if os.fork() == 0: time.sleep(2); os._exit(0)"
    source += "\nfor i in range(63): os.wait()"
    result = await run(supervisor, source, pids_limit=64)
    assert result.ok, (result.verdict, result.message, result.stderr)
    assert (result.processes_peak, result.usage.refused_forks) == (64, 0)


async def test_out_of_memory_and_out_of_time_together_is_out_of_memory(
    supervisor: Supervisor,
) -> None:
    """It asks for too much about when its time ends: what the kernel counted decides."""
    seen: dict[float, Verdict] = {}

    async def ask(delay_s: float) -> None:
        source = (
            "import time, os\nstart = float(open('/proc/self/stat').read().split()[21]) / 100\n"
            f"time.sleep(max(0, start + {delay_s} - time.clock_gettime(time.CLOCK_BOOTTIME)))\n"
            "held = bytearray(96 << 20)\nwhile True: pass"
        )
        result = await run(supervisor, source, memory="48m", wall_time=4)
        expected = Verdict.MLE if result.usage.oom_kills else Verdict.TLE
        assert result.verdict is expected, (result.message, result.usage)
        seen[delay_s] = result.verdict

    await ask(0.0)
    async with trio.open_nursery() as nursery:  # most of their time they sleep
        for delay_s in (3.8, 3.9, 3.95, 4.0, 5.0):
            nursery.start_soon(ask, delay_s)
    assert (seen[0.0], seen[5.0]) == (Verdict.MLE, Verdict.TLE)


async def test_a_program_killed_by_a_signal_of_its_own_is_not_out_of_memory(
    supervisor: Supervisor,
) -> None:
    result = await run(
        supervisor, "import os\nb = bytearray(16 << 20)\nos.kill(0, 9)", memory="64m"
    )
    assert (result.verdict, result.signal) == (Verdict.SG, 9)
    assert result.usage.oom_kills == 0


async def test_a_share_of_a_processor_is_no_more(supervisor: Supervisor) -> None:
    result = await supervisor.run(["sh", "-c", SPIN], cpus=0.25, wall_time=4, cpu_time=60)
    assert result.limit == "wall_time"
    assert result.enforced_by["cpus"] == "cgroup"
    assert 0.5 < result.cpu_time_s < 1.6


async def test_two_shares_divide_a_busy_processor(supervisor: Supervisor) -> None:
    results: dict[int, Result] = {}

    async def spin(j: Jail, shares: int) -> None:
        results[shares] = await j.run(["sh", "-c", SPIN], timeout=5)

    async with (
        supervisor.open_jail(cpu_shares=262_144) as much,
        supervisor.open_jail(cpu_shares=2) as little,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(spin, much, 262_144)
        nursery.start_soon(spin, little, 2)
    assert results[2].enforced_by["cpu_shares"] == "cgroup"
    assert results[262_144].cpu_time_s > 4 * results[2].cpu_time_s


def read_leaf(j: Jail, name: str) -> str:
    """A file of the jail's own cgroup, from the host."""
    line = Path(f"/proc/{j.init_pid}/cgroup").read_text().strip()
    return Path(f"/sys/fs/cgroup{line.removeprefix('0::')}/{name}").read_text().strip()


async def test_what_was_asked_is_what_the_kernel_was_told(supervisor: Supervisor) -> None:
    options: dict[str, Any] = {"memory": "64m", "pids_limit": 9, "cpus": 0.5, "cpu_shares": 2}
    async with supervisor.open_jail(**options) as j:
        limit = int(read_leaf(j, "memory.max"))
        assert 64 * MiB <= limit < 80 * MiB, "the agent's own memory above it, and no more"
        assert read_leaf(j, "memory.swap.max") == "0"
        assert read_leaf(j, "memory.oom.group") == "1"
        assert read_leaf(j, "pids.max") == "10"
        assert read_leaf(j, "cpu.max") == "50000 100000"
        assert read_leaf(j, "cpu.weight") == "1"


async def test_a_jail_sees_itself_as_the_root_and_no_tree(supervisor: Supervisor) -> None:
    script = "cat /proc/self/cgroup /proc/1/cgroup; ls /sys/fs/cgroup; mount"
    async with supervisor.open_jail() as j:
        result = await j.run(["sh", "-c", script])
    assert result.stdout.startswith(b"0::/\n0::/\n")
    assert b"cgroup" not in result.stdout.removeprefix(b"0::/\n0::/\n")


async def test_limits_of_one_jail_are_not_another_s(supervisor: Supervisor) -> None:
    async with supervisor.open_jail(memory="32m") as small, supervisor.open_jail() as large:
        assert read_leaf(small, "memory.max") != read_leaf(large, "memory.max")
        result = await large.run(["python3", "-c", f"b = bytearray({96 * MiB})"])
        assert result.ok, result.message


async def test_without_limits_a_leaf_counts_all_the_same(supervisor: Supervisor) -> None:
    result = await supervisor.run(["true"], limits=jail.UNLIMITED)
    assert result.ok
    assert result.cgroup in ("own", "scope")
    assert result.enforced_by["memory"] == "none"
    assert result.usage.cpu_user_time_s is not None


async def test_a_limit_that_no_program_fits_into_says_so(supervisor: Supervisor) -> None:
    """Asked for at once, the program has the verdict; later there may be no jail left to ask."""
    result = await supervisor.run(["true"], memory="4k")
    assert (result.verdict, result.limit) == (Verdict.MLE, "memory"), result.message
    async with supervisor.open_jail(memory="4k") as j:
        try:
            async with j.start(["true"]) as process:
                said = (await process.wait()).message
        except JailBroken as error:
            said = str(error)
    assert "memory limit of 4.0 KiB reached" in said
    done = await trio.to_thread.run_sync(run_jail, "--memory", "4k", "--", "true")
    assert done.status in (125, 137)
    assert "memory limit of 4.0 KiB reached" in done.stderr
