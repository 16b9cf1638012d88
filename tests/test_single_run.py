"""``Supervisor.run``: one program in a jail of its own, asked for while that is being built."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
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
from jail.launcher import Born, Launcher
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


async def test_a_jail_that_fails_at_once_says_why(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its init may have gone before the program is asked for."""
    (tmp_path / "usr").mkdir()
    (tmp_path / "proc").symlink_to("/usr")
    clone = Launcher.clone

    async def clone_and_dawdle(*args: Any) -> Born:
        made = await clone(*args)
        time.sleep(0.1)  # nobody else of us may run meanwhile
        return made

    monkeypatch.setattr(Launcher, "clone", clone_and_dawdle)
    with pytest.raises(jail.SpecError, match="its /proc must be a directory"):
        await supervisor.run(["true"], rootfs=tmp_path)


async def test_a_plan_of_any_size_gets_through(supervisor: Supervisor, tmp_path: Path) -> None:
    """A socket that nobody reads yet takes some 200 KiB."""
    folder = f"/volume/{'/'.join(['x' * 200] * 8)}"
    volumes = [f"{tmp_path}:{folder}/{number}:ro" for number in range(300)]
    with trio.fail_after(20):
        result = await supervisor.run(["ls", folder], volumes=volumes)
    assert len(result.stdout.split()) == len(volumes)
    too_many = [f"{tmp_path}:{folder}/{number}:ro" for number in range(3000)]
    with pytest.raises(jail.SpecError, match="too many volumes"):
        await supervisor.run(["true"], volumes=too_many)


STUFFER = """
import array, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
pairs, sent = [], 0
fds = array.array("i", [0] * 250).tobytes()
try:
    while True:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        pairs += [a, b]
        for _ in range(8):
            a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_DONTWAIT)
            sent += 250
except OSError as error:
    print(error.errno, sent, flush=True)
time.sleep(60)
"""


async def test_descriptors_in_flight_of_one_id_cost_no_verdict(supervisor: Supervisor) -> None:
    """AG-09, RS-05: with one id the budget is the user's, and a program can empty it."""
    async with (
        supervisor.open_jail(userns="single") as honest,
        supervisor.open_jail(userns="single") as hostile,
        hostile.start(["python3", "-c", STUFFER]) as stuffer,
    ):
        assert stuffer.stdout is not None
        answer = await stuffer.stdout.receive_some()
        assert int(answer.split()[0]) == errno.ETOOMANYREFS
        with trio.fail_after(10):
            try:
                result = await honest.run(["true"])
            except jail.JailError:
                pass
            else:
                assert result.verdict in (Verdict.OK, Verdict.IE)
    assert (await supervisor.run(["true"], userns="single")).ok, "the zygote lives"
