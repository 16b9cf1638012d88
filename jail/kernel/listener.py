"""A seccomp filter's listener: seccomp_unotify(2). It belongs to the supervisor."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import threading
from contextlib import suppress
from typing import Final, NamedTuple

from jail.agent.kernel import open_listener
from jail.kernel.process import PR_SET_NO_NEW_PRIVS, prctl

NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
"""``struct seccomp_notif``: id, pid, flags, then ``struct seccomp_data``"""
RESPONSE: Final = struct.Struct("=QqiI")
"""``struct seccomp_notif_resp``: id, val, error, flags"""
SECCOMP_IOCTL_NOTIF_RECV: Final = 3 << 30 | NOTIFICATION.size << 16 | 0x21 << 8
SECCOMP_IOCTL_NOTIF_SEND: Final = 3 << 30 | RESPONSE.size << 16 | 0x21 << 8 | 1
SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 1 << 30 | 8 << 16 | 0x21 << 8 | 2
SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 1 << 30 | 8 << 16 | 0x21 << 8 | 4
SECCOMP_USER_NOTIF_FLAG_CONTINUE: Final = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: Final = 1
NOTHING: Final = bytes(NOTIFICATION.size)
"""the kernel wants it zeroed"""


class Notification(NamedTuple):
    """A call that waits: ``pid`` is the thread's, as we see it."""

    id: int
    pid: int
    nr: int
    arch: int
    args: tuple[int, int, int, int, int, int]


def is_listener(fd: int) -> bool:
    """By the name that the kernel gives it: that of a file begins with a slash."""
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"


def is_listener_taken() -> bool:
    """Whether a filter above us has one, so that we can't: tried in a thread that ends with it.

    A filter and no_new_privs are a thread's own: seccomp(2), prctl(2).
    """
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_try_listener()))
    thread.start()
    thread.join()
    return found == [True]


def _try_listener() -> bool:
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        os.close(open_listener(allow))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def receive_notification(fd: int) -> Notification | None:
    """One that waits, if any does: never blocks, as long as nobody else reads this listener.

    OSError (EPIPE) when nobody is left under the filter.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    for _, events in poll.poll(0):
        if events & select.POLLIN:
            return _receive(fd)
        if events & (select.POLLHUP | select.POLLERR):
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    return None


def _receive(fd: int) -> Notification | None:
    # The kernel wants it zeroed.
    buffer = bytearray(NOTIFICATION.size)
    try:
        fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, buffer, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):  # killed, or taken back for a signal
            return None
        raise
    number, pid, _, nr, arch, _, *args = NOTIFICATION.unpack(buffer)
    a, b, c, d, e, f = args
    return Notification(number, pid, nr, arch, (a, b, c, d, e, f))


def answer(fd: int, number: int, code: int) -> bool:
    """The call fails with this errno; False when nobody waits for it any more."""
    return _send(fd, RESPONSE.pack(number, 0, -code, 0))


def let_go_on(fd: int, number: int) -> bool:
    """The call is made, with the arguments that its registers have.

    What they point to may be another thing by then: only who decides by the registers may do this.
    """
    return _send(fd, RESPONSE.pack(number, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE))


def is_waiting(fd: int, number: int) -> bool:
    """Whether it is still the same call of the same thread, so that its pid was of no other."""
    try:
        fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, number.to_bytes(8, "little"))
    except OSError:
        return False
    return True


def _send(fd: int, response: bytes) -> bool:
    try:
        fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, response)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def prefer_same_processor(fd: int) -> None:
    """Who asks and who answers take turns anyway: one processor does for both (Linux 6.6)."""
    with suppress(OSError):
        fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)


def receive_raw(fd: int) -> bytes:
    """A ``struct seccomp_notif``, for which this waits; NOTIFICATION unpacks it."""
    return fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, NOTHING)


def send_raw(fd: int, response: bytes) -> None:
    """A ``struct seccomp_notif_resp``, as RESPONSE packs it."""
    fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, response)
