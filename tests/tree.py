"""Trees of files that tests compare, and the canary that must not get out of one."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from jail import Jail, TransferError

CANARY = b"canary-of-the-host\n"


def hash_tree(folder: Path) -> str:
    """All that can be told of it but the times of access."""
    digest = hashlib.sha256()
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in ["", *sorted([*folders, *files])]:
            path = os.path.join(where, name)
            found = os.lstat(path)
            facts = path, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns
            digest.update(repr((facts, sorted(os.listxattr(path, follow_symlinks=False)))).encode())
            if stat.S_ISREG(found.st_mode):
                digest.update(Path(path).read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                digest.update(os.fsencode(os.readlink(path)))
    return digest.hexdigest()


def read_all(folder: Path) -> bytes:
    """Whatever regular files hold below it."""
    paths = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    return b"".join(path.read_bytes() for path in paths if path.is_file())


async def run_python(j: Jail, source: str, *args: str) -> str:
    result = await j.run(["/usr/bin/python3", "-c", source, *args], timeout=20)
    assert result.ok, (result.verdict, result.message, result.stderr.decode()[-500:])
    return result.stdout.decode("utf-8", "surrogateescape")


async def attempt(work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """What it brings, or None for a typed refusal, of one printable line and in time."""
    with trio.fail_after(10):
        try:
            return await work(*args)
        except TransferError as error:
            if not str(error).isprintable():
                raise
            return None


async def assert_works(j: Jail) -> None:
    assert (await j.run(["echo", "alive"], timeout=10)).stdout == b"alive\n"
