"""Beginnings and ends: who lives how long, and that nothing outlives its owner.

Catalogue: RS-14, RS-15, SV-01, SV-02, SV-03, SV-04, SV-09.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import Jail, Supervisor, Verdict
from jail.launcher import Launcher

DEADLINE_S = 5.0


# -- looking at the host --------------------------------------------------------------------------


def find_marked(marker: str) -> list[int]:
    """Processes of the host with ``marker`` in their command line, we ourselves left out."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in line and int(name) != os.getpid():
            found.append(int(name))
    return found


def find_children(pid: int, comm: str = "") -> list[int]:
    """Direct children of ``pid``, zombies too, of that name if one is given."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            head, _, tail = Path(f"/proc/{name}/stat").read_text().rpartition(")")
        except OSError:
            continue
        if int(tail.split()[1]) == pid and comm in ("", head.partition("(")[2]):
            found.append(int(name))
    return found


def find_zygotes() -> list[int]:
    return find_children(os.getpid(), "jail:zygote")


def find_jails() -> list[int]:
    """Inits of jails. Each zygote may have one more child, a spare for the next jail."""
    return [child for zygote in find_zygotes() for child in find_children(zygote)[1:]]


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def read_rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def wait_until(test: Callable[[], bool], what: str, seconds: float = DEADLINE_S) -> None:
    """Poll with a deadline."""
    deadline = trio.current_time() + seconds
    while not test():
        assert trio.current_time() < deadline, f"not within {seconds} s: {what}"
        await trio.sleep(0.005)


@pytest.fixture
def marker() -> Iterator[str]:
    """A word that only this test's programs have on their command line."""
    word = f"marker-{uuid.uuid4().hex}"
    yield word
    deadline = time.monotonic() + DEADLINE_S
    while find_marked(word):
        assert time.monotonic() < deadline, "a program outlived its jail"
        time.sleep(0.01)


async def assert_works(j: Jail) -> None:
    with trio.fail_after(10):
        assert (await j.run(["echo", "alive"])).stdout == b"alive\n"


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


# -- live processes -------------------------------------------------------------------------------


async def test_a_live_program_answers_as_it_is_asked(supervisor: Supervisor) -> None:
    source = "import sys\nfor line in sys.stdin: print(eval(line), flush=True)"
    async with supervisor.open_jail() as j, j.start(["python3", "-c", source]) as process:
        assert process.stdin is not None and process.stdout is not None
        for question, answer in ((b"6*7\n", b"42\n"), (b"2**70\n", b"1180591620717411303424\n")):
            await process.stdin.send_all(question)
            assert await process.stdout.receive_some() == answer
        running = process.returncode
        await process.stdin.aclose()
        result = await process.wait()
    assert (running, result.verdict, process.returncode) == (None, Verdict.OK, 0)


async def test_a_live_program_s_streams_are_separate(supervisor: Supervisor) -> None:
    argv = ["sh", "-c", "echo out; echo err >&2"]
    async with supervisor.open_jail() as j, j.start(argv) as process:
        assert process.stdout is not None and process.stderr is not None
        assert await process.stdout.receive_some() == b"out\n"
        assert await process.stderr.receive_some() == b"err\n"
        assert await process.stdout.receive_some() == b""


async def test_signals_reach_the_first_process(supervisor: Supervisor) -> None:
    source = (
        "import signal,sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
        "print('armed', flush=True)\nsignal.pause()\n"
    )
    async with supervisor.open_jail() as j:
        async with j.start(["python3", "-c", source]) as process:
            assert process.stdout is not None
            assert await process.stdout.receive_some() == b"armed\n"
            process.send_signal(signal.SIGUSR1)
            assert (await process.wait()).exit_code == 7
            process.send_signal(signal.SIGKILL)  # nobody is there any more
        async with j.start(["sleep", "60"]) as process:
            process.terminate()
            result = await process.wait()
    assert (result.verdict, result.signal, process.returncode) == (Verdict.SG, 15, -15)


async def test_the_end_of_the_block_ends_the_program(supervisor: Supervisor, marker: str) -> None:
    async with supervisor.open_jail() as j:
        async with j.start(["sh", "-c", f"sleep 60; : {marker}"]) as process:
            await wait_until(lambda: bool(find_marked(marker)), "its start")
        assert find_marked(marker) == []
        assert process.returncode == -9
        assert (await process.wait()).killed
        await assert_works(j)


async def read_until(stream: Any, wanted: bytes) -> bytes:
    seen = b""
    with trio.fail_after(10):
        while wanted not in seen:
            data = await stream.receive_some()
            assert data, f"the end came after {seen!r}"
            seen += data
    return seen


async def test_a_terminal_is_one(supervisor: Supervisor) -> None:
    async with (
        supervisor.open_jail() as j,
        j.start(["sh", "-c", "tty; stty size; exec cat"], terminal=True, size=(33, 99)) as process,
    ):
        assert process.stderr is None
        assert process.stdin is not None
        seen = await read_until(process.stdout, b"33 99\r\n")
        assert seen.startswith(b"/dev/pts/")
        await process.stdin.send_all(b"typed\n")
        assert (await read_until(process.stdout, b"typed\r\ntyped\r\n")).count(b"typed") == 2


async def test_control_c_on_a_terminal_interrupts_what_runs_there(supervisor: Supervisor) -> None:
    argv = ["sh", "-c", "echo ready; exec sleep 60"]
    async with supervisor.open_jail() as j, j.start(argv, terminal=True) as process:
        assert process.stdin is not None
        await read_until(process.stdout, b"ready")
        await process.stdin.send_all(b"\x03")
        with trio.fail_after(5):
            result = await process.wait()
        assert (result.verdict, result.signal) == (Verdict.SG, signal.SIGINT)


async def test_a_terminal_s_end_is_the_end_of_its_stream(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j, j.start(["echo", "bye"], terminal=True) as process:
        assert process.stdout is not None
        assert await read_until(process.stdout, b"bye") == b"bye\r\n"
        assert await process.stdout.receive_some() == b""
        assert (await process.wait()).ok


# -- cancellation ---------------------------------------------------------------------------------


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


async def test_a_jail_that_fails_at_once_says_why(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its init may have gone before the program is asked for."""
    (tmp_path / "usr").mkdir()
    (tmp_path / "proc").symlink_to("/usr")
    clone = Launcher.clone

    async def clone_and_dawdle(*args: Any) -> tuple[int, int]:
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


# -- many -----------------------------------------------------------------------------------------


async def use_up(supervisor: Supervisor, number: int) -> None:
    """One cold jail, of one of the kinds that there are, failures among them."""
    kind = number % 6
    userns = "single" if number % 10 == 0 else "auto"
    if kind == 4:
        with pytest.raises(jail.SpecError):
            async with supervisor.open_jail(volumes=["/no/such/place:/x"]):
                raise AssertionError("it was let in")
        return
    async with supervisor.open_jail(userns=userns) as j:
        if kind == 0:
            assert (await j.run(["sh", "-c", "(sleep 60 &); exit 3"])).exit_code == 3
        elif kind == 1:
            assert (await j.run(["sleep", "60"], timeout=0.005)).verdict is Verdict.TLE
        elif kind == 2:
            with pytest.raises(jail.ProgramError):
                await j.run(["no-such-program"])
        elif kind == 3:
            with trio.move_on_after(0.003):
                await j.run(["sleep", "60"])
        else:
            await j.put("a", str(number))
            assert (await j.run(["cat", "a"])).stdout == str(number).encode()


async def run_again(j: Jail, number: int) -> None:
    """One more run in a living jail."""
    if number % 50 == 0:
        assert (await j.run(["sleep", "60"], timeout=0.005)).verdict is Verdict.TLE
    elif number % 50 == 1:
        with pytest.raises(jail.ProgramError):
            await j.run(["/"])
    elif number % 50 == 2:
        with pytest.raises(jail.TransferError):
            await j.get("/etc")
    else:
        assert (await j.run(["echo", str(number)])).stdout == f"{number}\n".encode()


def take_stock() -> dict[str, Any]:
    """What must be the same before and after."""
    zygotes = find_zygotes()
    return {
        "zygotes": zygotes,
        "jails": find_jails(),
        "zygote_fds": [len(os.listdir(f"/proc/{zygote}/fd")) for zygote in zygotes],
        "fds": count_fds(),
        "mounts": Path("/proc/self/mountinfo").read_text().count("\n"),
        "threads": [t for t in threading.enumerate() if not t.name.startswith("Trio")],
        "shm": sorted(os.listdir("/dev/shm")),
    }


async def test_a_thousand_runs_leave_nothing_behind(supervisor: Supervisor) -> None:
    for number in range(60):
        await use_up(supervisor, number)
    async with supervisor.open_jail() as j:
        for number in range(50):
            await run_again(j, number)
    await wait_until(lambda: find_jails() == [], "the last init's end")
    before = take_stock()
    memory = {pid: read_rss_bytes(pid) for pid in (os.getpid(), *before["zygotes"])}
    for number in range(300):
        await use_up(supervisor, number)
    async with supervisor.open_jail() as j:
        for number in range(700):
            await run_again(j, number)
    await wait_until(lambda: take_stock() == before, "the state before")
    for pid, bytes_before in memory.items():
        assert read_rss_bytes(pid) - bytes_before < 3 * 2**20, f"{pid} has grown"


async def test_a_hundred_jails_at_once_are_strangers(supervisor: Supervisor) -> None:
    outputs: dict[int, bytes] = {}
    living = 0
    all_alive = trio.Event()

    async def one(number: int) -> None:
        nonlocal living
        async with supervisor.open_jail() as j:
            living += 1
            if living == 100:
                all_alive.set()
            await j.put("nonce", f"nonce-{number}")
            await all_alive.wait()
            seen = await j.run(["sh", "-c", "cat nonce; ls /tmp /work; cd /proc; echo [0-9]*"])
            outputs[number] = seen.stdout

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
    for number, output in outputs.items():
        nonce, *rest = output.split()
        assert nonce.decode() == f"nonce-{number}/tmp:"
        assert rest[:2] == [b"/work:", b"nonce"]
        assert len(rest) == 2 + 3 or len(rest) == 2 + 2, "init and what the shell runs"
    assert len(outputs) == 100


def read_host_ids(j: Jail) -> set[int]:
    """The host's user ids that the jail has, our own left out."""
    ids: set[int] = set()
    for line in Path(f"/proc/{j.init_pid}/uid_map").read_text().splitlines():
        _, outside, count = map(int, line.split())
        ids |= set(range(outside, outside + count))
    return ids - {os.getuid()}


OTHER_SUPERVISOR = """
import sys, trio, jail
async def main():
    async with jail.open_supervisor() as s, s.open_jail() as a, s.open_jail() as b:
        for j in (a, b):
            print(j.init_pid, flush=True)
        sys.stdin.readline()
trio.run(main)
"""


async def test_two_supervisors_never_share_ids(supervisor: Supervisor) -> None:
    if not supervisor.facts.can_map_subids:
        pytest.skip("no subordinate ids or no newuidmap on this host")
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_SUPERVISOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        others = [int(process.stdout.readline()) for _ in range(2)]
        async with (
            jail.open_supervisor() as third,
            supervisor.open_jail() as a,
            supervisor.open_jail() as b,
            third.open_jail() as c,
            third.open_jail() as d,
        ):
            slices = [read_host_ids(j) for j in (a, b, c, d)]
            for pid in others:
                text = Path(f"/proc/{pid}/uid_map").read_text()
                rows = [list(map(int, line.split())) for line in text.splitlines()]
                slices.append({o + n for _, o, count in rows for n in range(count)})
    finally:
        process.communicate(b"\n", timeout=10)
    assert all(len(each) > 200 for each in slices)
    assert len(set().union(*slices)) == sum(map(len, slices)), "some share an id"
