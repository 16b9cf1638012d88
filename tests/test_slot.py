"""Slices of ids: leased to one jail at a time, whichever process asks, and free when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import jail
from jail import HostError
from jail.host import read_facts
from jail.idmap import count_slices
from jail.slot import SlotPool
from jail.subid import IdRange
from tests.part import require

OTHER = """
import sys
from pathlib import Path
from jail.errors import HostError
from jail.slot import SlotPool
pool = SlotPool(Path(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    try:
        answer = pool.lease() if line == "lease\\n" else pool.release(int(line)) or "free"
    except HostError:
        answer = "full"
    print(answer, flush=True)
"""


class Other:
    """Another process with a pool of its own on the same file."""

    def __init__(self, folder: Path, count: int, pass_fds: tuple[int, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
        )

    def ask(self, what: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=10)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[SlotPool]:
    pool = SlotPool(tmp_path, 4)
    yield pool
    pool.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    other = Other(tmp_path, 4)
    yield other
    other.kill()


def test_a_slot_is_leased_once(pool: SlotPool) -> None:
    assert sorted(pool.lease() for _ in range(4)) == [0, 1, 2, 3]
    with pytest.raises(HostError, match="all 4 slices") as caught:
        pool.lease()
    assert caught.value.step == "ids"
    assert caught.value.remedy is not None


def test_a_slot_given_back_is_leased_again(pool: SlotPool) -> None:
    slots = [pool.lease() for _ in range(4)]
    pool.release(slots[2])
    assert pool.lease() == slots[2]


def test_a_host_without_slices_has_none_to_lease(tmp_path: Path) -> None:
    pool = SlotPool(tmp_path, 0)
    with pytest.raises(HostError):
        pool.lease()
    pool.close()


def test_two_pools_of_one_process_share_none(pool: SlotPool, tmp_path: Path) -> None:
    second = SlotPool(tmp_path, 4)
    slots = [pool.lease(), second.lease(), pool.lease(), second.lease()]
    assert sorted(slots) == [0, 1, 2, 3]
    second.close()
    assert {pool.lease(), pool.lease()} == {slots[1], slots[3]}, "closing it gave its own back"


def test_two_processes_share_none(pool: SlotPool, other: Other) -> None:
    mine = {pool.lease(), pool.lease()}
    theirs = {int(other.ask("lease")), int(other.ask("lease"))}
    assert mine | theirs == {0, 1, 2, 3}
    assert other.ask("lease") == "full"
    with pytest.raises(HostError):
        pool.lease()


def test_what_one_process_gives_back_another_can_lease(pool: SlotPool, other: Other) -> None:
    theirs = [int(other.ask("lease")) for _ in range(4)]
    with pytest.raises(HostError):
        pool.lease()
    assert other.ask(theirs[0]) == "free"
    assert pool.lease() == theirs[0]


def test_a_killed_owner_s_slots_come_free(pool: SlotPool, tmp_path: Path) -> None:
    other = Other(tmp_path, 4)
    assert {int(other.ask("lease")) for _ in range(4)} == {0, 1, 2, 3}
    other.kill()
    assert sorted(pool.lease() for _ in range(4)) == [0, 1, 2, 3]


def test_the_slots_of_a_dead_owner_stay_taken_while_its_heir_lives(tmp_path: Path) -> None:
    """The zygote has the fd too: its jails may live a moment longer than the supervisor."""
    pool = SlotPool(tmp_path, 2)
    taken = pool.lease()
    heir = Other(tmp_path, 2, pass_fds=(pool.fd,))
    pool.close()
    second = SlotPool(tmp_path, 2)
    assert second.lease() != taken
    with pytest.raises(HostError):
        second.lease()
    heir.kill()
    assert second.lease() == taken
    second.close()


def test_the_file_is_the_user_s_alone(pool: SlotPool, tmp_path: Path) -> None:
    assert (tmp_path / "slices").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(pool.fd)
    assert (tmp_path / "slices").stat().st_size == 0, "locks need no bytes"


def read_first_ids(pid: int) -> set[int]:
    rows = Path(f"/proc/{pid}/uid_map").read_text().splitlines()
    return {int(row.split()[1]) for row in rows}


async def test_the_kernel_takes_every_slice_of_ranges_that_are_no_multiple_of_one() -> None:
    """Granted in pieces: a slice that lay across two of them could never be mapped."""
    require("subuid")
    facts = read_facts()
    uid, gid = facts.subuids[0].start, facts.subgids[0].start
    uids = IdRange(uid, 700), IdRange(uid + 5000, 100), IdRange(uid + 6000, 600)
    gids = IdRange(gid, 300), IdRange(gid + 4000, 900)
    pieces = replace(facts, subuids=uids, subgids=gids)
    count = count_slices(uids, gids)
    assert count == 4
    outside: set[int] = set()
    with trio.fail_after(30):
        async with jail.open_supervisor(pieces) as own, AsyncExitStack() as stack:
            for _ in range(count):
                j = await stack.enter_async_context(own.open_jail())
                assert (await j.run(["id", "-u"])).stdout == b"1000\n"
                outside |= read_first_ids(j.init_pid)
            with pytest.raises(HostError, match="slices"):
                await stack.enter_async_context(own.open_jail())
    assert len(outside) == 4 * 3
    assert all(any(first in each for each in uids) for first in outside)
