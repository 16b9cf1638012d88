"""What goes wrong around a leaf: no program runs with less than was promised, and nothing stays.

Catalogue: SV-02, SV-05, SV-09, RS-18.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

import jail
from jail import HostError, Jail, JailBroken, Supervisor, Verdict
from jail.cgroup.setting import Setting
from tests.cgroup.test_account import find_leaf
from tests.faults.test_scarcity import no_more_files
from tests.sight import assert_works, find_zygotes, wait_until

MiB: Final = 1024 * 1024


def list_leaves(parent: Path) -> list[str]:
    """The jails' cgroups; the zygote's own ends in ``-host``. A spare init has one, too."""
    return [each.name for each in parent.glob("jail-*") if not each.name.endswith("-host")]


@asynccontextmanager
async def leaving_no_leaf(supervisor: Supervisor) -> AsyncGenerator[Path, None]:
    """Gives the leaves' parent; a zygote keeps one spare at most."""
    async with supervisor.open_jail() as j:
        parent = find_leaf(j).parent
    await supervisor.wait_gone()
    yield parent
    await supervisor.wait_gone()
    await wait_until(lambda: len(list_leaves(parent)) <= 1, "the leaves are gone")


@pytest.mark.parametrize(
    "setting",
    [
        Setting("memory.max", "much"),
        Setting("memory.max", "-1"),
        Setting("memory.nothing", "1"),
        Setting("cgroup.controllers", "1"),
        Setting("io.max", "4095:4095 rbps=1"),
    ],
    ids=str,
)
async def test_a_limit_that_can_t_be_set_means_that_nothing_runs(
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    setting: Setting,
) -> None:
    tmp_path.chmod(0o777)
    async with leaving_no_leaf(supervisor):
        monkeypatch.setattr("jail.plan.make_settings", lambda *_: (setting,))
        for _ in range(2):  # by an init made at once, and by the spare
            with pytest.raises(HostError, match=setting.file) as caught:
                await supervisor.run(["touch", "/out/ran"], volumes=[f"{tmp_path}:/out"])
            assert caught.value.step == f"cgroup {setting.file}"
        assert not list(tmp_path.iterdir())
        monkeypatch.undo()
        assert (await supervisor.run(["true"])).ok


async def test_a_file_that_may_be_missing_is_no_failure(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting("memory.nothing", "1", optional=True)
    monkeypatch.setattr("jail.plan.make_settings", lambda *_: (setting,))
    assert (await supervisor.run(["true"])).ok


async def test_a_jail_that_can_t_be_built_leaves_no_leaf(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "proc").symlink_to("/usr")
    async with leaving_no_leaf(supervisor):
        with pytest.raises(jail.SpecError, match="its /proc must be a directory"):
            await supervisor.run(["true"], rootfs=tmp_path)


async def test_twenty_jails_at_once_leave_no_leaf(supervisor: Supervisor) -> None:
    results = []

    async def run(number: int) -> None:
        results.append((number, await supervisor.run(["echo", str(number)])))

    async with leaving_no_leaf(supervisor), trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(run, number)
    assert {result.stdout for _, result in results} == {b"%d\n" % n for n in range(20)}
    assert all(result.stdout == b"%d\n" % number for number, result in results)


async def test_who_cancels_leaves_no_leaf(supervisor: Supervisor) -> None:
    async with leaving_no_leaf(supervisor):
        for delay_ms in (*range(0, 120, 8), 300):
            with trio.move_on_after(delay_ms / 1000):
                await supervisor.run(["sleep", "60"], env={"DELAY": str(delay_ms)})


async def test_a_killed_zygote_takes_its_jails_along_and_the_leaves_go(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j:
        parent = find_leaf(j).parent
        async with j.start(["sleep", "60"]) as process:
            for zygote in find_zygotes():
                os.kill(zygote, signal.SIGKILL)
            with trio.fail_after(10):
                result = await process.wait()
    assert result.verdict is Verdict.IE
    assert (await supervisor.run(["true"])).ok, "another one takes its place"
    await wait_until(lambda: not parent.exists() or len(list_leaves(parent)) <= 1, "they are gone")


async def test_memory_that_runs_out_above_the_jail_is_not_the_program_s_fault(
    supervisor: Supervisor,
) -> None:
    """The kernel kills in the jail because it is the largest, not because it has too much."""
    source = f"import time; time.sleep(1); held = bytearray({192 * MiB}); time.sleep(60)"
    async with (
        supervisor.open_jail(memory="400m") as j,
        j.start(["python3", "-c", source], timeout=30) as process,
    ):
        (find_leaf(j).parent / "memory.max").write_text(str(96 * MiB))
        result = await process.wait()
        (find_leaf_parent(j) / "memory.max").write_text("max")
    assert (result.verdict, result.fault) == (Verdict.IE, "host"), result.message
    assert "memory" in result.message
    assert result.usage.oom_kills


def find_leaf_parent(j: Jail) -> Path:
    assert j.plan.grant is not None
    return Path(j.plan.grant.path)


async def test_one_jail_s_end_by_memory_is_nobody_else_s(supervisor: Supervisor) -> None:
    """RS-18: the kernel chooses within the leaf."""
    async with supervisor.open_jail() as neighbour, supervisor.open_jail(memory="32m") as j:
        async with neighbour.start(["sleep", "60"]) as sleeper:
            result = await j.run(["python3", "-c", f"held = bytearray({96 * MiB})"])
            assert result.verdict is Verdict.MLE
            assert sleeper.returncode is None
        await assert_works(neighbour)
        with pytest.raises(JailBroken, match=r"out of memory: memory limit of 32\.0 MiB"):
            await j.run(["true"])


@pytest.mark.parametrize("terminal", [False, True])
async def test_a_jail_that_has_no_memory_to_start_a_program_ends_as_mle(
    supervisor: Supervisor, terminal: bool
) -> None:
    """The kernel ends the agent while it reads what is asked of it."""
    long = [f"{number}{'x' * 100_000}" for number in range(9)]
    async with (
        supervisor.open_jail(memory="256k") as j,
        j.start(["true", *long], terminal=terminal) as process,
    ):
        with trio.fail_after(10):
            assert process.stdout is not None
            assert await process.stdout.receive_some() == b""
            result = await process.wait()
    assert (result.verdict, result.exit_status) == (Verdict.MLE, 137), result.message


@pytest.mark.parametrize("delay_ms", [5, 10, 20, 40, 80])
async def test_a_supervisor_that_is_late_leaves_no_room_that_was_the_builder_s(
    supervisor: Supervisor, delay_ms: int
) -> None:
    """The program would have ended before its limit was narrowed."""
    source = (
        f"import mmap\nheld = mmap.mmap(-1, {40 * MiB})\n"
        f"for page in range(0, {40 * MiB}, 4096): held[page] = 1\nheld.close()"
    )
    await supervisor.run(["true"])
    async with trio.open_nursery() as nursery:

        async def dawdle() -> None:
            await trio.sleep(delay_ms / 1000)
            time.sleep(2)

        nursery.start_soon(dawdle)
        result = await supervisor.run(["python3", "-c", source], memory="8m", timeout=30)
    assert result.verdict is Verdict.MLE, result.memory_peak_bytes


@pytest.mark.parametrize("delay_ms", [0, 10])
async def test_a_limit_that_was_narrow_from_the_start_is_neither_wider_nor_narrower(
    supervisor: Supervisor, delay_ms: int
) -> None:
    """What the builder takes is known from the last jail of the same spec: nobody waits for it.

    The supervisor comes to look when all is over: when the jail was built, or before.
    """
    spec = jail.make_spec(memory="96m", wall_time="30s")
    source = "import mmap, sys\nsize = int(sys.argv[1])\nheld = mmap.mmap(-1, size)\n"
    source += "for page in range(0, size, 4096): held[page] = 1"
    empty = await supervisor.run(["python3", "-c", source, "4096"], spec)
    assert empty.memory_peak_bytes is not None
    room = 96 * MiB - empty.memory_peak_bytes
    for size, verdict in ((room - 3 * MiB, Verdict.OK), (room + 3 * MiB, Verdict.MLE)):
        async with trio.open_nursery() as nursery:

            async def dawdle() -> None:
                await trio.sleep(delay_ms / 1000)
                time.sleep(3)

            nursery.start_soon(dawdle)
            result = await supervisor.run(["python3", "-c", source, str(size)], spec)
        assert result.verdict is verdict, result.memory_peak_bytes


async def test_a_run_that_finds_no_books_has_never_been_in_the_jail(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        with no_more_files(), pytest.raises(HostError, match="open files"):
            await j.run(["true"])
        assert j.is_quiet
        assert (await j.run(["true"])).enforced_by["cpu_time"] == "cgroup"


async def test_who_cancels_a_pause_leaves_the_jail_running(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j, j.start(["sleep", "60"], timeout=60):
        with trio.CancelScope() as scope:
            scope.cancel()
            await j.pause()
        if not scope.cancelled_caught:  # it stood still at once
            await j.resume()
        with trio.fail_after(20):
            assert (await j.run(["true"])).ok


async def test_a_controller_that_is_taken_away_ends_the_run_as_ours(
    supervisor: Supervisor,
) -> None:
    """Nobody would hold the limit any more; the program has done nothing."""
    async with (
        supervisor.open_jail() as j,
        j.start(["sleep", "60"], timeout=30) as process,
    ):
        control = find_leaf_parent(j) / "cgroup.subtree_control"
        control.write_text("-memory")
        result = await process.wait()
        control.write_text("+memory")
    assert (result.verdict, result.fault) == (Verdict.IE, "sandbox")
    assert "memory controller" in result.message
