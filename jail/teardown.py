"""The end of inits: killed at once, waited for in the background, counted.

What an init's death takes is the kernel's time: its memory, its mounts, its namespaces. Nobody
has to wait for that who knows that nothing else of the jail is left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import trio

from jail.background import Background
from jail.cgroup.leaf import Leaf
from jail.kernel.process import kill_pidfd
from jail.slot import SlotPool

MAX_DYING = 16
"""so many may be on their way; the next one is waited for"""
END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Init:
    """PID 1 of a jail, from outside, and its leaf where it has one.

    ``slot`` is its slice of ids in ``slots``, if it has one.
    """

    pid: int
    pidfd: int
    leaf: Leaf | None = None
    slot: int = -1
    slots: SlotPool | None = None


class Teardown:
    """Owns the inits that are given to it. Its tasks end with ``background``."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._dying = 0
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Until none is on its way."""
        while self._dying:
            await self._waiting.park()

    async def end(self, init: Init, wait: bool) -> None:
        """Kill it, whoever is cancelled meanwhile; with ``wait`` it is gone when this returns."""
        kill_pidfd(init.pidfd)
        self._dying += 1
        if wait or self._dying > MAX_DYING:
            with trio.CancelScope(shield=True):
                await self._wait_gone(init)
        else:
            self._background.start_soon(self._wait_gone, init)

    async def _wait_gone(self, init: Init) -> None:
        """Bounded, for a host that is stuck: ids whose last owner may live stay leased."""
        gone = False
        try:
            with trio.move_on_after(END_TIMEOUT_S):
                await trio.lowlevel.wait_readable(init.pidfd)
                gone = True
                if init.leaf is not None:
                    # What can't be removed now the next start sweeps.
                    with suppress(OSError):
                        await init.leaf.remove()
        finally:
            if init.leaf is not None:
                init.leaf.close()
            self._dying -= 1
            self._waiting.unpark_all()
            os.close(init.pidfd)
            if gone and init.slots is not None:
                init.slots.release(init.slot)
