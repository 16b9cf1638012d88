"""FOLDER: makes things of every kind there, and tries every way to make them set-id."""

import ctypes
import json
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable

folder = sys.argv[1]
os.chdir(folder)
libc = ctypes.CDLL(None, use_errno=True)
made, set_id = 0, []


def make(name: str) -> str:
    global made
    made += 1
    with open(name, "w") as file:
        file.write("#!/bin/sh\nid\n")
    return name


def check(answer: int) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")


make("plain")
os.mkdir("plain_dir")
os.mkdir("dir")
os.symlink("/etc/passwd", "link")
os.link("plain", "plain_twin")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.chmod(make("executable"), 0o777)
with open("sparse", "w") as sparse:
    sparse.truncate(1 << 24)
made += 5

MODE = 0o6755
CALLS = {
    "x86_64": {"fchmodat2": 452, "openat2": 437},
    "aarch64": {"fchmodat2": 452, "openat2": 437},
}
numbers = CALLS[os.uname().machine]
how = struct.pack("=QQQ", os.O_CREAT | os.O_WRONLY, MODE, 0)
capability = struct.pack("<IIIII", 0x02000001, *[0xFFFFFFFF] * 4)
acl = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 7, who)
    for tag, who in (
        (1, 0xFFFFFFFF),
        (2, 3333),
        (4, 0xFFFFFFFF),
        (16, 0xFFFFFFFF),
        (32, 0xFFFFFFFF),
    )
)


def append_to_old() -> None:
    with open("old", "a") as file:
        file.write("more")
    if not os.stat("old").st_mode & 0o6000:
        raise OSError("the bits have gone, as they must")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "chmod": lambda: os.chmod(make("a"), MODE),
    "chmod_dir": lambda: os.chmod("dir", MODE),
    "fchmod": lambda: os.fchmod(os.open(make("c"), os.O_RDONLY), MODE),
    "fchmodat": lambda: os.chmod(make("d"), MODE, dir_fd=os.open(".", os.O_RDONLY)),
    "fchmodat2": lambda: check(
        libc.syscall(numbers["fchmodat2"], -100, make("e").encode(), MODE, 0)
    ),
    "open": lambda: os.close(os.open("f", os.O_CREAT | os.O_WRONLY, MODE)),
    "creat": lambda: check(libc.creat(b"g", MODE)),
    "openat2": lambda: check(libc.syscall(numbers["openat2"], -100, b"h", how, len(how))),
    "tmpfile": lambda: os.close(os.open(".", os.O_TMPFILE | os.O_WRONLY, MODE)),
    "mkdir": lambda: os.mkdir("i", 0o2755),
    "mknod": lambda: os.mknod("j", stat.S_IFREG | MODE),
    "install": lambda: subprocess.run(["install", "-m", "4755", "plain", "k"], check=True),
    "old": append_to_old,
    "capability": lambda: os.setxattr(make("l"), "security.capability", capability),
    "trusted": lambda: os.setxattr(make("m"), "trusted.overlay.opaque", b"y"),
    "stranger_acl": lambda: os.setxattr(make("n"), "system.posix_acl_access", acl),
    "chown": lambda: os.chown(make("o"), 3333, 3333),
    "chgrp": lambda: os.chown(make("p"), -1, 5),
}
os.umask(0)
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        set_id.append(name)
    except (OSError, subprocess.CalledProcessError):
        continue
print(json.dumps({"made": made, "set_id": set_id}))
