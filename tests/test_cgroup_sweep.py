"""What the dead have left is ended; what might be somebody's is not touched."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jail.cgroup.name import Name, Owner, make_name
from jail.cgroup.owner import read_owner
from jail.cgroup.sweep import end_cgroup, kill_cgroup, remove_cgroup, sweep
from tests.cgroup_tree import CgroupTree, cgroups

__all__ = ["cgroups"]

HERE = read_owner()
DEAD = replace(HERE, start=HERE.start - 1)
ELSEWHERE = replace(DEAD, pid_ns=HERE.pid_ns + 1)
ANOTHER_BOOT = replace(HERE, boot="00000000")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


def leave(cgroups: CgroupTree, owner: Owner, *pids: int) -> Path:
    """What a supervisor has: its host's cgroup, and a jail's with one below it."""
    cgroups.add(f"p/{make_name(Name(owner))}")
    jail = cgroups.add(f"p/{make_name(Name(owner, 0, 5))}", procs=pids)
    cgroups.make_directory(jail / "below")
    return jail


@pytest.mark.parametrize("owner", [DEAD, ANOTHER_BOOT])
async def test_a_dead_owners_cgroups_are_removed_and_their_processes_killed(
    cgroups: CgroupTree, owner: Owner, sleeper: subprocess.Popen[bytes]
) -> None:
    leave(cgroups, owner, sleeper.pid)
    await sweep(cgroups.mount / "p", HERE)
    assert cgroups.names(cgroups.mount / "p") == set()
    assert sleeper.wait(10) == -9


@pytest.mark.parametrize("owner", [HERE, ELSEWHERE])
async def test_the_living_and_those_of_whom_nothing_is_known_stay(
    cgroups: CgroupTree, owner: Owner, sleeper: subprocess.Popen[bytes]
) -> None:
    leave(cgroups, owner, sleeper.pid)
    before = cgroups.names(cgroups.mount / "p")
    await sweep(cgroups.mount / "p", HERE)
    assert cgroups.names(cgroups.mount / "p") == before
    assert sleeper.poll() is None


async def test_strangers_cgroups_stay(cgroups: CgroupTree) -> None:
    names = ["app.service", "jail-1", "jail-doctor-7", "jail-x.scope", f"{make_name(Name(DEAD))}s"]
    for name in names:
        cgroups.add(f"p/{name}")
    await sweep(cgroups.mount / "p", HERE)
    assert cgroups.names(cgroups.mount / "p") == set(names)


async def test_a_held_lock_is_a_sign_of_life(cgroups: CgroupTree) -> None:
    """Where /proc hides others, or another time namespace counts otherwise, a name errs."""
    leave(cgroups, DEAD)
    fd = os.open(cgroups.mount / "p" / make_name(Name(DEAD)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        await sweep(cgroups.mount / "p", HERE)
        assert len(cgroups.names(cgroups.mount / "p")) == 2
    finally:
        os.close(fd)
    await sweep(cgroups.mount / "p", HERE)
    assert cgroups.names(cgroups.mount / "p") == set()


async def test_children_of_a_dead_application_are_not_killed(
    cgroups: CgroupTree, sleeper: subprocess.Popen[bytes]
) -> None:
    """They were born in the cgroup that it had been moved to with its zygotes."""
    host = make_name(Name(DEAD))
    cgroups.add(f"p/{host}", procs=(sleeper.pid,))
    await sweep(cgroups.mount / "p", HERE)
    assert cgroups.names(cgroups.mount / "p") == {host}
    assert sleeper.poll() is None


async def test_without_cgroup_kill_each_process_is_killed_by_itself(
    cgroups: CgroupTree, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = cgroups.add("p/old", procs=(sleeper.pid, 0), cgroup__freeze="0")
    (folder / "cgroup.kill").unlink()
    kill_cgroup(folder)
    assert sleeper.wait(10) == -9
    assert (folder / "cgroup.freeze").read_text() == "0\n", "thawed"


async def test_who_does_not_die_is_not_waited_for_long(
    cgroups: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cgroups.add("p/stuck", procs=(4_194_305,))
    (folder / "cgroup.kill").unlink()
    started = time.monotonic()
    assert not await end_cgroup(folder, timeout_s=0.1)
    assert time.monotonic() - started < 5
    assert folder.is_dir()


async def test_what_has_gone_is_as_good_as_ended(cgroups: CgroupTree) -> None:
    missing = cgroups.mount / "missing"
    kill_cgroup(missing)
    assert remove_cgroup(missing)
    assert await end_cgroup(missing)
    await sweep(missing, HERE)


def test_a_busy_cgroup_is_not_removed(cgroups: CgroupTree) -> None:
    low = cgroups.add("p/a/b", procs=(4_194_305,))
    cgroups.add("p/a/c")
    assert not remove_cgroup(cgroups.mount / "p")
    assert low.is_dir() and not (cgroups.mount / "p/a/c").exists()
