"""A living jail stands still, or goes on: by its cgroup, whoever opened it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from jail.cgroup.leaf import Leaf
from jail.errors import HostError, SpecError, blame_host
from jail.stats.find import PROC, Living, read_jails
from jail.stats.look import DIRECTORY, open_leaf

NO_CGROUP = "jail {pid} has no cgroup of its own, and can't be paused without one"


def freeze_jails(pids: Sequence[int], frozen: bool) -> None:
    """All of them, or none where one isn't there, isn't ours or has no cgroup."""
    jails = read_own_jails(pids)
    leaves: list[Leaf] = []
    try:
        for each in jails:
            leaf = open_leaf(each.pid)
            if leaf is None:
                raise HostError(NO_CGROUP.format(pid=each.pid), step="cgroup")
            leaves.append(leaf)
        trio.run(_freeze, leaves, frozen)
    finally:
        for leaf in leaves:
            leaf.close()


async def _freeze(leaves: list[Leaf], frozen: bool) -> None:
    for leaf in leaves:
        with blame_host("cgroup cgroup.freeze"):
            await leaf.freeze(frozen)


def read_own_jails(pids: Sequence[int]) -> list[Living]:
    """SpecError that names the first that is none of ours."""
    proc_fd = os.open(PROC, DIRECTORY)
    try:
        jails = {each.pid: each for each in read_jails(proc_fd)}
    finally:
        os.close(proc_fd)
    for pid in pids:
        if pid not in jails:
            raise SpecError(f"no jail has the pid {pid}; “jail stats” lists those that live")
        if jails[pid].uid != os.getuid():
            raise SpecError(
                f"jail {pid} is not yours: the user with the id {jails[pid].uid} runs it"
            )
    return [jails[pid] for pid in dict.fromkeys(pids)]
