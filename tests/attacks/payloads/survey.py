"""[FOLDER]: looks for needles (hex, a line each, on stdin) in all of /proc that can be read."""

import json
import os
import re
import sys

MOST = 1 << 20
SKIPPED = {"kmsg", "mem", "pagemap", "clear_refs", "kpagecgroup", "kpagecount", "kpageflags"}
KERNEL_ADDRESS = re.compile(rb"\bffff[0-9a-f]{12}\b")
VSYSCALL = b"ffffffffff600000"


def read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    data = b""
    try:
        while len(data) < MOST and (more := os.read(fd, 65536)):
            data += more
    except OSError:
        pass
    finally:
        os.close(fd)
    return data


def follow(path: str) -> bytes:
    try:
        return os.readlink(path).encode()
    except OSError:
        return b""


needles = {word: bytes.fromhex(word) for word in sys.stdin.read().split()}
found: dict[str, list[str]] = {word: [] for word in needles}
addresses, size = [], 0
for where, folders, files in os.walk(sys.argv[1] if sys.argv[1:] else "/proc"):
    if where == "/proc":
        folders[:] = [name for name in folders if name != "sys"]
    folders[:] = [name for name in folders if name != "map_files"]
    for name in folders + files:
        path = f"{where}/{name}"
        data = follow(path) if os.path.islink(path) else b""
        if not data and name in files and name not in SKIPPED:
            data = read(path)
        size += len(data)
        for word, needle in needles.items():
            if needle in data:
                found[word].append(path)
        if VSYSCALL not in data and KERNEL_ADDRESS.search(data):
            addresses.append(path)
print(json.dumps({"found": found, "addresses": addresses, "size": size}))
