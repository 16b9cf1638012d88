"""Looking at the host from a test: whose processes there are, what is open, what has come true."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from jail import Jail

DEADLINE_S = 5.0


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
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue
        head, _, tail = text.rpartition(")")
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


async def assert_works(j: Jail) -> None:
    with trio.fail_after(10):
        assert (await j.run(["echo", "alive"])).stdout == b"alive\n"
