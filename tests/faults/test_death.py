"""An init or a zygote is killed at one of its own system calls, at each in its turn.

Whoever asked for the jail is told that the sandbox failed, and nothing is left of it, which the
leak oracle sees. The zygote's other jails live on, unless it is the zygote that was killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from jail import JailError, Supervisor
from tests.faults.birth import (
    Kind,
    Nursery,
    describe_difference,
    is_honest,
    read_children,
    read_report,
    wait_for,
    wait_for_spare,
)
from tests.faults.lane import Lanes, at, for_each
from tests.faults.strace import Fault, count_reliable, open_strace
from tests.part import require

IN_WAITING: Final = ("recvmsg", "restart_syscall")
"""calls that are under way when the tracer comes: whether they begin anew is a matter of chance"""


BEFORE_THE_PLAN: Final = ("dup2", "dup3", "close_range", "socket", "ioctl", "keyctl", "prctl")
"""calls of an init that has no session yet, and that no zygote makes"""


def make_kills(kind: Kind, place: str) -> Iterator[Fault]:
    """At the first of each call, in the middle and at the last."""
    for call, count in kind.calls.items():
        if call in IN_WAITING or (place == "init" and call not in BEFORE_THE_PLAN):
            continue
        last = count_reliable(call, count)
        for when in sorted({1, (1 + last) // 2, last}):
            yield Fault(call, when, "signal=KILL")


async def kill_each(nursery: Nursery, kind: Kind) -> list[str]:
    """All that is wrong with how it is taken."""
    flaws = []
    for kill in make_kills(kind, nursery.place):
        outcome = await nursery.bear(kind, kill)
        if outcome.report is None:
            ran = kind.witness and nursery.place != "zygote"
            if ran or not is_honest(outcome.error):
                flaws.append(f"{kind.name}: {kill}: {outcome.error!r}")
        elif nursery.place != "zygote":
            flaws.append(f"{kind.name}: {kill}: born all the same")
        elif difference := describe_difference(kind.report, outcome.report):
            flaws.append(f"{kind.name}: {kill}: {difference}")
    return flaws


@pytest.mark.parametrize("lanes", ["init", "spare"], indirect=True)
async def test_an_init_killed_at_any_call_is_no_jail_and_hurts_no_other(lanes: Lanes) -> None:
    flaws: list[str] = []

    async def work(nursery: Nursery, kind: Kind) -> None:
        zygote = await nursery.get_zygote(kind)
        async with nursery.supervisor.open_jail(**kind.options) as sibling:
            flaws.extend(await kill_each(nursery, kind))
            assert await nursery.get_zygote(kind) == zygote
            assert (await sibling.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"

    await for_each(lanes, work)
    assert not flaws, "\n".join(flaws)


@at("zygote")
async def test_a_zygote_killed_at_any_call_leaves_no_jail_and_is_replaced(lanes: Lanes) -> None:
    flaws: list[str] = []

    async def work(nursery: Nursery, kind: Kind) -> None:
        flaws.extend(await kill_each(nursery, kind))
        async with nursery.supervisor.open_jail(**kind.options) as j:
            assert await read_report(j) == kind.report

    await for_each(lanes, work)
    assert not flaws, "\n".join(flaws)


async def test_a_spare_that_dies_at_birth_is_not_made_over_and_over(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """Each costs a fork: a host that is short of something would be short of a core as well."""
    require("strace")
    options: dict[str, Any] = {"userns": "single"}
    nursery = Nursery(supervisor, tmp_path, "spare")
    zygote = await nursery.get_zygote(Kind("plain", "single", options, None))
    spare = await wait_for_spare(zygote)
    fault = ["-e", "trace=clone3,openat", "-e", "inject=openat:error=EMFILE:when=1"]
    async with open_strace(tmp_path / "trace", zygote, fault) as trace:
        os.kill(spare, signal.SIGKILL)
        await wait_for(lambda: spare not in read_children(zygote))
        with pytest.raises(JailError):
            async with supervisor.open_jail(**options):
                pass
        for _ in range(10):
            async with supervisor.open_jail(userns="auto") as j:
                await j.run(["true"])
    assert trace.count_calls(zygote)["clone3"] <= 3
