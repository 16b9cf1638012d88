"""What changes while it is carried or shown: races of a program against its supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from jail import Jail, SpecError
from tests.conftest import OpenJail
from tests.part import not_exercised
from tests.tree import CANARY, attempt, read_all

MiB = 1024 * 1024


# -- FS-04: what changes while it is carried -------------------------------------------------------
RACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other = (os.fsencode(each) for each in sys.argv[1:3])
print("racing", flush=True)
while True:
    for _ in range(1000):
        libc.renameat2(-100, one, -100, other, 2)
"""


@asynccontextmanager
async def race(j: Jail, one: str, other: str) -> AsyncGenerator[None, None]:
    """A program inside that exchanges two names without end."""
    argv = ["/usr/bin/python3", "-c", RACER, one, other]
    async with j.start(argv, cpu_time=60) as process:
        assert process.stdout is not None
        assert await process.stdout.receive_some() == b"racing\n"
        yield


def lay_out_race(share: Path, outside: Path) -> None:
    """``swap`` is a directory of ours or a link to the secret's, from one moment to the next."""
    (share / "swap/sub").mkdir(parents=True)
    for name in ("swap/file", "swap/sub/file"):
        (share / name).write_text("inside")
    (share / "link").symlink_to(outside)


def hits_by_itself(share: Path) -> bool:
    """The control: a plain open on the host's side falls for it sooner or later."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with suppress(OSError):
            if (share / "swap/file").read_bytes() == CANARY:
                return True
    return False


async def test_fs_04_a_race_wins_nothing_from_get_or_put(
    open_jail: OpenJail, share: Path, outside: Path
) -> None:
    """CVE-2018-15664, CVE-2021-30465, CVE-2026-41568."""
    lay_out_race(share, outside)
    got = set()
    async with open_jail(volumes=[f"{share}:/share"]) as j, race(j, "/share/swap", "/share/link"):
        if not await trio.to_thread.run_sync(hits_by_itself, share):
            not_exercised("the race was never won even by a plain open")
        for _ in range(400):
            got.add(await attempt(j.get, "/share/swap/file"))
            await attempt(j.put, "/share/swap/sub/file", b"inside")
    assert got <= {b"inside", None}, got
    assert b"inside" in got


async def test_fs_04_a_race_wins_nothing_from_trees(
    open_jail: OpenJail, share: Path, outside: Path, tmp_path: Path
) -> None:
    lay_out_race(share, outside)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("inside")
    seen = b""
    async with open_jail(volumes=[f"{share}:/share"]) as j, race(j, "/share/swap", "/share/link"):
        if not await trio.to_thread.run_sync(hits_by_itself, share):
            not_exercised("the race was never won even by a plain open")
        for number in range(60):
            await attempt(j.get_tree, "/share", tmp_path / f"out{number}")
            await attempt(j.put_tree, tmp_path / "tree", "/share/swap")
            # the host's side of put_tree is what the program changes under our feet
            await attempt(j.put_tree, share, f"/tmp/copy{number}")
        seen += (await j.run(["sh", "-c", "cat /tmp/copy*/*/file /tmp/copy*/*/*/file"])).stdout
    for number in range(60):
        seen += read_all(tmp_path / f"out{number}")
    assert b"inside" in seen
    assert CANARY not in seen


async def test_fs_04_a_file_that_becomes_a_fifo_keeps_nobody_waiting(
    open_jail: OpenJail, share: Path, tmp_path: Path
) -> None:
    (share / "file").write_text("inside")
    os.mkfifo(share / "fifo")
    async with open_jail(volumes=[f"{share}:/share"]) as j, race(j, "/share/file", "/share/fifo"):
        for number in range(150):
            await attempt(j.get, "/share/file")
            await attempt(j.put, "/share/file", b"inside")
            await attempt(j.put_tree, share, f"/tmp/t{number}")
            await attempt(j.get_tree, "/share", tmp_path / f"o{number}")


# -- FS-06: a volume swapped at the last moment ----------------------------------------------------
@contextmanager
def racing_outside(one: Path, other: Path) -> Iterator[None]:
    argv = [sys.executable, "-c", RACER, str(one), str(other)]
    racer = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert racer.stdout is not None
    racer.stdout.readline()
    try:
        yield
    finally:
        racer.kill()
        racer.communicate()


async def look_inside(open_jail: OpenJail, source: Path) -> tuple[int, int] | None:
    """The inode that was checked, and the one that is shown; None if that was noticed."""
    try:
        async with open_jail(volumes=[f"{source}:/data:ro"]) as j:
            seen = (await j.run(["stat", "-c", "%i", "/data"])).stdout
            checked = [s.inode for s in j.plan.launch.sources if s.path.endswith("/source")]
            return checked[0], int(seen)
    except SpecError as error:
        if "replaced since it was checked" not in str(error):
            raise
        return None


async def test_fs_06_what_is_shown_is_what_was_checked(
    open_jail: OpenJail, share: Path, outside: Path
) -> None:
    """CVE-2024-1753, CVE-2024-9407: exchanged between the look and the mount."""
    (share / "source").mkdir()
    (share / "other").mkdir()
    (share / "other/mark").write_text("other")
    (share / "link").symlink_to(outside)
    shown, refused = 0, 0
    with racing_outside(share / "source", share / "other"):
        for _ in range(60):
            inodes = await look_inside(open_jail, share / "source")
            refused += inodes is None
            if inodes is not None:
                assert inodes[0] == inodes[1]
                shown += 1
    assert refused + shown == 60
    if not refused:
        not_exercised("no exchange ever fell between the look and the mount")
