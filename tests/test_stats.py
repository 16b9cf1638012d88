"""``jail stats``: who is a jail, what is said of it, how it is followed. It needs no cgroup."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Final

import pytest
import trio

from jail import Supervisor
from tests.command import JAIL, PATIENCE_S, Done, open_terminal, run_jail, start_jail
from tests.conftest import OpenJail
from tests.sight import find_children, find_zygotes

MiB: Final = 1024 * 1024
SPIN: Final = "held = bytearray(32 << 20)\nprint('on', flush=True)\nwhile True: pass"
NO_JAILS: Final = b"jail: no jails are running\n"
ALONE: Final = (
    *("unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc"),
    *(*JAIL, "stats"),
)
"""where no process is seen but its own: this user may be running jails"""
RENAME: Final = "open('/proc/self/comm', 'wb').write({!r})\n"
STAY: Final = "print('on', flush=True)\nimport time; time.sleep(60)"


async def call(*words: str, command: str = "stats") -> Done:
    """While the supervisor of this process goes on."""
    return await trio.to_thread.run_sync(functools.partial(run_jail, *words, command=command))


def parse_lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@contextmanager
def follow(*words: str) -> Iterator[IO[bytes]]:
    """What ``jail stats`` prints while it follows; killed afterwards."""
    with start_jail(*words, command="stats") as process:
        assert process.stdout is not None
        yield process.stdout


def find_init(supervisor_pid: int) -> str:
    """Of the one jail of a ``jail run``, once it is built."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for zygote in find_children(supervisor_pid, "jail:zygote"):
            for init in find_children(zygote, "jail:agent"):
                return str(init)
        time.sleep(0.01)
    raise AssertionError("no jail")


# -- who is a jail --------------------------------------------------------------------------------


async def test_a_living_jail_is_found_and_measured(open_jail: OpenJail) -> None:
    """Under either way to map ids."""
    async with open_jail() as j, j.start(["python3", "-c", SPIN]) as process:
        assert process.stdout is not None
        await process.stdout.receive_some()
        done = await call("--json", "--no-stream", str(j.init_pid))
    (told,) = parse_lines(done.stdout)
    assert done.stderr == ""
    assert (told["jail"], told["command"], told["tasks"]) == (j.init_pid, "python3", 1)
    assert 10 < told["cpu_percent"] < 150
    assert told["cpu_time_s"] > 0
    assert 32 * MiB < told["memory_bytes"] < 64 * MiB
    assert 0 < told["command_age_s"] < PATIENCE_S
    assert told["time"].endswith("+00:00")
    assert told["paused"] is False


async def test_an_idle_jail_is_one_and_a_spare_for_the_next_is_none(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail() as first, supervisor.open_jail() as second:
        done = await call("--json", "--no-stream")
        spares = {pid for zygote in find_zygotes() for pid in find_children(zygote)}
    told = {each["jail"]: each for each in parse_lines(done.stdout)}
    assert told.keys() & spares == {first.init_pid, second.init_pid}
    for each in (told[first.init_pid], told[second.init_pid]):
        assert (each["command"], each["tasks"]) == (None, 0)


def test_several_supervisors_jails_are_seen_at_once() -> None:
    pids: list[str] = []
    with ExitStack() as stack:
        for name in (b"one", b"two", b"three"):
            words = ["--", "python3", "-c", RENAME.format(name) + STAY]
            process = stack.enter_context(start_jail(*words))
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            pids.append(find_init(process.pid))
        done = run_jail("--no-stream", *pids, command="stats")
    lines = done.stdout.decode().splitlines()
    assert lines[0].split()[:3] == ["JAIL", "COMMAND", "AGE"]
    assert sorted(line.split()[1] for line in lines[1:]) == ["one", "three", "two"]
    assert all(line.split()[-1] in ("watch", "cgroup") for line in lines[1:])


IMPOSTOR: Final = """\
import os, time
def call_myself(name):
    open('/proc/self/comm', 'wb').write(name)
ready, done = os.pipe()
if os.fork() == 0:
    call_myself(b'jail:agent')
    os.write(done, b'.')
    time.sleep(60)
os.read(ready, 1)
call_myself(b'jail:zygote')
"""


async def test_a_program_that_takes_our_names_is_no_jail(open_jail: OpenJail) -> None:
    """Not even with the one id that is ours."""
    async with (
        open_jail() as j,
        j.start(["python3", "-c", IMPOSTOR + STAY]) as process,
    ):
        assert process.stdout is not None
        await process.stdout.receive_some()
        inside = {each for zygote in find_children(j.init_pid) for each in find_children(zygote)}
        told = parse_lines((await call("--json", "--no-stream")).stdout)
    (own,) = [each for each in told if each["jail"] == j.init_pid]
    assert (own["command"], own["tasks"]) == ("jail:zygote", 2)
    assert len(inside) == 1
    assert not inside & {each["jail"] for each in told}


async def test_a_jail_is_what_its_daemons_use_too(supervisor: Supervisor) -> None:
    """An orphan stays in the family, and the time of those who are dead is counted."""
    source = "(setsid python3 -c 'held = bytearray(48 << 20)\nimport time; time.sleep(60)' &)"
    burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    script = f"{source}; ({burn}); echo on; sleep 60"
    async with supervisor.open_jail() as j, j.start(["sh", "-c", script]) as process:
        assert process.stdout is not None
        await process.stdout.receive_some()
        with trio.fail_after(PATIENCE_S):
            while True:
                done = await call("--json", "--no-stream", "--interval", "0.1s", str(j.init_pid))
                (told,) = parse_lines(done.stdout)
                if told["memory_bytes"] > 48 * MiB:
                    break
    assert told["tasks"] == 3
    assert told["cpu_time_s"] > 0.1


def test_a_name_full_of_escapes_is_made_harmless_in_the_table_and_kept_in_the_json() -> None:
    name = b"\x1b[2J)\n) S 1 \xff"
    with start_jail("--", "python3", "-c", RENAME.format(name) + STAY) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pid = find_init(process.pid)
        table = run_jail("--no-stream", pid, command="stats")
        told = run_jail("--json", "--no-stream", pid, command="stats")
    assert b"\x1b" not in table.stdout
    assert "?[2J)?) S 1 " in table.stdout.decode()
    assert len(table.stdout.splitlines()) == 2
    (line,) = parse_lines(told.stdout)
    assert line["command"] == "\x1b[2J)\n) S 1 \ufffd"


# -- how it is followed ---------------------------------------------------------------------------


def test_without_jails_it_says_so_and_goes_on_or_ends() -> None:
    once = subprocess.run([*ALONE, "--no-stream"], capture_output=True, timeout=PATIENCE_S)
    assert (once.returncode, once.stdout, once.stderr) == (0, b"", NO_JAILS)
    with subprocess.Popen(ALONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as stats:
        assert stats.stdout is not None and stats.stderr is not None
        assert stats.stderr.readline() == NO_JAILS
        with pytest.raises(subprocess.TimeoutExpired):
            stats.wait(2)
        stats.stdout.close()  # a reader who has gone ends it, though there is nothing to say
        assert stats.wait(PATIENCE_S) == 141
        assert stats.stderr.read() == b""


def test_a_jail_that_comes_later_is_seen() -> None:
    with follow("--json", "--interval", "0.1s") as lines, start_jail("--", "sleep", "60") as run:
        pid = find_init(run.pid)
        assert any(json.loads(line)["jail"] == int(pid) for line in lines)


async def test_looks_follow_one_another_and_those_named_alone_are_shown(
    supervisor: Supervisor,
) -> None:
    async with supervisor.open_jail(), supervisor.open_jail() as j:
        with follow("--json", "--interval", "0.1s", str(j.init_pid)) as lines:
            read = [await trio.to_thread.run_sync(lines.readline) for _ in range(3)]
    told = parse_lines(b"".join(read))
    assert {each["jail"] for each in told} == {j.init_pid}
    assert len({each["time"] for each in told}) == 3


def test_it_ends_when_the_jails_that_were_named_have_ended() -> None:
    with start_jail("--", "sleep", "60") as run:
        words = ("--json", "--interval", "0.1s", find_init(run.pid))
        with start_jail(*words, command="stats", stderr=subprocess.PIPE) as stats:
            assert stats.stdout is not None and stats.stderr is not None
            stats.stdout.readline()
            run.send_signal(signal.SIGTERM)
            assert stats.wait(PATIENCE_S) == 0
            assert stats.stderr.read() == b"jail: no jails are running\n"


async def test_jails_that_come_and_go_disturb_nobody(supervisor: Supervisor) -> None:
    with start_jail(
        "--json", "--interval", "0.1s", command="stats", stderr=subprocess.PIPE
    ) as stats:
        async with supervisor.open_jail() as j:
            for _ in range(60):
                await supervisor.run(["true"])
        assert stats.poll() is None
        stats.send_signal(signal.SIGINT)
        out, err = stats.communicate(timeout=PATIENCE_S)
    assert stats.returncode == 130
    assert b"Traceback" not in err
    assert j.init_pid in {each["jail"] for each in parse_lines(out)}


def test_on_a_terminal_one_table_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with (
        start_jail("--", "sleep", "60"),
        open_terminal("--interval", "0.2s", command="stats") as terminal,
    ):
        seen = terminal.read_until(b"sleep")
        terminal.seen = b""
        terminal.read_until(b"sleep")
        terminal.read_until(b"\x1b[J")
        terminal.type(b"\x03")
        assert terminal.wait() == 130
        assert b"Traceback" not in terminal.read_to_end()
    assert b"\x1b[H" in seen
    assert all(len(line) < 100 for line in seen.split(b"\r\n")), "a row is cut, not wrapped"


def test_between_two_looks_it_uses_no_processor() -> None:
    with (
        start_jail("--", "sleep", "60") as run,
        start_jail("--json", "--interval", "1s", find_init(run.pid), command="stats") as stats,
    ):
        assert stats.stdout is not None
        stats.stdout.readline()
        before = read_ticks(stats.pid)
        began = time.monotonic()
        stats.stdout.readline()
        stats.stdout.readline()
        took = time.monotonic() - began
        used = (read_ticks(stats.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert took > 1.5
    assert used < took / 5


def read_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# -- words that make no sense ---------------------------------------------------------------------

WRONG: Final = {
    "no number": (["stats", "x"], "pid: 'x' is not a whole number"),
    "no jail": (["stats", "1"], "no jail has the pid 1"),
    "too often": (["stats", "--interval", "1ms"], "at least 0.1 s"),
    "no time": (["stats", "--interval", "soon"], "is not a time"),
    "an option": (["stats", "--all"], "--all"),
    "nobody to pause": (["pause"], "PID"),
    "nobody to resume": (["resume"], "PID"),
    "a jail of nobody": (["pause", str(2**40)], "no jail has the pid"),
    "no number to pause": (["unpause", "-1"], "-1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_makes_no_sense_is_one_line_and_125(wrong: str) -> None:
    words, text = WRONG[wrong]
    done = run_jail(*words[1:], command=words[0])
    assert (done.status, done.stdout) == (125, b"")
    assert text in done.stderr
    assert done.stderr.startswith("jail: ")
    assert done.stderr.count("\n") == 1


async def test_a_process_that_is_no_jail_is_refused(supervisor: Supervisor) -> None:
    """Ours, a jail's program, and its zygote are none."""
    async with supervisor.open_jail() as j, j.start(["sleep", "60"]) as process:
        assert process.pidfd >= 0
        for pid in (os.getpid(), *find_zygotes()):
            done = await call(str(pid), command="pause")
            assert done.status == 125
            assert f"no jail has the pid {pid}" in done.stderr


async def test_a_jail_without_a_cgroup_can_t_be_paused_and_the_remedy_is_told(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this host delegates."""

    async def find_none(*_: Any) -> tuple[None, tuple[str, ...]]:
        return None, ()

    monkeypatch.setattr("jail.launcher.open_subtree", find_none)
    async with supervisor.open_jail() as j:
        done = await call(str(j.init_pid), command="pause")
    assert done.status == 125
    assert done.stderr.startswith(f"jail: jail {j.init_pid} has no cgroup of its own")
    assert len(done.stderr.splitlines()) > 1, "the doctor's lines"
    run = run_jail("--pause", "--", "echo", "started")
    assert (run.status, run.stdout) == (125, b"")
    assert "can be paused only where it has a cgroup" in run.stderr


def test_what_is_for_living_jails_is_no_burden_on_jail_run() -> None:
    source = "import jail.cli, jail.foreground, sys; print(*sys.modules)"
    argv = [sys.executable, "-c", source]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("jail.stats")}
    assert ours == {"jail.stats", "jail.stats.command"}
