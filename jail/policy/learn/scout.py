"""What a call's pointers lead to: files and addresses, looked up in the program that waits.

Nothing is decided by it: another thread may change what is read here before the kernel reads it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from jail.kernel.file import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from jail.kernel.memory import TextReader, read_bytes
from jail.kernel.process import pidfd_getfd
from jail.policy.learn import address
from jail.policy.learn.note import MAX_PATHS as SHOWN_PATHS
from jail.policy.learn.note import Learned
from jail.policy.learn.path import AT_FDCWD, CWD, NAMES, Name, decide_use, join_path, settle_use
from jail.policy.learn.path import FLAGS_OF_OPEN as FLAGS

MAX_PATHS: Final = 50_000
ENOUGH_PATHS: Final = 10 * SHOWN_PATHS
MAX_ADDRESSES: Final = 1000
MAX_PIDFDS: Final = 64
KERNEL_S_OWN: Final = ("/dev", "/proc", "/sys")
"""what is there depends on who looks"""
PATH_FLAGS: Final = os.O_PATH | os.O_CLOEXEC
RESOLVE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
MESSAGE: Final = struct.Struct("=QI4xQQ")
"""``struct msghdr``: msg_name, msg_namelen, msg_iov, msg_iovlen"""
VECTOR: Final = struct.Struct("=QQ")
MMSG_BYTES: Final = 64
MAX_MESSAGES: Final = 4
KINDS: Final = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}

Args = tuple[int, ...]


class Scout:
    """Writes down in ``learned`` what it finds. Owns descriptors of the jail until closed."""

    def __init__(self, learned: Learned) -> None:
        self._learned = learned
        self._reader = TextReader()
        self._seen: set[tuple[str, bool, str, bytes]] = set()
        self._root_fd = -1
        self._pidfds: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        for fd in (self._root_fd, *self._pidfds.values()):
            if fd >= 0:
                os.close(fd)

    # -- files ------------------------------------------------------------------------------------

    def look_at_names(self, call: str, pid: int, args: Args) -> None:
        """The files that a call names."""
        flags = args[FLAGS[call]] if call in FLAGS else 0
        for name in NAMES[call]:
            self._look_at_name(name, flags, pid, args)

    def _look_at_name(self, name: Name, flags: int, pid: int, args: Args) -> None:
        if name.use == "read" and self._has_enough(name, args):
            return
        text = self._reader.read(pid, args[name.path])
        if not text:
            return  # AT_EMPTY_PATH: the folder's descriptor is what is meant; or it can't be read
        folder = "" if text.startswith(b"/") else self._find_folder(name, pid, args)
        use = decide_use(flags) if name.use == "opened" else name.use
        key = use, name.follows, folder, text
        if key in self._seen or len(self._seen) >= MAX_PATHS:
            return
        self._seen.add(key)
        self._note_path(use, join_path(folder, os.fsdecode(text)), pid, name.follows)

    def _has_enough(self, name: Name, args: Args) -> bool:
        """Of so many names only the folders are told, and an open folder is known already."""
        if len(self._seen) < ENOUGH_PATHS or name.folder == CWD:
            return False
        return _sign(args[name.folder]) != AT_FDCWD

    def _find_folder(self, name: Name, pid: int, args: Args) -> str:
        """Where a relative path begins, as the kernel names it."""
        number = AT_FDCWD if name.folder == CWD else _sign(args[name.folder])
        with suppress(OSError):
            if number == AT_FDCWD:
                return os.readlink(f"/proc/{pid}/cwd")
            fd = self._take_fd(pid, number)
            try:
                return os.readlink(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
        return ""

    def look_at_program(self, _call: str, pid: int, _args: Args) -> None:
        """What was executed, as the kernel names it; a script's is its interpreter."""
        with suppress(OSError):
            self._learned.paths.setdefault("executed", set()).add(os.readlink(f"/proc/{pid}/exe"))

    def _note_path(self, use: str, path: str, pid: int, follows: bool) -> None:
        exists: bool | None = None
        if not path.startswith(KERNEL_S_OWN):
            exists, path = self._look_for(path, pid, follows)
        self._learned.paths.setdefault(settle_use(use, exists), set()).add(path)

    def _look_for(self, path: str, pid: int, follows: bool) -> tuple[bool | None, str]:
        """Whether it is there, and its name without links."""
        try:
            flags = PATH_FLAGS if follows else PATH_FLAGS | os.O_NOFOLLOW
            fd = openat2(self._open_root(pid), path, flags, RESOLVE)
        except (FileNotFoundError, NotADirectoryError):
            return False, path
        except OSError:
            return None, path
        try:
            return True, os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def _open_root(self, pid: int) -> int:
        """The jail's: no program of it can have another one."""
        if self._root_fd < 0:
            self._root_fd = os.open(f"/proc/{pid}/root", PATH_FLAGS | os.O_DIRECTORY)
        return self._root_fd

    def _take_fd(self, pid: int, number: int) -> int:
        """A copy of a thread's descriptor."""
        for again in (True, False):
            try:
                return pidfd_getfd(self._find_pidfd(pid), number)
            except ProcessLookupError:  # remembered, and since then it has ended
                os.close(self._pidfds.pop(pid))
                if not again:
                    raise
        raise AssertionError

    def _find_pidfd(self, thread: int) -> int:
        if thread not in self._pidfds:
            if len(self._pidfds) >= MAX_PIDFDS:
                os.close(self._pidfds.popitem(last=False)[1])
            self._pidfds[thread] = os.pidfd_open(_find_process(thread))
        return self._pidfds[thread]

    # -- addresses --------------------------------------------------------------------------------

    def look_at_address(self, call: str, pid: int, args: Args) -> None:
        """The address that a call names, or the question that it sends to a name server."""
        if call in ("connect", "bind"):
            self._note_address("bind " if call == "bind" else "", pid, args[0], args[1], args[2])
        elif call == "sendto":
            self._note_address("", pid, args[0], args[4], args[5])
            self._note_question(pid, args[1], args[2])
        elif call == "sendmsg":
            self._look_at_message(pid, args[0], args[1])
        elif call == "sendmmsg":
            for index in range(min(args[2] & 0xFFFFFFFF, MAX_MESSAGES)):
                self._look_at_message(pid, args[0], args[1] + index * MMSG_BYTES)

    def _look_at_message(self, pid: int, fd: int, pointer: int) -> None:
        head = read_bytes(pid, pointer, MESSAGE.size)
        if len(head) < MESSAGE.size:
            return
        name, name_bytes, vectors, count = MESSAGE.unpack(head)
        self._note_address("", pid, fd, name, name_bytes)
        vector = read_bytes(pid, vectors, VECTOR.size) if count else b""
        if len(vector) == VECTOR.size:
            self._note_question(pid, *VECTOR.unpack(vector))

    def _note_address(self, verb: str, pid: int, fd: int, pointer: int, size: int) -> None:
        size = min(size & 0xFFFFFFFF, address.MAX_ADDRESS_BYTES)
        found = address.read_address(read_bytes(pid, pointer, size)) if pointer and size else ""
        if found and not found.startswith("unix "):
            found = f"{self._find_kind(pid, fd)} {found}"
        self._note_network(f"{verb}{found}" if found else "")

    def _note_question(self, pid: int, pointer: int, size: int) -> None:
        """Whoever it is sent to: a connected socket's call doesn't say."""
        if not address.DNS_HEAD.size < size <= address.MAX_QUESTION_BYTES:
            return
        if address.is_question(read_bytes(pid, pointer, address.DNS_HEAD.size)):
            name = address.read_question(read_bytes(pid, pointer, size))
            self._note_network(f"dns {name}" if name else "")

    def _note_network(self, text: str) -> None:
        if text and len(self._learned.network) < MAX_ADDRESSES:
            self._learned.network.add(text)

    def _find_kind(self, pid: int, number: int) -> str:
        with suppress(OSError):
            fd = self._take_fd(pid, _sign(number))
            with socket.socket(fileno=fd) as copy:
                return KINDS.get(copy.type, "ip")
        return "ip"


def _find_process(thread: int) -> int:
    """pidfd_open(2) takes no other thread than a process's first."""
    with open(f"/proc/{thread}/status", "rb") as file:
        return next(int(line[5:]) for line in file if line.startswith(b"Tgid:"))


def _sign(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - 2**32 if number >> 31 else number


ADDRESS_CALLS: Final = ("bind", "connect", "sendmmsg", "sendmsg", "sendto")
