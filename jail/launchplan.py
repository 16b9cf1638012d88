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
    """A directory and its parents, unless they are there."""

    path: str
    mode: int


class MakeLinks(NamedTuple):
    """Symbolic links: (path, target)."""

    links: tuple[tuple[str, str], ...]


class WriteFiles(NamedTuple):
    """New small files: (path, content)."""

    files: tuple[tuple[str, bytes], ...]


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


class MountDev(NamedTuple):
    """A small tmpfs on ``/dev`` with the host's own ``devices`` bound, links, pts and shm.

    A user namespace can't make device nodes: mknod(2). ``queues`` are POSIX message queues.
    """

    devices: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    queues: bool


class MountProc(NamedTuple):
    """A new proc; ``hidden`` entries are covered, ``protected`` ones made read-only."""

    hidden: tuple[str, ...]
    protected: tuple[str, ...]


class Seal(NamedTuple):
    """Make the one mount at ``path`` ("" is the root) read-only, not those below it."""

    path: str


Step = MakeDir | MakeLinks | WriteFiles | Bind | BindScratch | Mount | MountDev | MountProc | Seal

STEPS: dict[str, type[Any]] = {
    each.__name__: each
    for each in (
        MakeDir,
        MakeLinks,
        WriteFiles,
        Bind,
        BindScratch,
        Mount,
        MountDev,
        MountProc,
        Seal,
    )
}


class Root(NamedTuple):
    """The root filesystem: an empty tmpfs; or an overlay over source ``lower``, or itself."""

    lower: int | None
    overlay: bool
    read_only: bool
    disk_bytes: int
    inodes: int
    mount_points: tuple[str, ...]
    """top-level directories that the overlay must have; a lower one that isn't one is refused"""
    files: tuple[tuple[str, bytes], ...] = ()
    """(path, content) in the overlay, whatever the tree below has by that name"""


class Landlock(NamedTuple):
    """landlock(7): what the kernel refuses everybody in the jail, but for the rules.

    ``flags`` are those of landlock_restrict_self(2); a rule is (path inside, rights).
    """

    handled_fs: int
    handled_net: int
    scoped: int
    flags: int
    rules: tuple[tuple[str, int], ...]


class Gate(NamedTuple):
    """A network that leads to the supervisor alone: netlink messages, and what they name.

    ``routes`` one by one, ``ruleset`` in one batch; ``log`` is told to the socket that is logged
    to.
    """

    routes: tuple[bytes, ...]
    ruleset: tuple[bytes, ...]
    log: tuple[bytes, ...]
    port: int
    mark: int
    ipv6: bool


class LaunchPlan(NamedTuple):
    """Everything init does, in one value; the zygote itself reads only ``flags`` and the maps."""

    sources: tuple[Source, ...]
    root: Root
    steps: tuple[Step, ...]
    builder: tuple[int, int]
    program: tuple[int, int]
    drops_groups: bool
    hostname: str
    rlimits: tuple[tuple[int, int, int], ...]
    filter: bytes
    """the agent's, which every program inherits; b"" for none"""
    workdir: str
    program_filter: bytes = b""
    """what each program gets beside it"""
    listens: bool = False
    """what the program's filter, or the agent's where there is no other, refuses is asked"""
    traces: bool = False
    """a tracer is asked instead, the agent"""
    cpus: tuple[int, ...] = ()
    """the processors to run on, where nothing stronger than affinity holds it to them"""
    landlock: Landlock | None = None
    gate: Gate | None = None

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
        if plain["landlock"] is not None:
            *numbers, rules = plain["landlock"]
            plain["landlock"] = Landlock._make((*numbers, tuple(map(tuple, rules))))
        if plain["gate"] is not None:
            plain["gate"] = Gate(*plain["gate"])
        return cls(**plain)


SAMPLE_PLAN = LaunchPlan(
    sources=(Source("/usr", 1, 1),),
    root=Root(None, False, True, 1, 1, ("proc",), (("etc/hosts", b""),)),
    steps=(
        WriteFiles((("etc/passwd", b""),)),
        MakeLinks((("bin", "usr/bin"),)),
        Bind(0, "usr", 1),
        MountDev(("null",), (("fd", "/proc/self/fd"),), True),
        BindScratch("tmp", "tmp", 0o1777),
        MountProc(("keys",), ("sys",)),
        Mount("tmpfs", "tmp", {"size": "1"}, 1),
        Seal(""),
    ),
    builder=(0, 0),
    program=(1000, 1000),
    drops_groups=True,
    hostname="jail",
    rlimits=((1, 1, 1),),
    filter=b"",
    workdir="/work",
    cpus=(),
    landlock=Landlock(0, 0, 0, 0, (("", 1),)),
)
"""One step of each kind: what a spare init reads to warm up."""
