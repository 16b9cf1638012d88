"""One jail's cgroup, from outside: its limits, its books, its end."""

from __future__ import annotations

import errno
import os
import select
from contextlib import closing, suppress
from typing import Final

import trio

from jail.cgroup.account import RESOURCES, Account, make_account, parse_table

BRIEF: Final = ("cpu.stat", "memory.current", "memory.events", "pids.current", "pids.events")
"""what can end a run, or tells how near that is"""
FULL: Final = (
    *BRIEF,
    "memory.peak",
    "pids.peak",
    "io.stat",
    *(f"{each}.pressure" for each in RESOURCES),
)
PATIENCE_S: Final = 5.0
READ_BYTES: Final = 16 * 1024


class Leaf:
    """Made by the zygote, the supervisor's to remove. Owns ``fd``, its directory.

    Its files are opened for each look: a descriptor each would be five a jail.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd

    def read_account(self, full: bool = False) -> Account:
        """Its books now. OSError where it, or one of its controllers, has gone."""
        files = FULL if full else BRIEF
        texts = {name: self._read(name) for name in files}
        if texts["cpu.stat"] is None:
            raise FileNotFoundError(errno.ENOENT, "the jail's cgroup has gone", self.path)
        return make_account({name: text for name, text in texts.items() if text is not None})

    def write(self, name: str, value: str) -> None:
        """One write(2), which the kernel takes whole or not at all."""
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def kill(self) -> None:
        """All that is in it, at once: ``cgroup.kill``. One that has gone needs no killing."""
        with suppress(OSError):
            self.write("cgroup.kill", "1")

    def is_frozen(self) -> bool:
        """Every task of it stands still: whoever froze it."""
        return parse_table(self._read("cgroup.events") or "").get("frozen") == 1

    async def freeze(self, frozen: bool) -> None:
        """``cgroup.freeze``; returns when it is so. TimeoutError after five seconds.

        Whoever isn't told that it stands still doesn't know to make it go on.
        """
        self.write("cgroup.freeze", str(int(frozen)))
        try:
            await self._wait_for("frozen", int(frozen))
        except BaseException:
            with suppress(OSError):
                self.write("cgroup.freeze", "0")
            raise

    async def remove(self) -> None:
        """When nothing lives in it any more; OSError where that doesn't come to pass.

        Since Linux 6.19 a task leaves its cgroup a moment after its parent may know of its death.
        """
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        self.kill()
        await self._wait_for("populated", 0)
        with suppress(FileNotFoundError):
            os.rmdir(self.path)

    async def _wait_for(self, key: str, value: int) -> None:
        """Until ``cgroup.events`` says so. It tells of changes by POLLPRI: cgroups(7)."""
        events_fd = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            with closing(select.epoll()) as epoll, trio.fail_after(PATIENCE_S):
                epoll.register(events_fd, select.EPOLLPRI)
                while parse_table(os.pread(events_fd, READ_BYTES, 0).decode()).get(key) != value:
                    await trio.lowlevel.wait_readable(epoll.fileno())
        except trio.TooSlowError:
            raise TimeoutError(errno.ETIMEDOUT, f"{key} is not {value}", self.path) from None
        finally:
            os.close(events_fd)

    def _read(self, name: str) -> str | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            return os.read(fd, READ_BYTES).decode("ascii", "replace")
        except OSError as error:
            # ENODEV: removed after the open; EOPNOTSUPP: a kernel started with psi=0.
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            os.close(fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
