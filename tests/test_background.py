"""Several things at once, whose failure is one: no group of exceptions reaches a caller."""

from __future__ import annotations

import pytest
import trio

from jail.background import run_together


async def fail(error: BaseException) -> None:
    raise error


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("on the way out")


async def test_all_of_them_are_waited_for() -> None:
    done = []

    async def note(turns: int) -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        done.append(turns)

    await run_together(lambda: note(1), lambda: note(5), lambda: note(3))
    assert sorted(done) == [1, 3, 5]


@pytest.mark.parametrize("error", [OSError("alone"), KeyboardInterrupt()], ids=repr)
async def test_a_failure_ends_the_others_and_comes_out_bare(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await run_together(trio.sleep_forever, lambda: fail(error))
    assert caught.value is error


async def test_of_two_failures_the_first_comes_out() -> None:
    with pytest.raises(OSError, match="first"):
        await run_together(fail_when_cancelled, lambda: fail(OSError("first")))


async def test_who_is_cancelled_is_cancelled() -> None:
    with trio.move_on_after(0.01) as scope:
        await run_together(trio.sleep_forever, trio.sleep_forever)
    assert scope.cancelled_caught


async def test_nothing_at_once_is_done_at_once() -> None:
    await run_together()
