"""What the result says was used, and what was: the kernel's own books, read from outside.

Catalogue: AG-08, RS-11.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
import trio

import jail
from jail import Jail, Supervisor, Verdict
from tests.cgroup.test_limits import SPIN
from tests.sight import wait_until

MiB: Final = 1024 * 1024
BLOCK: Final = Path("/mnt/block")
"""a disk of its own, which the virtual machine has for this"""


def spin_for(seconds: float) -> list[str]:
    """A shell that ends itself after so much of its own time, told by the kernel (times(1))."""
    source = f"import time\nwhile time.process_time() < {seconds}: pass"
    return ["python3", "-c", source]


async def test_cpu_time_is_what_the_programs_used_and_nothing_of_ours(
    supervisor: Supervisor,
) -> None:
    idle = await supervisor.run(["python3", "-c", "pass"])
    result = await supervisor.run(spin_for(1 + idle.cpu_time_s))
    assert result.ok
    assert result.cpu_time_s == pytest.approx(1 + idle.cpu_time_s, abs=0.1)
    usage = result.usage
    assert usage.cpu_user_time_s is not None
    assert usage.cpu_system_time_s is not None
    assert usage.cpu_user_time_s + usage.cpu_system_time_s == pytest.approx(
        result.cpu_time_s, abs=0.03
    )
    assert idle.cpu_time_s < 0.5


async def test_a_file_in_memory_is_memory_and_lasts_as_long_as_it_does(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail(memory="256m") as j:
        before = await j.usage()
        await j.run(["dd", "if=/dev/zero", "of=/tmp/f", "bs=1M", "count=32"])
        held = await j.usage()
        await j.run(["rm", "/tmp/f"])
        after = await j.usage()
    assert held.memory_bytes - before.memory_bytes == pytest.approx(32 * MiB, rel=0.05)
    assert after.memory_bytes < before.memory_bytes + 4 * MiB
    assert after.memory_peak_bytes >= held.memory_bytes - MiB


async def test_each_run_of_a_living_jail_has_its_own_figures(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        first = await j.run(spin_for(1))
        second = await j.run(["true"])
        third = await j.run(["python3", "-c", f"held = bytearray({64 * MiB})"])
        fourth = await j.run(["true"])
        whole = await j.usage()
    assert first.cpu_time_s >= 1
    assert second.cpu_time_s < 0.5
    assert third.memory_peak_bytes is not None
    assert third.memory_peak_bytes > 64 * MiB
    assert fourth.memory_peak_bytes is None or fourth.memory_peak_bytes < 32 * MiB
    assert whole.cpu_time_s >= sum(each.cpu_time_s for each in (first, second, third, fourth)) - 0.1
    assert whole.memory_peak_bytes > 64 * MiB


async def test_runs_in_company_are_told_apart_by_families_and_say_so(
    supervisor: Supervisor,
) -> None:
    results = {}

    async with supervisor.open_jail() as j, trio.open_nursery() as nursery:

        async def run(name: str, argv: list[str]) -> None:
            results[name] = await j.run(argv, timeout=4)

        nursery.start_soon(run, "busy", ["sh", "-c", SPIN])
        nursery.start_soon(run, "idle", ["sleep", "60"])
    assert results["busy"].enforced_by["cpu_time"] == "watch"
    assert results["busy"].enforced_by["memory"] == "cgroup"
    assert results["busy"].cpu_time_s > 4 * results["idle"].cpu_time_s


async def test_pages_that_several_share_are_counted_once(supervisor: Supervisor) -> None:
    """Also where something else than the memory has to be looked at."""
    source = (
        f"import os, time\nheld = bytearray({48 * MiB})\n"
        "for _ in range(5):\n    if not os.fork():\n        break\ntime.sleep(1)"
    )
    result = await supervisor.run(["python3", "-c", source], pids_limit="unlimited")
    assert result.ok, result.stderr
    assert result.memory_peak_bytes is not None
    assert 48 * MiB < result.memory_peak_bytes < 96 * MiB


async def test_a_later_run_that_was_too_short_for_a_look_had_memory_all_the_same(
    supervisor: Supervisor,
) -> None:
    """The kernel's peak is an earlier run's."""
    async with supervisor.open_jail() as j:
        await j.run(["python3", "-c", f"held = bytearray({64 * MiB})"])
        result = await j.run(["python3", "-c", f"held = bytearray({48 * MiB})"])
    assert result.memory_peak_bytes is not None
    assert 48 * MiB < result.memory_peak_bytes < 80 * MiB


async def test_company_doesn_t_make_what_was_used_before_it_forgotten(
    supervisor: Supervisor,
) -> None:
    """Children that nobody waits for leave their time to nobody: the kernel's books have it."""
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    if not os.fork():\n"
        "        while time.process_time() < 0.04: pass\n"
        "        os._exit(0)\n"
        "    time.sleep(0.08)\n"
        "print('done', flush=True)\ntime.sleep(60)"
    )
    async with supervisor.open_jail() as j, j.start(["python3", "-c", source]) as process:
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"done\n"
        await wait_until(lambda: process.usage.cpu_time_s > 0.5, "it is looked at")
        before_s = process.usage.cpu_time_s
        async with j.start(["sleep", "60"]):
            await wait_until(lambda: process.usage.cpu_user_time_s is None, "there is company")
            process.send_signal(9)
            result = await process.wait()
    assert result.enforced_by["cpu_time"] == "watch"
    assert result.cpu_time_s >= before_s


async def test_processes_are_counted_at_their_most(supervisor: Supervisor) -> None:
    script = "for i in 1 2 3 4 5 6 7; do sleep 0.5 & done; wait"
    result = await supervisor.run(["sh", "-c", script])
    assert (result.processes_peak, result.usage.refused_forks) == (8, 0)


async def test_what_goes_through_a_disk_is_counted(supervisor: Supervisor, tmp_path: Path) -> None:
    folder = BLOCK / f"test-{os.getpid()}"
    folder.mkdir()
    try:
        script = (
            "dd if=/dev/zero of=/d/f bs=1M count=8 oflag=direct && dd if=/d/f bs=1M iflag=direct"
        )
        result = await supervisor.run(
            ["sh", "-c", f"{script} of=/dev/null"], volumes=[f"{folder}:/d"], disk="64m"
        )
    finally:
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
    assert result.ok, result.stderr
    assert result.usage.io_write_bytes == pytest.approx(8 * MiB, rel=0.05)
    assert result.usage.io_read_bytes == pytest.approx(8 * MiB, rel=0.05)


async def test_a_disk_s_rate_is_held(supervisor: Supervisor) -> None:
    folder = BLOCK / f"test-{os.getpid()}"
    folder.mkdir()
    try:
        result = await supervisor.run(
            ["dd", "if=/dev/zero", "of=/d/f", "bs=1M", "count=6", "oflag=direct"],
            volumes=[f"{folder}:/d"],
            device_write_bps=[f"{find_device(folder)}:2m"],
        )
    finally:
        (folder / "f").unlink(missing_ok=True)
        folder.rmdir()
    assert result.ok, result.stderr
    assert result.enforced_by["device_write_bps"] == "cgroup"
    assert result.wall_time_s > 1.5


def find_device(path: Path) -> str:
    """The block device that a file system is on: proc_pid_mountinfo(5)."""
    number = path.stat().st_dev
    name = os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    return f"/dev/{os.path.basename(name)}"


async def test_waiting_is_told_where_the_kernel_tells_it(supervisor: Supervisor) -> None:
    result = await supervisor.run(["true"])
    told = {name for name in ("cpu", "memory", "io") if Path(f"/proc/pressure/{name}").exists()}
    assert set(result.usage.pressure) == told


async def test_a_lying_agent_adds_nothing_and_hides_nothing(supervisor: Supervisor) -> None:
    """A program can't reach the books: what it says of itself is beside them."""
    source = "import resource, os\nheld = bytearray(64 << 20)\ndel held\nos._exit(0)"
    result = await supervisor.run(["python3", "-c", source])
    assert result.memory_peak_bytes is not None
    assert result.memory_peak_bytes > 64 * MiB


async def test_the_command_writes_it_all(tmp_path: Path) -> None:
    from tests.command import run_jail

    meta = tmp_path / "meta"
    options = ("--memory", "48m", "--meta", str(meta), "--json", "-")
    program = ("--", "python3", "-c", f"held = bytearray({96 * MiB})")
    done = await trio.to_thread.run_sync(run_jail, *options, *program)
    assert done.status == 137
    told = done.json
    assert (told["verdict"], told["limit"], told["oom_kills"] > 0) == ("MLE", "memory", True)
    assert told["cpu_user_time_s"] > 0
    lines = dict(line.split(":", 1) for line in meta.read_text().splitlines())
    assert lines["cg-oom-killed"] == "1"
    assert int(lines["cg-mem"]) == pytest.approx(48 * 1024, rel=0.03)


# -- standing still -------------------------------------------------------------------------------


async def test_a_paused_jail_stands_still_and_its_time_with_it(supervisor: Supervisor) -> None:
    """Its limit is shorter than the pause."""
    async with (
        supervisor.open_jail() as j,
        j.start(["sh", "-c", "while :; do echo x; sleep 0.05; done"], timeout=3) as process,
    ):
        assert process.stdout is not None
        await process.stdout.receive_some(1)
        await j.pause()
        while True:  # what it wrote before
            with trio.move_on_after(0.5) as scope:
                await process.stdout.receive_some(4096)
            if scope.cancelled_caught:
                break
        with trio.move_on_after(4) as scope:
            await process.stdout.receive_some(1)
        assert scope.cancelled_caught, "it went on"
        assert process.returncode is None
        await j.resume()
        assert await process.stdout.receive_some(1)
        async for _ in process.stdout:
            pass
        result = await process.wait()
    assert (result.verdict, result.limit) == (Verdict.TLE, "wall_time")
    assert result.wall_time_s == pytest.approx(3, abs=0.5)


async def test_who_is_frozen_by_somebody_else_stands_still_too(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j, j.start(["sleep", "60"], timeout=2) as process:
        leaf = find_leaf(j)
        (leaf / "cgroup.freeze").write_text("1")
        with trio.move_on_after(4):
            await process.wait()
        assert process.returncode is None
        (leaf / "cgroup.freeze").write_text("0")
        assert (await process.wait()).limit == "wall_time"


async def test_a_paused_jail_ends_like_any_other(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        leaf = find_leaf(j)
        async with j.start(["sleep", "60"]) as process:
            await j.pause()
            process.kill()
            with trio.fail_after(10):
                await process.wait()
    await supervisor.wait_gone()
    assert not leaf.exists()


async def test_pausing_twice_and_resuming_what_goes_on_are_fine(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        await j.resume()
        await j.pause()
        await j.pause()
        await j.resume()
        assert (await j.run(["echo", "on"])).stdout == b"on\n"


async def test_a_jail_that_has_ended_can_t_be_paused(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        j.kill()
        await wait_until(lambda: j._session.broken is not None, "it has ended")
        with pytest.raises(jail.JailBroken):
            await j.pause()
        with pytest.raises(jail.JailBroken):
            await j.usage()


def find_leaf(j: Jail) -> Path:
    """The jail's own cgroup, from the host."""
    line = Path(f"/proc/{j.init_pid}/cgroup").read_text().strip()
    return Path(f"/sys/fs/cgroup{line.removeprefix('0::')}")
