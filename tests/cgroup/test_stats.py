"""``jail stats``, ``pause`` and ``resume`` where jails have cgroups: their books, the freezer."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import IO, Any, Final

import pytest
import trio

from jail import Supervisor
from tests.command import Done, open_terminal, run_jail, start_jail
from tests.sight import wait_until

MiB: Final = 1024 * 1024
SLOW_S: Final = 30.0
SPIN: Final = "held = bytearray(48 << 20)\nprint('on', flush=True)\nwhile True: pass"


async def call(*words: str, command: str) -> Done:
    """While the supervisor of this process goes on."""
    return await trio.to_thread.run_sync(functools.partial(run_jail, *words, command=command))


async def read_stats(*words: str) -> list[dict[str, Any]]:
    done = await call("--json", "--no-stream", *words, command="stats")
    assert done.status == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_a_jail_s_own_books_and_limits_are_shown(supervisor: Supervisor) -> None:
    async with (
        supervisor.open_jail(memory="128m") as j,
        j.start(["python3", "-c", SPIN]) as process,
    ):
        assert process.stdout is not None
        await process.stdout.receive_some()
        (told,) = await read_stats("--interval", "2s", str(j.init_pid))
        table = await call("--no-stream", command="stats")
    assert told["jail"] == j.init_pid
    assert told["command"] == "python3"
    assert told["limits_by"] == "cgroup"
    assert told["tasks"] == 1
    assert told["paused"] is False
    assert 20 < told["cpu_percent"] <= 120
    assert 48 * MiB < told["memory_bytes"] <= told["memory_limit_bytes"]
    assert 128 * MiB <= told["memory_limit_bytes"] < 192 * MiB
    assert told["memory_percent"] == pytest.approx(
        100 * told["memory_bytes"] / told["memory_limit_bytes"], abs=0.01
    )
    assert set(told["pressure_percent"]) <= {"cpu", "memory", "io"}
    assert re.search(rf"^{j.init_pid} +python3 .* cgroup$", table.stdout.decode(), re.MULTILINE)


async def test_a_jail_stands_still_from_pause_to_resume(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j, j.start(["cat"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pid = str(j.init_pid)
        assert await call(pid, command="pause") == (0, b"", "")
        (told,) = await read_stats(pid)
        assert told["paused"] is True
        table = await call("--no-stream", pid, command="stats")
        assert "cat (paused)" in table.stdout.decode()
        await process.stdin.send_all(b"echo")
        with trio.move_on_after(1):
            pytest.fail(f"it went on: {await process.stdout.receive_some()!r}")
        assert await call(pid, command="unpause") == (0, b"", "")
        with trio.fail_after(SLOW_S):
            assert await process.stdout.receive_some() == b"echo"
        assert await call(pid, command="resume") == (0, b"", ""), "what goes on may be resumed"


async def test_none_is_paused_where_one_can_t_be(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        done = await call(str(j.init_pid), "1", command="pause")
        assert done.status == 125
        assert "no jail has the pid 1" in done.stderr
        assert (await j.run(["echo", "on"])).stdout == b"on\n"


def read_paused_pid(stderr: IO[bytes]) -> str:
    """Of ``jail run --pause``'s one line."""
    found = re.fullmatch(rb"jail: paused; go on with: jail resume ([0-9]+)\n", stderr.readline())
    assert found is not None
    return found[1].decode()


def start_paused(*words: str) -> Any:
    return start_jail("--pause", "--wall-time", "5s", *words, stderr=subprocess.PIPE)


def test_a_program_that_is_to_be_paused_starts_with_the_resumption(tmp_path: Path) -> None:
    """However late that is: its limits' clocks stand still, too."""
    with start_paused(
        "-v", f"{tmp_path}:/out", "--", "sh", "-c", "echo on >/out/f; echo on"
    ) as run:
        pid = read_paused_pid(run.stderr)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(7)
        assert not list(tmp_path.iterdir()), "it has begun"
        assert run_jail(pid, command="resume") == (0, b"", "")
        assert run.wait(SLOW_S) == 0, run.stderr.read()
        assert run.stdout.read() == b"on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_paused_jail_is_ended_by_a_signal_like_any_other(number: signal.Signals) -> None:
    with start_paused("--", "true") as run:
        read_paused_pid(run.stderr)
        run.send_signal(number)
        assert run.wait(SLOW_S) == 128 + number
        assert run.stderr.read() == f"jail: interrupted by {number.name}\n".encode()


def test_on_a_terminal_the_keys_are_ours_until_the_jail_is_resumed() -> None:
    """Ctrl-C ends a paused jail; from the start on it is the program's."""
    script = "trap 'echo caught; exit 9' INT; stty -echo; echo ready; while :; do sleep 0.1; done"
    for resumes in (False, True):
        with open_terminal("--pause", "-i", "-t", "--", "sh", "-c", script) as terminal:
            line = terminal.read_until(b"\r\n").decode()
            if resumes:
                assert run_jail(line.split()[-1], command="resume").status == 0
                terminal.read_until(b"ready")
            terminal.type(b"\x03")
            assert terminal.wait() == (9 if resumes else 130)
            assert (b"caught" in terminal.read_to_end()) == resumes


async def test_a_jail_that_is_over_is_no_jail(supervisor: Supervisor) -> None:
    async with supervisor.open_jail() as j:
        pid = j.init_pid
    await supervisor.wait_gone()
    await wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has gone")
    assert "no jail has the pid" in (await call(str(pid), command="resume")).stderr
