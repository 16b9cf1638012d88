"""Memory of a jail that need not be in any process's resident set: memfds, System V segments.

What is written to one and never mapped, or no longer, is in nobody's pages. A memfd is found by
its entry in ``/proc/PID/fdinfo`` (whose reader needs the right to ptrace, which the maker of a
user namespace has over all inside; ``/proc/PID/fd`` wants the very user, and a program can refuse
even him). How large it is, only the file itself tells.

Not found: a memfd that is mapped and closed, or that is on its way through a socket; and what
was touched in a shared anonymous mapping and then given back with MADV_DONTNEED.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from jail.kernel.process import pidfd_getfd

BLOCK_BYTES: Final = 512
NAMES_IN_MAPS: Final = (b"/memfd:", b"/SYSV")
SHM_RSS_FIELD, SHM_SWAP_FIELD = 14, 15


class Opened(NamedTuple):
    """A line of the table of open files, as ``fdinfo`` shows it: proc_pid_fdinfo(5)."""

    mount: int
    inode: int


def read_detached(init_pid: int, proc_fd: int, shm_fd: int, pids: Iterable[int]) -> int:
    """Bytes of the memfds that the processes have open and of all segments of the jail.

    A look at every descriptor of every process, so not for every look.
    """
    return _read_memfds(init_pid, proc_fd, pids) + read_segments(shm_fd)


def read_mapped(proc_fd: int, pids: Iterable[int]) -> int:
    """The part of these that is in a resident set, each page divided by its users."""
    return sum(count_mapped(_read(proc_fd, f"{pid}/smaps")) for pid in pids)


def read_most_possible(path: str = "/proc/meminfo") -> int:
    """All the memory of the host that could be such: no jail hides more."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = (line.split() for line in _read_all(fd).splitlines())
        found = {words[0]: int(words[1]) * 1024 for words in lines}
    finally:
        os.close(fd)
    swapped = found.get(b"SwapTotal:", 0) - found.get(b"SwapFree:", 0)
    return found.get(b"Shmem:", 2**63) + swapped


def read_segments(shm_fd: int) -> int:
    """In memory and in swap, attached or not: sysvipc(7).

    The list is that of the ipc namespace of who opened it: of init, before anything else ran.
    """
    lines = [line.split() for line in _read_all(shm_fd).splitlines()[1:]]
    return sum(int(words[SHM_RSS_FIELD]) + int(words[SHM_SWAP_FIELD]) for words in lines)


def count_mapped(smaps: bytes) -> int:
    """Of a text of proc_pid_smaps(5). By device as well: a program names its files as it likes."""
    total, counts = 0, False
    number = _read_own_memfd()[1]
    device = b"%02x:%02x" % (os.major(number), os.minor(number))
    for line in smaps.splitlines():
        head = line.split(b" ", 1)[0]
        if not head.endswith(b":"):
            words = line.split(None, 5)
            counts = words[3] == device and words[-1].startswith(NAMES_IN_MAPS)
        elif counts and head in (b"Pss:", b"SwapPss:"):
            total += int(line.split()[1]) * 1024
    return total


def parse_fdinfo(text: bytes) -> Opened | None:
    """None for what has been closed meanwhile."""
    found = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    try:
        return Opened(int(found[b"mnt_id"]), int(found[b"ino"]))
    except KeyError:
        return None


def _read_memfds(init_pid: int, proc_fd: int, pids: Iterable[int]) -> int:
    # Each inode once: the same memfd may be open in many places.
    places = {inode: (pid, fd) for inode, pid, fd in _find_memfds(proc_fd, pids)}
    if not places:
        return 0
    host_pids = dict(_find_host_pids(init_pid))
    return sum(
        _read_size(host_pids[pid], fd, inode)
        for inode, (pid, fd) in places.items()
        if pid in host_pids
    )


def _find_memfds(proc_fd: int, pids: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    mount = _read_own_memfd()[0]
    for pid in pids:
        for name in _list(proc_fd, f"{pid}/fdinfo"):
            opened = parse_fdinfo(_read(proc_fd, f"{pid}/fdinfo/{name}"))
            if opened is not None and opened.mount == mount:
                yield opened.inode, pid, int(name)


@functools.cache
def _read_own_memfd() -> tuple[int, int]:
    """(mount id, device) that all memfds have, which no file of another kind has."""
    fd = os.memfd_create("jail", os.MFD_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            opened = parse_fdinfo(file.read())
        return (opened.mount if opened else -1), os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _find_host_pids(init_pid: int) -> Iterator[tuple[int, int]]:
    """(pid inside, pid outside) of all below init, which is everything that lives in the jail."""
    waiting = [init_pid]
    while waiting:
        pid = waiting.pop()
        for task in _list(-1, f"/proc/{pid}/task"):
            waiting += map(int, _read(-1, f"/proc/{pid}/task/{task}/children").split())
        for line in _read(-1, f"/proc/{pid}/status").splitlines():
            if line.startswith(b"NSpid:"):
                yield int(line.split()[-1]), pid


def _read_size(host_pid: int, number: int, inode: int) -> int:
    """0 if that pid or that descriptor is somebody else's by now."""
    try:
        pidfd = os.pidfd_open(host_pid)
    except OSError:
        return 0
    try:
        fd = pidfd_getfd(pidfd, number)
    except OSError:
        return 0
    finally:
        os.close(pidfd)
    try:
        facts = os.fstat(fd)
    finally:
        os.close(fd)
    is_it = (facts.st_dev, facts.st_ino) == (_read_own_memfd()[1], inode)
    return facts.st_blocks * BLOCK_BYTES if is_it else 0


def _list(dir_fd: int, path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        return os.listdir(fd)
    except OSError:
        return []
    finally:
        os.close(fd)


def _read(dir_fd: int, path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return b""
    try:
        return _read_all(fd)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    """From the start, wherever the descriptor stands."""
    # /proc gives a page at a time, and a program may have 65,530 mappings: 64 MB of smaps. Bytes
    # that are added up would be copied 16,000 times.
    data = bytearray()
    try:
        while more := os.pread(fd, 65536, len(data)):
            data += more
    except OSError:  # ESRCH: it ended meanwhile
        pass
    return bytes(data)
