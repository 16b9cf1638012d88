"""Which files of /proc, processes' own left out, can be opened for writing. Writes nothing."""

import json
import os

found = []
for where, folders, files in os.walk("/proc"):
    folders[:] = [name for name in folders if not name.isdigit() and where + name != "/procself"]
    if where == "/proc":
        folders[:] = [name for name in folders if name not in ("self", "thread-self", "net")]
    for name in files:
        path = f"{where}/{name}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError:
            continue
        found.append(path)
print(json.dumps(found))
