"""Which files of /proc can be opened for writing, process 1's among them. Writes nothing."""

import json
import os

found = []
for where, folders, files in os.walk("/proc"):
    if where == "/proc":
        others = {name for name in folders if name.isdigit()} | {"self", "thread-self", "net"}
        folders[:] = [name for name in folders if name == "1" or name not in others]
    if "attr" in folders:  # open to all, but takes only what a process writes of itself
        folders.remove("attr")
    for name in files:
        path = f"{where}/{name}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError:
            continue
        found.append(path)
print(json.dumps(found))
