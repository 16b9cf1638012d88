"""SV-03: cancelled at any step, nothing is left, and what lives on works."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import Supervisor
from tests.sight import (
    assert_works,
    count_fds,
    find_jails,
    find_marked,
    find_zygotes,
    wait_until,
)


class CancelAtStep(trio.abc.Instrument):
    """Cancels ``scope`` when the ``step``-th step of any task begins."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self._left, self._scope = step, scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def cancel_at_every_step(
    work: Callable[[], Awaitable[Any]], check: Callable[[], Awaitable[Any]], most: int
) -> int:
    """Run ``work`` again and again, cancelled one step later each time, until it gets through."""
    for step in range(1, most):
        scope = trio.CancelScope()
        instrument = CancelAtStep(step, scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            with trio.fail_after(15), scope:
                await work()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        await check()
        if not scope.cancelled_caught:
            return step
    raise AssertionError(f"still not through after {most} steps")


async def test_cancelling_at_any_step_of_a_whole_jail_leaves_nothing(
    supervisor: Supervisor, marker: str
) -> None:
    async def work() -> None:
        async with supervisor.open_jail() as j:
            await j.put("a", b"x")
            await j.run(["sh", "-c", f"sleep 0.02; : {marker}"])
            await j.get("a")

    async def check() -> None:
        await wait_until(lambda: not find_marked(marker), "its program")
        await wait_until(lambda: count_fds() == fds, "its descriptors")
        await wait_until(lambda: not find_jails(), "its init")

    await work()
    await supervisor.wait_gone()
    fds = count_fds()
    assert await cancel_at_every_step(work, check, 300) > 10


async def test_cancelling_at_any_step_of_a_run_leaves_the_jail_alive(
    supervisor: Supervisor, marker: str
) -> None:
    async with supervisor.open_jail() as j:

        async def work() -> None:
            await j.run(["sh", "-c", f"sleep 0.01; : {marker}"], input=b"x" * 100_000)

        async def check() -> None:
            assert find_marked(marker) == [], "gone before the cancelled call comes back"
            await assert_works(j)

        await work()
        assert await cancel_at_every_step(work, check, 200) > 3


async def test_cancelling_at_any_step_of_a_transfer_leaves_the_jail_alive(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    for name in ("a/1", "a/2", "b/1"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x" * 1000)
    (tmp_path / "out").mkdir()
    async with supervisor.open_jail() as j:

        async def work() -> None:
            await j.put("file", b"y" * 400_000)
            await j.get("file")
            await j.put_tree(tmp_path / "tree", "tree")
            await j.get_tree("tree", tmp_path / "out" / uuid.uuid4().hex)

        async def check() -> None:
            await assert_works(j)
            assert count_fds() <= fds

        await work()
        await assert_works(j)
        fds = count_fds()
        assert await cancel_at_every_step(work, check, 300) > 10


async def test_cancelling_a_supervisor_s_start_leaves_nothing() -> None:
    async def work() -> None:
        async with jail.open_jail() as j:
            await j.run(["true"])

    async def check() -> None:
        assert find_zygotes() == []
        assert count_fds() <= fds

    await work()
    fds = count_fds()
    assert await cancel_at_every_step(work, check, 300) > 10


async def test_cancelling_at_any_step_of_a_single_run_leaves_nothing(
    supervisor: Supervisor, marker: str
) -> None:
    """Asked for while the jail is built: at any step of that, too."""

    async def work() -> None:
        await supervisor.run(["sh", "-c", f"sleep 0.02; : {marker}"], input=b"x" * 100_000)

    async def check() -> None:
        await wait_until(lambda: not find_marked(marker), "its program")
        await supervisor.wait_gone()
        await wait_until(lambda: count_fds() == fds, "its descriptors")
        await wait_until(lambda: not find_jails(), "its init")

    await work()
    await supervisor.wait_gone()
    fds = count_fds()
    assert await cancel_at_every_step(work, check, 300) > 5


async def test_a_deadline_around_a_jail_ends_it_in_time(
    supervisor: Supervisor, marker: str
) -> None:
    began = trio.current_time()
    with trio.move_on_after(0.3) as scope:
        async with supervisor.open_jail() as j:
            await j.run(["sh", "-c", f"trap '' TERM; while :; do :; done; : {marker}"])
    assert scope.cancelled_caught
    assert trio.current_time() - began < 1.5
    assert find_marked(marker) == []


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt()])
async def test_the_caller_s_exception_comes_out_as_it_is(
    supervisor: Supervisor, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with supervisor.open_jail() as j, j.start(["sleep", "60"]):
            raise error
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        async with jail.open_jail():
            raise error
    assert caught.value is error


async def test_a_program_that_isn_t_there_is_one_bare_error(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        with pytest.raises(jail.ProgramError) as caught:
            await j.run(["no-such-program"])
        assert caught.value.exit_status == 127
        with pytest.raises(jail.ProgramError) as caught:
            async with j.start(["/etc/passwd"]):
                raise AssertionError("it started")
        assert caught.value.exit_status == 126
        await assert_works(j)
