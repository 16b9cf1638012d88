"""A delegated subtree as the planner sees it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """What the parent and its ancestors leave to a leaf: None is unlimited."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpuset: frozenset[int] | None = None


@dataclass(frozen=True)
class Grant:
    """``path`` is the parent of the leaves, ``controllers`` are those enabled for them.

    ``origin`` tells who gave it: ``given`` (``--cgroup-parent``), ``own`` (the cgroup we sit in)
    or ``scope`` (asked of the user's systemd).
    """

    origin: str
    path: str
    controllers: frozenset[str] = frozenset()
    room: Room = Room()
