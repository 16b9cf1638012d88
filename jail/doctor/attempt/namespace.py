"""Each namespace by itself, and all of them at once."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from jail.doctor.attempt.base import (
    NAMESPACES,
    Attempt,
    Setting,
    at,
    enter,
    enter_user_namespace,
    map_own_id,
)
from jail.kernel import process

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def try_user_namespace(setting: Setting) -> str:
    enter_user_namespace()
    return ""


def try_uid_map(setting: Setting) -> str:
    map_own_id(setting)
    return ""


def make_namespace_attempt(kind: str) -> Attempt:
    def attempt(setting: Setting) -> str:
        enter(setting, kind)
        return ""

    return attempt


def try_everything(setting: Setting) -> str:
    """All namespaces by one clone, as jails are made."""
    flags = sum(flag for kind, flag in NAMESPACES.items() if kind != "time")
    with at("clone"):
        pid, _ = process.fork_into(flags)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return ""


def try_host_name(setting: Setting) -> str:
    enter(setting, "uts")
    with at("sethostname"):
        socket.sethostname("jail")
    return ""


def try_loopback(setting: Setting) -> str:
    enter(setting, "net")
    request = struct.pack("=16sH22x", b"lo", _IFF_UP)
    with at("lo up"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
    return ""
