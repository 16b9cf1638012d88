"""Many jails: one after another, at once, and of several supervisors: SV-09."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

import jail
from jail import Jail, Supervisor, Verdict
from tests.part import require
from tests.sight import (
    count_fds,
    find_children,
    find_jails,
    find_zygotes,
    read_rss_bytes,
    wait_until,
)


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


async def settle(supervisor: Supervisor) -> None:
    """Every jail is gone, and each zygote has its one spare."""
    await supervisor.wait_gone()
    await wait_until(
        lambda: all(len(find_children(zygote)) == 1 for zygote in find_zygotes()), "rest"
    )


async def test_a_thousand_runs_leave_nothing_behind(supervisor: Supervisor) -> None:
    for number in range(60):
        await use_up(supervisor, number)
    async with supervisor.open_jail() as j:
        for number in range(50):
            await run_again(j, number)
    await settle(supervisor)
    before = take_stock()
    memory = {pid: read_rss_bytes(pid) for pid in (os.getpid(), *before["zygotes"])}
    for number in range(300):
        await use_up(supervisor, number)
    async with supervisor.open_jail() as j:
        for number in range(700):
            await run_again(j, number)
    await settle(supervisor)
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
    require("subuid")
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
