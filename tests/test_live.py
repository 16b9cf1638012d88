"""Live programs: their streams, signals and terminals."""

from __future__ import annotations

import signal
from typing import Any

import trio

from jail import Supervisor, Verdict
from tests.sight import (
    assert_works,
    find_marked,
    wait_until,
)


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
