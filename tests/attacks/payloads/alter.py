"""FOLDER [WAY]: tries to change what lies in it, takes back what it could, says what came of it.

WAY is the path that it is reached by, where that is another one than its own. There must be
``file``, its other name ``spare``, and ``sub`` in it.
"""

import json
import os
import sys
from collections.abc import Callable

folder = sys.argv[1]
way = sys.argv[2] if len(sys.argv) > 2 else folder
path = f"{way}/file"


def put(flags: int, where: str = path) -> None:
    fd = os.open(where, flags, 0o666)
    os.close(fd)


def made(name: str, make: Callable[[str], object]) -> Callable[[], None]:
    def make_and_remove() -> None:
        make(f"{way}/{name}")
        if name == "folder":
            os.rmdir(f"{way}/{name}")
        else:
            os.unlink(f"{way}/{name}")

    return make_and_remove


def there_and_back(name: str) -> Callable[[], None]:
    def move() -> None:
        os.rename(path, f"{way}/{name}")
        os.rename(f"{way}/{name}", path)

    return move


def by_descriptor(flags: int) -> None:
    fd = os.open(path, flags)
    put(os.O_WRONLY, f"/proc/self/fd/{fd}")
    os.close(fd)


def by_folder() -> None:
    fd = os.open(way, os.O_PATH | os.O_DIRECTORY)
    put(os.O_WRONLY, f"/proc/self/fd/{fd}/file")
    os.close(fd)


def unlink() -> None:
    os.unlink(path)
    os.link(f"{way}/spare", path)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write": lambda: put(os.O_WRONLY),
    "append": lambda: put(os.O_WRONLY | os.O_APPEND),
    "truncate": lambda: os.truncate(path, os.stat(path).st_size),
    "reopen": lambda: by_descriptor(os.O_RDONLY),
    "reopen_path": lambda: by_descriptor(os.O_PATH),
    "reopen_folder": by_folder,
    "create": made("new", lambda where: put(os.O_WRONLY | os.O_CREAT, where)),
    "mkdir": made("folder", os.mkdir),
    "mkfifo": made("fifo", os.mkfifo),
    "symlink": made("link", lambda where: os.symlink("/etc/passwd", where)),
    "link": made("hard", lambda where: os.link(path, where)),
    "link_across": made("sub/hard", lambda where: os.link(path, where)),
    "rename": there_and_back("other"),
    "rename_across": there_and_back("sub/other"),
    "unnamed": lambda: os.close(os.open(way, os.O_WRONLY | os.O_TMPFILE, 0o600)),
    "unlink": unlink,
}
answers = {}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        answers[name] = "OK"
    except OSError as error:
        answers[name] = os.strerror(error.errno or 0)
print(json.dumps(answers))
