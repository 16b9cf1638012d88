"""Making a cgroup the parent of jails, and giving it back as it was.

Below the parent sits whoever clones: the zygote. CLONE_INTO_CGROUP asks for the right to write
``cgroup.procs`` of the cgroup that both, the cloner's and the jail's, are below (clone(2)). The
supervisor is moved only out of the parent itself, which may have no processes of its own as soon
as it hands on controllers (cgroups(7), “no internal processes”).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

import trio

from jail.cgroup import file
from jail.cgroup.grant import WANTED
from jail.cgroup.name import Owner, make_host_name
from jail.cgroup.sweep import end_cgroup, kill_cgroup, remove_cgroup, remove_empty, sweep

LOCK_TIMEOUT_S: Final = 2.0
LOCK_LOOK_S: Final = 0.01
_added: dict[Path, frozenset[str]] = {}
"""the controllers that this process enabled, for its last user of the parent to take back"""


class Arrangement:
    """One zygote's use of a parent cgroup. Owns its descriptors; made by :func:`arrange`."""

    def __init__(self, path: Path, owner: Owner, prefix: str) -> None:
        self.path = path
        self.prefix = prefix
        self.controllers: frozenset[str] = frozenset()
        self._owner = owner
        self._host = path / make_host_name(owner)
        self._lock_fds: list[int] = []

    async def lock_parent(self) -> None:
        """Shared among all that use it: who can have it alone is the last."""
        self._lock_fds.append(await lock_shared(self.path))

    async def sweep(self) -> None:
        await sweep(self.path, self._owner)

    async def join(self, zygote_pid: int) -> None:
        """The zygote's cgroup, locked as a sign that its owner lives, and who must be in it."""
        file.make_directory(self._host)
        self._lock_fds.append(await lock_shared(self._host))
        file.write_value(self._host, "cgroup.procs", str(zygote_pid))
        is_root = not file.read_value(self.path, "cgroup.type")
        if os.getpid() in file.read_pids(self.path) and not is_root:
            file.write_value(self._host, "cgroup.procs", str(os.getpid()))

    def enable(self) -> None:
        """One write for each, so that one that is refused doesn't cost the others."""
        refusal = 0
        before = file.read_words(self.path, "cgroup.subtree_control")
        for name in sorted(WANTED & file.read_words(self.path, "cgroup.controllers") - before):
            try:
                file.write_value(self.path, "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                refusal = error.errno or 0
        after = file.read_words(self.path, "cgroup.subtree_control")
        _added[self.path] = _added.get(self.path, frozenset()) | (after - before)
        self.controllers = WANTED & after
        if not self.controllers:
            raise OSError(refusal or errno.ENODEV, os.strerror(refusal or errno.ENODEV))

    def _list_jails(self) -> list[Path]:
        return [e for e in file.list_directories(self.path) if e.name.startswith(self.prefix)]

    async def end_jails(self) -> None:
        """Waits for the dying, in bounds."""
        for each in self._list_jails():
            await end_cgroup(each)

    def undo(self) -> None:
        """Never fails: the parent may have gone, with a unit that was stopped under us."""
        for each in self._list_jails():
            kill_cgroup(each)
            remove_cgroup(each)
        if self._is_last():
            self._give_back()
        remove_empty(self._host)
        while self._lock_fds:
            os.close(self._lock_fds.pop())

    def _is_last(self) -> bool:
        """No other zygote, of whatever supervisor, and no cgroup that needs the controllers."""
        if not self._lock_fds or set(file.list_directories(self.path)) - {self._host}:
            return False
        try:
            fcntl.flock(self._lock_fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _give_back(self) -> None:
        """If we sat in the parent nothing was enabled before us, and all of it was for jails."""
        seat = file.read_seat(os.getpid())
        was_moved = seat is not None and seat[1] == self._host
        added = _added.pop(self.path, frozenset())
        enabled = file.read_words(self.path, "cgroup.subtree_control")
        for name in sorted(enabled & (WANTED if was_moved else added)):
            self._write("cgroup.subtree_control", f"-{name}")
        if was_moved:
            for pid in file.read_pids(self._host):  # with us those whom we have started since
                self._write("cgroup.procs", str(pid))

    def _write(self, name: str, text: str) -> None:
        try:
            file.write_value(self.path, name, text)
        except OSError:
            return


async def arrange(path: Path, owner: Owner, prefix: str, zygote_pid: int) -> Arrangement:
    """Sweeps, moves and enables; OSError, and nothing of it left, where the kernel refuses."""
    arrangement = Arrangement(path, owner, prefix)
    try:
        await arrangement.lock_parent()
        await arrangement.sweep()
        await arrangement.join(zygote_pid)
        arrangement.enable()
    except BaseException:
        arrangement.undo()
        raise
    return arrangement


async def lock_shared(folder: Path) -> int:
    """The locked descriptor. Anybody who may read the directory can lock it: not for ever."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with trio.fail_after(LOCK_TIMEOUT_S):
            while not _try_lock(fd):  # noqa: ASYNC110 - nobody tells when a lock is given up
                await trio.sleep(LOCK_LOOK_S)
    except trio.TooSlowError:
        os.close(fd)
        raise OSError(errno.EAGAIN, f"{folder} is locked by another process") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
