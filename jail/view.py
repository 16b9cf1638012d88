"""What a run knows of the jail it runs in, and no more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jail import watch
from jail.session import Session


@dataclass
class JailView:
    """Shared by a jail's runs. The fds are the jail's, and -1 until it is built."""

    session: Session
    init_pid: int
    enforced_by: Mapping[str, str]
    kill: Callable[[], None]
    """kills the whole jail, synchronously"""
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

    @functools.cached_property
    def agent_peak_bytes(self) -> int:
        """The agent's own greatest resident set when the first run ended."""
        return watch.read_peak(self.proc_fd, 1)
