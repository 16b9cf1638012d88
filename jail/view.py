"""What a run knows of the jail it runs in, and no more."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from jail import watch
from jail.cgroup.account import Account
from jail.cgroup.leaf import Leaf
from jail.denied import Ledger
from jail.network.driver import Network
from jail.policy.judge import Judge
from jail.session import Session


class Clock:
    """A jail's time: the host's monotonic clock, less the time that the jail stood still."""

    def __init__(self) -> None:
        self._paused_s = 0.0
        self._since: float | None = None

    @property
    def is_paused(self) -> bool:
        return self._since is not None

    def note(self, is_paused: bool) -> None:
        """What has been seen of it, or done to it, just now."""
        now = trio.current_time()
        if is_paused and self._since is None:
            self._since = now
        elif not is_paused and self._since is not None:
            self._paused_s += now - self._since
            self._since = None

    def now(self) -> float:
        """Seconds."""
        until = trio.current_time() if self._since is None else self._since
        return until - self._paused_s


@dataclass
class JailView:
    """Shared by a jail's runs. The fds are the jail's, and -1 until it is built."""

    session: Session
    init_pid: int
    enforced_by: Mapping[str, str]
    kill: Callable[[], None]
    """kills the whole jail, synchronously"""
    leaf: Leaf | None = None
    """its cgroup, where it has one"""
    leaf_origin: str | None = None
    """who gave us the place: see :class:`jail.cgroup.grant.Grant`"""
    built: Account = field(default_factory=Account)
    """what making it took of that; the memory stays the agent's"""
    clock: Clock = field(default_factory=Clock)
    is_filtered: bool = False
    """its programs are under a filter that could tell what it refuses"""
    hears_all: bool = False
    """that is one filter for all of them, with one listener"""
    is_heard: bool = False
    """which has come"""
    listen: Callable[[int, Callable[[int], Iterable[Ledger]]], None] = lambda fd, _: os.close(fd)
    """attends a listener, which it owns: (fd, whose ledgers a thread's refusals are for)"""
    traces: bool = False
    """the agent traces its programs, and says what they were refused"""
    driver: str = "none"
    """what its network is made by"""
    network: Network | None = None
    """which tells what was tried, where it can"""
    judge: Judge | None = None
    """knows why"""
    running: dict[int, Any] = field(default_factory=dict)
    """the runs now under way, by number: :class:`jail.process.Process`"""
    is_built: bool = False
    proc_fd: int = -1
    init_stat_fd: int = -1
    scratch_fd: int = -1
    shm_fd: int = -1

    @property
    def is_shared(self) -> bool:
        """More than one run is under way."""
        return len(self.running) > 1

    def look_paused(self) -> bool:
        """Whether it stands still, whoever has made it."""
        if self.leaf is not None:
            self.clock.note(self.leaf.is_frozen())
        return self.clock.is_paused

    @functools.cached_property
    def agent_peak_bytes(self) -> int:
        """The agent's own greatest resident set when the first run ended."""
        return watch.read_peak(self.proc_fd, 1)
