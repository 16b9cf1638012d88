"""What a run leaves behind, alone in its jail and beside others: RS-14, RS-15."""

from __future__ import annotations

import pytest
import trio

import jail
from jail import Supervisor, Verdict
from tests.sight import (
    assert_works,
    find_marked,
    wait_until,
)

# -- daemons --------------------------------------------------------------------------------------

DAEMONS = {
    "double_fork": "import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n",
    "setsid": "import os\nif os.fork(): os._exit(0)\nos.setsid()\n",
    "closed_stdio": "import os\nif os.fork(): os._exit(0)\nos.closerange(0, 64)\n",
    "keeps_the_pipes": "import os\nif os.fork(): os._exit(0)\n",
    "deaf": (
        "import os,signal\nif os.fork(): os._exit(0)\n"
        "for n in signal.valid_signals() - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
    ),
    "chain": "import os\nfor _ in range(20):\n  if os.fork(): os._exit(0)\n",
    "stopped": "import os\nif os.fork(): os._exit(0)\nos.kill(os.getpid(), 19)\n",
    "many": "import os\nfor _ in range(30):\n  if os.fork() == 0: break\nelse: os._exit(0)\n",
}
STAY = "import time\nwhile True: time.sleep(60)\n"


@pytest.mark.parametrize("kind", DAEMONS)
async def test_a_daemon_ends_with_its_run(supervisor: Supervisor, kind: str, marker: str) -> None:
    async with supervisor.open_jail() as j:
        with trio.fail_after(5):
            result = await j.run(["python3", "-c", DAEMONS[kind] + STAY, marker], timeout=3)
        assert find_marked(marker) == [], "it is gone when the result is there"
        assert (result.verdict, result.exit_code) == (Verdict.OK, 0)
        assert result.wall_time_s < 1
        await assert_works(j)


async def test_a_daemon_s_last_words_come_with_the_result(supervisor: Supervisor) -> None:
    """What was written before the first process ended is all there."""
    source = "import os\nos.write(1, b'x' * 60000)\nif os.fork(): os._exit(0)\n" + STAY
    async with supervisor.open_jail() as j:
        result = await j.run(["python3", "-c", source])
    assert len(result.stdout) == 60000


async def test_a_run_s_leftovers_don_t_disturb_the_next(
    supervisor: Supervisor, marker: str
) -> None:
    pest = (
        "import os,time\nif os.fork(): os._exit(0)\n"
        "while True:\n  open('/tmp/pest', 'a').write('x')\n  time.sleep(0.001)\n"
    )
    async with supervisor.open_jail() as j:
        assert (await j.run(["python3", "-c", pest, marker])).ok
        twice = "cd /proc; echo [0-9]*; stat -c %s /tmp/pest; sleep 0.05; stat -c %s /tmp/pest"
        result = await j.run(["sh", "-c", twice])
    pids, before, after = [*result.stdout.splitlines(), b"", b""][:3]
    assert len(pids.split()) == 2, "init and the shell"
    assert before == after


async def test_a_zombie_factory_is_cleaned_up_after(supervisor: Supervisor) -> None:
    source = "import os\nfor _ in range(150):\n  if os.fork() == 0: os._exit(0)\nprint('made')\n"
    async with supervisor.open_jail() as j:
        assert (await j.run(["python3", "-c", source])).stdout == b"made\n"
        result = await j.run(["sh", "-c", "cd /proc; echo [0-9]*"])
    assert len(result.stdout.split()) == 2


# -- several programs -----------------------------------------------------------------------------


async def test_programs_run_side_by_side_in_one_jail(supervisor: Supervisor) -> None:
    outputs: dict[int, bytes] = {}
    async with supervisor.open_jail() as j:

        async def one(number: int) -> None:
            argv = ["sh", "-c", f"read x; echo $x; echo {number} > /tmp/{number}"]
            outputs[number] = (await j.run(argv, input=f"nonce-{number}\n")).stdout

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(one, number)
        listed = await j.run(["ls", "/tmp"])
    assert outputs == {n: f"nonce-{n}\n".encode() for n in range(20)}
    assert len(listed.stdout.split()) == 20


async def test_killing_one_run_leaves_its_neighbour(supervisor: Supervisor, marker: str) -> None:
    tree = f"sh -c 'sleep 60; : {marker}' & sh -c 'sleep 60; : {marker}' & wait"
    async with supervisor.open_jail() as j, j.start(["cat"]) as neighbour:
        result = await j.run(["sh", "-c", tree], timeout=0.3)
        assert result.verdict is Verdict.TLE
        await wait_until(lambda: not find_marked(marker), "the killed run's children")
        assert neighbour.stdin is not None and neighbour.stdout is not None
        await neighbour.stdin.send_all(b"still here")
        assert await neighbour.stdout.receive_some() == b"still here"


STRAY = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
{work}
"""


async def test_a_daemon_in_company_is_free_for_nobody(supervisor: Supervisor, marker: str) -> None:
    """It is in no run's family any more; the runs that are under way pay for it."""
    hog = STRAY.format(work="held = bytearray(200 << 20)\ntime.sleep(60)")
    async with supervisor.open_jail(memory="64m") as j, j.start(["sleep", "60"]) as neighbour:
        await j.run(["python3", "-c", hog, marker])
        with trio.fail_after(10):
            assert (await neighbour.wait()).verdict is Verdict.MLE
        await wait_until(lambda: not find_marked(marker), "the daemon's end")


async def test_a_daemon_goes_with_the_first_run_that_is_killed(
    supervisor: Supervisor, marker: str
) -> None:
    stay = STRAY.format(work="time.sleep(60)")
    async with supervisor.open_jail() as j, j.start(["cat"]) as neighbour:
        await j.run(["python3", "-c", stay, marker])
        await wait_until(lambda: bool(find_marked(marker)), "the daemon's start")
        assert (await j.run(["sleep", "60"], timeout=0.1)).verdict is Verdict.TLE
        await wait_until(lambda: not find_marked(marker), "the daemon's end")
        assert neighbour.returncode is None


async def test_more_programs_than_a_jail_takes_is_an_error_not_a_hang(
    supervisor: Supervisor,
) -> None:
    refused = 0
    async with supervisor.open_jail(pids_limit=None) as j, trio.open_nursery() as nursery:

        async def one() -> None:
            nonlocal refused
            try:
                await j.run(["sleep", "0.5"])
            except jail.ProgramError as error:
                refused += 1
                assert error.exit_status == 126

        for _ in range(70):
            nursery.start_soon(one)
    assert refused == 6
