"""Slices of subordinate ids: each living jail has its own, across all of a user's supervisors."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from jail.errors import HostError

F_OFD_SETLK = 37


class SlotPool:
    """Byte locks on one file (``F_OFD_SETLK``, fcntl_locking(2)): a killed owner's go.

    ``fd`` may be inherited by a helper that has to outlive us: the locks last until both are gone.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.fd = os.open(folder / "slices", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._count = count
        self._ours: set[int] = set()
        self._start = os.getpid() % max(count, 1)

    def lease(self) -> int:
        """A slot nobody has; HostError when all are taken."""
        for step in range(self._count):
            slot = (self._start + step) % self._count
            if slot not in self._ours and self._lock(slot, fcntl.F_WRLCK):
                self._ours.add(slot)
                return slot
        raise HostError(
            f"all {self._count} slices of subordinate ids are in use",
            step="ids",
            remedy="wait for jails to end, or grant more: usermod --add-subuids (see jail doctor)",
        )

    def release(self, slot: int) -> None:
        self._ours.discard(slot)
        self._lock(slot, fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self.fd)

    def _lock(self, slot: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self.fd, F_OFD_SETLK, struct.pack("hhqqi0q", kind, 0, slot, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True
