"""What the planner hands to the process that builds the jail: data only, msgpack-ready.

The zygote imports this, so it imports nothing of ours. A step is a tuple; ``zygote/fsops.py``
does what it says. Paths of steps are inside the new root, without a leading slash.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Source(NamedTuple):
    """A host path as it was when it was checked; the builder refuses anything else there."""

    path: str
    device: int
    inode: int


class MakeDir(NamedTuple):
    path: str
    mode: int


class MakeLink(NamedTuple):
    path: str
    target: str


class WriteFile(NamedTuple):
    path: str
    data: bytes


class Bind(NamedTuple):
    """Source number ``source`` onto ``path``, with MOUNT_ATTR_* ``attr`` on all of it."""

    source: int
    path: str
    attr: int


class BindScratch(NamedTuple):
    """A directory of the size-capped scratch filesystem onto ``path``."""

    name: str
    path: str
    mode: int


class Mount(NamedTuple):
    """A new filesystem onto ``path``."""

    fstype: str
    path: str
    options: dict[str, str | None]
    attr: int


class Hide(NamedTuple):
    """Cover a file with /dev/null, a directory with an empty one, read-only."""

    path: str


class Protect(NamedTuple):
    """Make what is at ``path`` read-only, everything below included."""

    path: str


class Seal(NamedTuple):
    """Make the one mount at ``path`` ("" is the root) read-only; mounts below keep their own say."""

    path: str


Step = MakeDir | MakeLink | WriteFile | Bind | BindScratch | Mount | Hide | Protect | Seal

STEPS: dict[str, type[Any]] = {
    each.__name__: each
    for each in (MakeDir, MakeLink, WriteFile, Bind, BindScratch, Mount, Hide, Protect, Seal)
}


class Root(NamedTuple):
    """The root filesystem: an empty tmpfs, or an overlay over source number ``lower``."""

    lower: int | None
    read_only: bool
    disk_bytes: int
    inodes: int
    mount_points: tuple[str, ...]
    """top-level directories that the overlay must have; a lower one that isn't one is refused"""


class LaunchPlan(NamedTuple):
    """Everything init does, in one value; the zygote itself reads only ``flags`` and the maps."""

    sources: tuple[Source, ...]
    root: Root
    steps: tuple[Step, ...]
    builder: tuple[int, int]
    program: tuple[int, int]
    drops_groups: bool
    hostname: str
    loopback: bool
    rlimits: tuple[tuple[int, int, int], ...]
    filter: bytes
    workdir: str

    def to_wire(self) -> dict[str, Any]:
        """Plain lists and maps."""
        plain = self._asdict()
        plain["steps"] = [[type(step).__name__, *step] for step in self.steps]
        return plain

    @classmethod
    def from_wire(cls, plain: dict[str, Any]) -> LaunchPlan:
        plain["sources"] = tuple(Source(*each) for each in plain["sources"])
        plain["root"] = Root(*plain["root"])
        plain["steps"] = tuple(STEPS[kind](*fields) for kind, *fields in plain["steps"])
        return cls(**plain)
