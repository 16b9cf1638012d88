"""Which calls name a file, and what they do with it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Final, NamedTuple

O_ACCMODE: Final = 3
O_CREAT: Final = 0o100
O_TRUNC: Final = 0o1000
O_TMPFILE: Final = 0o20000000
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_FDCWD: Final = -100
CWD: Final = -1
"""no argument says from where: from the working directory"""


NOT_SHOWN: Final = ("/dev", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/run", "/var/tmp")


class Name(NamedTuple):
    """One name in a call: the argument of the folder that it starts in, its own, and the use.

    ``use`` is one of ``note.USES``, or ``opened``: the flags tell. ``follows``: a link that is
    named is not what is used, but where it leads.
    """

    folder: int
    path: int
    use: str
    follows: bool


TEXT: Final = """
access           cwd 0 read
acct             cwd 0 written
chdir            cwd 0 read
chmod            cwd 0 written
chown            cwd 0 written
creat            cwd 0 created
execveat           0 1 executed
faccessat          0 1 read
faccessat2         0 1 read
fchmodat           0 1 written
fchmodat2          0 1 written
fchownat           0 1 written
futimesat          0 1 written
getxattr         cwd 0 read
getxattrat         0 1 read
inotify_add_watch cwd 1 read
lchown           cwd 0 written itself
lgetxattr        cwd 0 read itself
link             cwd 0 read itself
link             cwd 1 created itself
linkat             0 1 read itself
linkat             2 3 created itself
listxattr        cwd 0 read
listxattrat        0 1 read
llistxattr       cwd 0 read itself
lremovexattr     cwd 0 written itself
lsetxattr        cwd 0 written itself
lstat            cwd 0 read itself
mkdir            cwd 0 created itself
mkdirat            0 1 created itself
mknod            cwd 0 created itself
mknodat            0 1 created itself
name_to_handle_at  0 1 read
newfstatat         0 1 read
open             cwd 0 opened
open_tree          0 1 read
openat             0 1 opened
openat2            0 1 read
readlink         cwd 0 read itself
readlinkat         0 1 read itself
removexattr      cwd 0 written
removexattrat      0 1 written
rename           cwd 0 written itself
rename           cwd 1 created itself
renameat           0 1 written itself
renameat           2 3 created itself
renameat2          0 1 written itself
renameat2          2 3 created itself
rmdir            cwd 0 written itself
setxattr         cwd 0 written
setxattrat         0 1 written
stat             cwd 0 read
statfs           cwd 0 read
statx              0 1 read
symlink          cwd 1 created itself
symlinkat          1 2 created itself
truncate         cwd 0 written
unlink           cwd 0 written itself
unlinkat           0 1 written itself
uselib           cwd 0 read
utime            cwd 0 written
utimensat          0 1 written
utimes           cwd 0 written
"""


def _parse_text() -> dict[str, tuple[Name, ...]]:
    names: dict[str, tuple[Name, ...]] = {}
    for line in TEXT.split("\n")[1:-1]:
        call, folder, path, use, *itself = line.split()
        name = Name(CWD if folder == "cwd" else int(folder), int(path), use, not itself)
        names[call] = (*names.get(call, ()), name)
    return names


NAMES: Final = _parse_text()
FLAGS_OF_OPEN: Final = {"open": 1, "openat": 2}


def decide_use(flags: int) -> str:
    """What an open with these flags does with a file."""
    if flags & O_CREAT:
        return "created"
    if flags & (O_ACCMODE | O_TRUNC) or flags & O_TMPFILE == O_TMPFILE:
        return "written"
    return "read"


def settle_use(use: str, exists: bool | None) -> str:
    """The same when it was looked whether it is there; None: nobody knows."""
    if use == "created":
        return "written" if exists else "created"
    return "missing" if exists is False else use


def join_path(folder: str, name: str) -> str:
    """Without ``.`` and ``..``; as if no folder on the way were a link elsewhere."""
    return posixpath.normpath("/" + posixpath.join(folder, name).lstrip("/"))


def find_mount(path: str, targets: Iterable[str]) -> str | None:
    """The one of these mount points that it lies below, the nearest."""
    around = [each for each in targets if path == each or path.startswith(each.rstrip("/") + "/")]
    return max(around, key=len, default=None)


def propose_volumes(missing: Iterable[str]) -> list[str]:
    """Of what was looked for and is on the host, what could be shown.

    A folder that was looked for itself does for what is in it. Not what the jail has of its own,
    or what is the running host's rather than a program's.
    """
    chosen: list[str] = []
    for path in sorted(missing):
        if path != "/" and find_mount(path, (*chosen, *NOT_SHOWN)) is None:
            chosen.append(path)
    return chosen
