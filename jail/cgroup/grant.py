"""What a delegated subtree has to give: pure data, for those who decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

WANTED: Final = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
"""the controllers that a jail has a limit or an account for"""
WEIGHTS: Final = ("io.weight", "io.bfq.weight")
"""of these a kernel has what its disk schedulers have: blk-iocost the first, bfq the second"""


class PassedOver(Exception):
    """This candidate for a subtree is none, and why."""


@dataclass(frozen=True)
class Room:
    """What the parent and its ancestors leave: None is unlimited.

    ``cpus`` is the smallest quota of ``cpu.max``, in processors. ``cpuset`` is what
    ``cpuset.cpus.effective`` names, None without that file.
    """

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpuset: frozenset[int] | None = None


@dataclass(frozen=True)
class Grant:
    """A delegated subtree as the planner sees it.

    ``origin`` is ``"given"`` (by the caller), ``"own"`` (we sat in it) or ``"scope"`` (the user's
    systemd made it); ``path`` is the parent of the jails' cgroups, ``controllers`` those of
    :data:`WANTED` that are enabled for its children.
    """

    origin: str
    path: str
    controllers: frozenset[str]
    room: Room = field(default_factory=Room)
    files: frozenset[str] = frozenset(WEIGHTS)
    """those of :data:`WEIGHTS` that this kernel has"""
