"""PATH…: how many bytes each shows; a directory, how many names below it; none: -1."""

import json
import os
import sys

MOST = 65536


def measure(path: str) -> int:
    try:
        if os.path.isdir(path):
            return sum(len(folders) + len(files) for _, folders, files in os.walk(path))
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return len(os.read(fd, MOST))
        finally:
            os.close(fd)
    except OSError:
        return -1


print(json.dumps({path: measure(path) for path in sys.argv[1:]}))
