"""``Supervisor.run``: one program in a jail of its own, asked for while that is being built."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import Supervisor, Verdict
from jail.agent import wire
from jail.background import open_background
from jail.errors import HostError, ProtocolError
from jail.session import Session
from tests.sight import find_marked, wait_until


async def test_it_gives_what_a_run_in_an_open_jail_gives(
    supervisor: Supervisor, userns: str
) -> None:
    script = "cat; echo err >&2; exit 3"
    single = await supervisor.run(["sh", "-c", script], userns=userns, input=b"in")
    async with supervisor.open_jail(userns=userns) as j:
        open_ = await j.run(["sh", "-c", script], input=b"in")
    for name in ("verdict", "exit_code", "stdout", "stderr", "enforced_by", "truncated"):
        assert getattr(single, name) == getattr(open_, name)


@pytest.mark.parametrize(
    ("options", "source", "verdict"),
    [
        ({"memory": "64m"}, "bytearray(300 << 20)", Verdict.MLE),
        ({"cpu_time": "0.2s"}, "while True: pass", Verdict.TLE),
        ({"wall_time": "0.2s"}, "import time; time.sleep(60)", Verdict.TLE),
        ({"output_limit": "1m"}, "while True: print('x' * 1000)", Verdict.OLE),
        ({}, "import os; os.kill(os.getpid(), 9)", Verdict.SG),
    ],
)
async def test_its_limits_hold(
    supervisor: Supervisor, options: dict[str, Any], source: str, verdict: Verdict
) -> None:
    result = await supervisor.run(["python3", "-c", source], **options)
    assert result.verdict is verdict


async def test_the_building_of_the_jail_is_nobody_s_time(supervisor: Supervisor) -> None:
    """The zygote is stopped for longer than the program may take."""
    await supervisor.run(["true"])
    (zygote,) = {each.pid for each in supervisor._launchers.values()}
    os.kill(zygote, signal.SIGSTOP)
    async with open_background() as background:
        background.start_soon(continue_later, zygote)
        result = await supervisor.run(["true"], timeout=0.3)
    assert result.verdict is Verdict.OK
    assert result.wall_time_s < 0.3


async def continue_later(pid: int) -> None:
    await trio.sleep(0.5)
    os.kill(pid, signal.SIGCONT)


async def test_what_can_t_be_built_is_raised_and_nothing_runs(
    supervisor: Supervisor, own_rootfs: Path, tmp_path: Path
) -> None:
    (own_rootfs / "tmp").rmdir()
    (own_rootfs / "tmp").symlink_to("/etc")
    share = tmp_path / "share"
    share.mkdir()
    with pytest.raises(jail.SpecError, match="/tmp"):
        await supervisor.run(
            ["touch", "/share/seen"], rootfs=own_rootfs, volumes=[f"{share}:/share"]
        )
    assert os.listdir(share) == []
    assert (await supervisor.run(["true"])).ok


async def test_a_program_that_isn_t_there_is_one_bare_error(supervisor: Supervisor) -> None:
    with pytest.raises(jail.ProgramError, match="no-such-program") as caught:
        await supervisor.run(["no-such-program"])
    assert caught.value.exit_status == 127


async def test_a_killed_zygote_is_no_result_of_the_program(supervisor: Supervisor) -> None:
    marker = f"marker-{uuid.uuid4().hex}"

    async def kill_zygote() -> None:
        await wait_until(lambda: bool(find_marked(marker)), "the program's start")
        for each in supervisor._launchers.values():
            os.kill(each.pid, signal.SIGKILL)

    async with open_background() as background:
        background.start_soon(kill_zygote)
        result = await supervisor.run(["sh", "-c", f"sleep 60; : {marker}"])
    assert (result.verdict, result.fault) == (Verdict.IE, "sandbox")
    assert (await supervisor.run(["true"])).ok


async def test_many_at_once_don_t_meet(supervisor: Supervisor) -> None:
    outputs: dict[int, bytes] = {}

    async def one(number: int) -> None:
        outputs[number] = (await supervisor.run(["echo", str(number)])).stdout

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)
    assert outputs == {n: f"{n}\n".encode() for n in range(40)}


@pytest.mark.parametrize("early", [wire.Exited(1, 0, 0, 0, 0), wire.NotStarted(1, 2, "no")])
async def test_an_answer_before_the_jail_is_built_is_a_lie(early: object) -> None:
    """AG-07."""
    ours, theirs = socket.socketpair()
    session = Session(ours)
    failed: list[bool] = []
    session.expect_ready(lambda fds: None, lambda: failed.append(True))
    with theirs:
        async with open_background() as background:
            background.start_soon(session.read)
            theirs.sendall(wire.pack_frame(early))
            await wait_until(lambda: session.broken is not None, "its being noticed")
        assert isinstance(session.broken, ProtocolError)
        assert failed
    session.close()


async def test_a_word_that_came_before_it_was_expected_counts(tmp_path: Path) -> None:
    """Init may be faster than its supervisor."""
    ours, theirs = socket.socketpair()
    session = Session(ours)
    with theirs:
        async with open_background() as background:
            background.start_soon(session.read)
            theirs.sendall(wire.pack_frame(wire.SetupFailed("mount proc", 1, "no")))
            await wait_until(lambda: session._setup is None, "its arrival")
            with pytest.raises(HostError, match="mount proc"):
                session.expect_ready(lambda fds: None, lambda: None)
    session.close()
