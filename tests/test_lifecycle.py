"""Who lives how long, and that nothing outlives its owner: SV-01, SV-02, SV-04."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import trio

import jail
from jail import Supervisor, Verdict
from tests.sight import (
    assert_works,
    find_marked,
    find_zygotes,
    wait_until,
)

# -- who started it doesn't matter ----------------------------------------------------------------


async def test_the_task_that_came_first_may_end_before_the_others(
    supervisor: Supervisor,
) -> None:
    """The zygote belongs to the supervisor, not to the scope of whoever wanted the first jail."""
    with trio.move_on_after(0.2) as scope:
        async with supervisor.open_jail():
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with supervisor.open_jail() as j:
        await assert_works(j)
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            async with supervisor.open_jail(userns="single") as j:
                await assert_works(j)

        nursery.start_soon(one)
    async with supervisor.open_jail(userns="single") as j:
        await assert_works(j)


async def test_jails_outlive_the_threads_that_trio_had(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR_SET_PDEATHSIG is tied to a thread: it must be one that lives as long as the zygote."""
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.05)
    async with (
        supervisor.open_jail() as a,
        supervisor.open_jail() as b,
        supervisor.open_jail(userns="single") as c,
    ):
        await a.put("big", b"x" * 1_000_000)  # large enough to be written by a thread
        await trio.to_thread.run_sync(threading.get_ident)
        await wait_until(lambda: threading.active_count() == 1, "the end of the idle threads")
        for j in (a, b, c):
            await assert_works(j)
        for zygote in find_zygotes():
            assert "\nThreads:\t1\n" in Path(f"/proc/{zygote}/status").read_text()


# -- what is killed from outside ------------------------------------------------------------------

REAPER = """
import ctypes, os, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to us
driver = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
for _ in range(int(sys.argv[2])):
    driver.stdout.readline()
time.sleep(float(sys.argv[3]))
driver.send_signal(signal.SIGKILL)
deadline = time.monotonic() + 5
while time.monotonic() < deadline:
    try:
        if os.waitpid(-1, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
    except ChildProcessError:
        sys.exit(0)
left = [n for n in os.listdir("/proc") if n.isdigit()]
print([open(f"/proc/{n}/comm").read() for n in left
       if open(f"/proc/{n}/stat").read().rpartition(")")[2].split()[1] == str(os.getpid())])
sys.exit(1)
"""
DRIVER = """
import trio, jail
async def main():
    async with jail.open_supervisor() as s:
        print("supervisor", flush=True)
        async def one(n):
            while True:
                async with s.open_jail(userns="auto" if n % 2 else "single") as j:
                    print("jail", flush=True)
                    await j.put("x", "y")
                    await j.run(["sh", "-c", "sleep 0.2 & (setsid sleep 60 &) ; sleep 0.1"])
                    await j.run(["sh", "-c", "setsid sleep 60"], timeout=0.1)
        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(one, n)
trio.run(main)
"""


def read_moments() -> list[tuple[int, float]]:
    """(lines of the driver to wait for, further delay)."""
    early = [(1, 0.004 * n) for n in range(12)]
    later = [(lines, 0.013 * lines % 0.05) for lines in range(2, 14)]
    return early + later


async def test_nothing_survives_a_killed_supervisor() -> None:
    """SIGKILL at many moments; whatever it or its zygotes had started is gone within 5 s."""
    limiter = trio.CapacityLimiter(3)

    async def one(lines: int, delay: float) -> None:
        async with limiter:
            argv = [sys.executable, "-c", REAPER, DRIVER, str(lines), str(delay)]
            with trio.fail_after(30):
                done = await trio.run_process(argv, capture_stdout=True, check=False)
        assert (done.returncode, done.stdout) == (0, b""), f"after line {lines} + {delay:.3f} s"

    async with trio.open_nursery() as nursery:
        for lines, delay in read_moments():
            nursery.start_soon(one, lines, delay)


async def test_a_zygote_that_has_just_died_is_replaced_unseen(supervisor: Supervisor) -> None:
    """Before anybody has noticed."""
    assert (await supervisor.run(["true"])).ok
    (zygote,) = find_zygotes()
    os.kill(zygote, signal.SIGKILL)
    os.waitid(os.P_PID, zygote, os.WEXITED | os.WNOWAIT)
    assert (await supervisor.run(["true"])).ok


async def test_a_killed_zygote_is_an_internal_error_and_is_replaced(
    supervisor: Supervisor, marker: str
) -> None:
    async with supervisor.open_jail() as j:
        (zygote,) = find_zygotes()
        async with j.start(["sh", "-c", f"sleep 60; : {marker}"]) as process:
            os.kill(zygote, signal.SIGKILL)
            with trio.fail_after(5):
                result = await process.wait()
            assert (result.verdict, result.limit) == (Verdict.IE, None)
            assert result.exit_status == 125
        with pytest.raises(jail.JailBroken):
            await j.run(["true"])
        with pytest.raises(jail.JailBroken):
            await j.put("x", b"y")
    await wait_until(lambda: find_zygotes() == [], "the dead zygote's end")
    async with supervisor.open_jail() as j:
        await assert_works(j)


@pytest.mark.parametrize("userns", ["auto", "single"])
async def test_a_killed_agent_is_an_internal_error_and_of_its_jail_alone(
    supervisor: Supervisor, marker: str, userns: str
) -> None:
    async with (
        supervisor.open_jail(userns=userns) as sibling,
        supervisor.open_jail(userns=userns) as j,
        j.start(["sh", "-c", f"sleep 60; : {marker}"]) as process,
    ):
        await wait_until(lambda: bool(find_marked(marker)), "its start")
        j.kill()
        with trio.fail_after(5):
            result = await process.wait()
        assert result.verdict is Verdict.IE
        assert result.message
        await wait_until(lambda: not find_marked(marker), "the program's end")
        with pytest.raises(jail.JailBroken):
            await j.run(["true"])
        await assert_works(sibling)


async def test_a_stopped_agent_delays_a_verdict_but_doesn_t_hang_it(
    supervisor: Supervisor, marker: str
) -> None:
    async with supervisor.open_jail() as j:
        async with j.start(["sh", "-c", f"sleep 60; : {marker}"], timeout=0.3) as process:
            await wait_until(lambda: bool(find_marked(marker)), "its start")
            os.kill(j.init_pid, signal.SIGSTOP)
            with trio.fail_after(5):
                result = await process.wait()
        assert (result.verdict, result.limit) == (Verdict.TLE, "wall_time")
        assert find_marked(marker) == []


async def test_a_run_asked_of_a_stopped_agent_ends(supervisor: Supervisor) -> None:
    """However much is sent: the socket is full after some 200 KB."""
    for argument in ("small", "x" * 100_000):
        async with supervisor.open_jail() as j:
            os.kill(j.init_pid, signal.SIGSTOP)
            with trio.fail_after(8):
                try:
                    result = await j.run(["true", *[argument] * 9], timeout=0.3)
                except jail.JailBroken:
                    continue
            assert result.verdict in (Verdict.TLE, Verdict.IE)


async def test_a_transfer_asked_of_a_stopped_agent_can_be_cancelled(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as j:
        os.kill(j.init_pid, signal.SIGSTOP)
        with trio.fail_after(8):
            with trio.move_on_after(0.2) as scope:
                await j.put("x", b"y")
            assert scope.cancelled_caught
            with trio.move_on_after(0.2):
                await j.get("x")


async def test_a_stopped_zygote_doesn_t_keep_a_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jail.launcher.END_TIMEOUT_S", 0.2)
    with trio.fail_after(8):
        async with jail.open_supervisor() as own:
            async with own.open_jail() as j:
                await assert_works(j)
            os.kill(find_zygotes()[0], signal.SIGSTOP)
            with trio.move_on_after(0.2):
                async with own.open_jail():
                    raise AssertionError("nobody could have cloned it")
    assert find_zygotes() == []


# -- without trio ---------------------------------------------------------------------------------


def test_run_without_trio() -> None:
    result = jail.run(["sh", "-c", "cat; exit 3"], input="hello", memory="256m", timeout=5)
    assert (result.verdict, result.exit_code, result.stdout) == (Verdict.RE, 3, b"hello")
    assert find_zygotes() == []


def test_run_without_trio_in_several_threads() -> None:
    outputs: dict[int, bytes] = {}

    def one(number: int) -> None:
        outputs[number] = jail.run(["echo", str(number)]).stdout

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {n: f"{n}\n".encode() for n in range(6)}


def test_run_without_trio_raises_what_is_the_caller_s_fault() -> None:
    with pytest.raises(jail.SpecError, match="memory"):
        jail.run(["true"], memory="12q")
    with pytest.raises(jail.SpecError, match="no program"):
        jail.run([])
