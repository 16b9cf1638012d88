"""Which files of /proc can be opened for writing; those of process 1, written to, too.

Some of the latter are open to all, but take only what a process writes of itself.
"""

import json
import os

found = []
for where, folders, files in os.walk("/proc"):
    if where == "/proc":
        others = {name for name in folders if name.isdigit()} | {"self", "thread-self", "net"}
        folders[:] = [name for name in folders if name == "1" or name not in others]
    folders[:] = [name for name in folders if name not in ("fd", "map_files")]
    for name in files:
        path = f"{where}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
        try:
            if path.startswith("/proc/1/"):
                os.write(fd, b"1")
            found.append(path)
        except OSError:
            pass
        finally:
            os.close(fd)
print(json.dumps(found))
