"""make_plan(spec, facts, …) → :class:`Plan`: every mount, id, limit and filter is decided here.

Pure: what had to be looked at comes in as arguments.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from jail import idmap, user
from jail.agent import wire
from jail.cgroup.grant import Grant
from jail.cgroup.setting import (
    DeviceThrottle,
    Setting,
    check_cpus,
    check_room,
    make_settings,
)
from jail.errors import HostError, SpecError
from jail.host import HostFacts
from jail.kernel import mount, process
from jail.landlock import decide_landlock
from jail.launchplan import (
    Bind,
    BindScratch,
    LaunchPlan,
    MakeLinks,
    Mount,
    MountDev,
    MountProc,
    Root,
    Seal,
    Source,
    Step,
    WriteFiles,
)
from jail.mechanism import (
    check_required,
    decide_affinity,
    decide_mechanisms,
    describe_unheld,
    make_program_rlimits,
    make_rlimits,
)
from jail.network.decide import (
    NetworkPlan,
    choose_driver,
    decide_network,
    describe_open_network,
)
from jail.network.hosts import Files, make_name_files, wants_names
from jail.policy.filters import Filters
from jail.policy.load import Policy
from jail.policy.rule import Target
from jail.source import MERGED_USR, HostTree, SourceFacts
from jail.spec import DEFAULT_PATH, JailSpec

NOSUID_NODEV: Final = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
READ_ONLY: Final = mount.MOUNT_ATTR_RDONLY

MIN_KERNEL: Final = (5, 14)
UNLIMITED_DISK: Final = 2**40
BYTES_PER_INODE: Final = 4096

HIDDEN: Final = (
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "pressure",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
)
PROTECTED: Final = ("bus", "fs", "irq", "sys", "sysrq-trigger")
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
DEV_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


@dataclass(frozen=True)
class Inputs:
    """What the edge looked at for one spec: sources in the order of ``spec.volumes``."""

    host_tree: HostTree | None
    rootfs: SourceFacts | None
    rootfs_dirs: frozenset[str]
    """names of directories at the top of the root filesystem"""
    volumes: tuple[SourceFacts, ...]
    devices: tuple[str, ...]
    passwd: str
    group: str
    filters: Filters
    policy: Policy | None = None
    """that the filters were made of; None where there are none"""
    grant: Grant | None = None
    """where the jail's own cgroup will be"""
    passed_over: tuple[str, ...] = ()
    """why there is none, or none of the places that are better"""
    throttles: tuple[DeviceThrottle, ...] = ()
    resolv_conf: str = ""
    """the host's own, where the jail has a network"""
    has_uplink: bool = True
    """it has a default route"""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is done."""

    spec: JailSpec
    launch: LaunchPlan
    clone_flags: int
    ids: str
    """``subuid`` or ``single``"""
    zygote: str
    """the same, or ``root``: see :func:`decide_zygote`"""
    user: user.User
    user_as: tuple[int, int] | None
    env: Mapping[str, str]
    program_rlimits: tuple[tuple[int, int, int], ...]
    enforced_by: Mapping[str, str]
    warnings: tuple[str, ...]
    """what is weaker here than it could be, and nobody asked for it"""
    notes: tuple[str, ...]
    """what is weaker because it was asked for"""
    grant: Grant | None
    passed_over: tuple[str, ...]
    settings: tuple[Setting, ...]
    """what is written to the jail's own cgroup"""
    policy: Policy | None
    """of the system calls"""
    target: Target
    """what that is read for"""
    network: NetworkPlan

    @functools.cached_property
    def frame(self) -> bytes:
        """The launch plan as the one message that init reads."""
        try:
            return wire.pack_frame(wire.Setup(wire.PROTOCOL_VERSION, self.launch.to_wire()))
        except wire.WireError:
            raise SpecError("too many volumes, or too long paths: more than a plan holds") from None

    def make_idmap(self, slot: int, facts: HostFacts) -> idmap.IdMap:
        """The maps, once a slice is leased (``slot`` is ignored where there are none)."""
        program = (self.user.uid, self.user.gid)
        if self.ids == "single":
            own = (idmap.OUTER_USER_ID,) * 2 if self.zygote == "root" else (facts.uid, facts.gid)
            return idmap.make_single(*own, program)
        return idmap.make_slice(slot, program, self.user_as)


def make_plan(spec: JailSpec, facts: HostFacts, inputs: Inputs) -> Plan:
    """Decide. Raises SpecError (the caller's fault) or HostError (this host's)."""
    _refuse_old_kernel(facts)
    who = user.find_user(spec.user, inputs.passwd, inputs.group)
    ids = decide_ids(spec, facts)
    user_as = decide_user_as(spec, facts, inputs, who) if ids == "subuid" else None
    network = decide_network(spec, facts, inputs.resolv_conf, inputs.has_uplink)
    held_by = ids, inputs.grant, facts.landlock_abi, network.driver
    enforced_by = decide_mechanisms(spec, *held_by)
    check_required(spec.require, enforced_by, inputs.passed_over)
    check_cpus(spec.limits, facts.cpus)
    if inputs.grant is not None:
        check_room(spec.limits, inputs.grant)
    sources: list[Source] = []
    names = make_name_files(spec, network, inputs.resolv_conf)
    steps = _make_steps(spec, facts, inputs, who, sources, names)
    launch = LaunchPlan(
        sources=tuple(sources),
        root=_make_root(spec, inputs, sources, names if wants_names(spec) else ()),
        steps=steps,
        builder=(0, 0) if ids == "subuid" else (who.uid, who.gid),
        program=(who.uid, who.gid),
        drops_groups=ids == "subuid",
        hostname=spec.hostname,
        rlimits=make_rlimits(spec.limits, enforced_by),
        filter=inputs.filters.agent,
        workdir=spec.workdir,
        program_filter=inputs.filters.program,
        listens=inputs.filters.listens,
        traces=inputs.filters.traces,
        cpus=decide_affinity(spec.limits, enforced_by),
        gate=network.gate,
        landlock=decide_landlock(
            steps,
            find_bound_files(spec, inputs),
            facts.landlock_abi,
            refuses_tcp=inputs.filters.refuses_tcp,
        ),
    )
    launch = launch._replace(sources=tuple(sources))
    return Plan(
        spec=spec,
        launch=launch,
        clone_flags=make_clone_flags(spec, facts),
        ids=ids,
        zygote=decide_zygote(spec, facts, inputs),
        user=who,
        user_as=user_as,
        env=make_env(spec, who),
        program_rlimits=make_program_rlimits(spec.limits),
        enforced_by=enforced_by,
        warnings=make_warnings(spec, facts, ids, enforced_by),
        notes=make_notes(spec),
        grant=inputs.grant,
        passed_over=inputs.passed_over,
        settings=make_leaf_settings(spec, inputs),
        policy=inputs.policy,
        target=facts.target,
        network=network,
    )


def decide_ids(spec: JailSpec, facts: HostFacts) -> str:
    """``subuid`` where ranges and helpers are there and ``single`` wasn't asked for."""
    slices = idmap.count_slices(facts.subuids, facts.subgids) if facts.can_map_subids else 0
    return "subuid" if spec.userns == "auto" and slices > 0 else "single"


def decide_zygote(spec: JailSpec, facts: HostFacts, inputs: Inputs) -> str:
    """Whose child the jail is: ``ids``, or ``root`` for one id inside an outer user namespace.

    slirp4netns builds its sandbox as id 0 of a user namespace over the jail's network. Where there
    is one id, the jail's has none, so there is a namespace between it and the host, in which the
    user is 0 and nobody else is anybody. No other network costs a jail that.
    """
    ids = decide_ids(spec, facts)
    driver = choose_driver(spec, facts, inputs.has_uplink)
    return "root" if ids == "single" and driver == "slirp4netns" else ids


def decide_user_as(
    spec: JailSpec, facts: HostFacts, inputs: Inputs, who: user.User
) -> tuple[int, int] | None:
    """Which id inside is the invoking user on the host.

    The program, where it writes the user's own files; else root, where the root filesystem is
    the user's, so that its files have an owner inside and can be changed (in the upper layer);
    else nobody.
    """
    if any(not volume.read_only for volume in spec.volumes):
        return who.uid, who.gid
    if inputs.rootfs is not None and inputs.rootfs.uid == facts.uid:
        return 0, 0
    return None


def find_bound_files(spec: JailSpec, inputs: Inputs) -> frozenset[str]:
    """Where in the jail a volume is a single file."""
    pairs = zip(spec.volumes, inputs.volumes, strict=True)
    return frozenset(volume.target[1:] for volume, seen in pairs if not seen.is_dir)


def make_leaf_settings(spec: JailSpec, inputs: Inputs) -> tuple[Setting, ...]:
    """Nothing where there is no leaf."""
    if inputs.grant is None:
        return ()
    return make_settings(spec.limits, inputs.grant, inputs.throttles)


def make_clone_flags(spec: JailSpec, facts: HostFacts) -> int:
    """Every namespace, but for the ones that were asked away or that this kernel lacks."""
    flags = (
        process.CLONE_NEWUSER
        | process.CLONE_NEWNS
        | process.CLONE_NEWPID
        | process.CLONE_NEWIPC
        | process.CLONE_NEWUTS
        | process.CLONE_NEWCGROUP
    )
    if spec.network != "host":
        flags |= process.CLONE_NEWNET
    if facts.time_ns:
        flags |= process.CLONE_NEWTIME
    return flags


def make_env(spec: JailSpec, who: user.User) -> dict[str, str]:
    """Built from nothing; the spec's own come last."""
    home = "/root" if who.uid == 0 and spec.rootfs != "host" else spec.workdir
    base = {"PATH": DEFAULT_PATH, "HOME": home, "USER": who.name, "LANG": "C.UTF-8"}
    return {**base, "HOSTNAME": spec.hostname, **spec.env}


def make_warnings(
    spec: JailSpec, facts: HostFacts, ids: str, enforced_by: Mapping[str, str]
) -> tuple[str, ...]:
    """A sentence for each thing that this host can't do as well as others."""
    warnings = describe_unheld(enforced_by)
    if ids == "single" and spec.userns == "auto":
        warnings.append(
            "one id only: no subordinate ids or no newuidmap; jails share the user's id"
        )
    if ids == "single" and len(set(facts.groups) - {facts.gid}) > 0:
        warnings.append(
            "supplementary groups stay on the program's processes: without newgidmap the kernel "
            "lets nobody drop them, so what the groups may read of a volume is readable"
        )
    return tuple(warnings)


def make_notes(spec: JailSpec) -> tuple[str, ...]:
    """A sentence for each wall that was asked away."""
    notes = list(describe_open_network(spec))
    if spec.seccomp == "unconfined":
        notes.append("seccomp unconfined: the whole system-call surface of the kernel is open")
    return tuple(notes)


def _make_root(spec: JailSpec, inputs: Inputs, sources: list[Source], names: Files) -> Root:
    disk = spec.limits.disk_bytes or UNLIMITED_DISK
    points = ("proc", "dev", "tmp", *_default_workdir(spec))
    lower = None
    if inputs.rootfs is not None:
        lower = _add_source(sources, inputs.rootfs)
    given = {target[1:] for target in spec.targets}
    # Nothing is written to a read-only root that has every mount point already.
    is_whole = spec.read_only and {*points, *given} <= inputs.rootfs_dirs
    files = () if lower is None else names
    return Root(
        lower=lower,
        overlay=bool(files) or not is_whole,
        read_only=spec.read_only,
        disk_bytes=disk,
        inodes=min(max(disk // BYTES_PER_INODE, 1024), 2**24),
        mount_points=points,
        files=files,
    )


def _make_steps(
    spec: JailSpec,
    facts: HostFacts,
    inputs: Inputs,
    who: user.User,
    sources: list[Source],
    names: Files,
) -> tuple[Step, ...]:
    steps: list[Step] = []
    if inputs.host_tree is not None:
        steps += _show_host(inputs.host_tree, spec, who, sources, names)
    steps.append(MountDev(inputs.devices, DEV_LINKS, facts.mqueue))
    steps.append(BindScratch("shm", "dev/shm", 0o1777))
    steps.append(_make_proc(facts))
    steps += _make_scratch(spec)
    given: list[Bind | Mount] = []
    for volume, seen in zip(spec.volumes, inputs.volumes, strict=True):
        attr = NOSUID_NODEV | (READ_ONLY if volume.read_only else 0)
        given.append(Bind(_add_source(sources, seen), volume.target[1:], attr))
    given += [_make_tmpfs(each.target, each.size_bytes, spec) for each in spec.tmpfs]
    # What lies in another one after it, or it would be covered.
    given.sort(key=lambda step: step.path.count("/"))
    steps += given
    if inputs.host_tree is not None or spec.read_only:
        steps.append(Seal(""))
    return tuple(steps)


def _show_host(
    tree: HostTree, spec: JailSpec, who: user.User, sources: list[Source], names: Files
) -> list[Step]:
    passwd, group = user.make_passwd(who, spec.workdir)
    files = (
        ("etc/passwd", passwd),
        ("etc/group", group),
        *names,
        ("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    )
    steps: list[Step] = [WriteFiles(files), MakeLinks(tree.links)]
    attr = NOSUID_NODEV | READ_ONLY
    steps += [Bind(_add_source(sources, seen), path, attr) for path, seen in tree.binds]
    return steps


def _make_proc(facts: HostFacts) -> MountProc:
    """Masked and read-only parts, as the OCI runtimes have them (of those that exist)."""
    there = set(facts.proc_sensitive)
    return MountProc(
        tuple(name for name in HIDDEN if name in there),
        tuple(name for name in PROTECTED if name in there),
    )


def _make_scratch(spec: JailSpec) -> list[Step]:
    steps: list[Step] = []
    if "/tmp" not in spec.targets:
        steps.append(BindScratch("tmp", "tmp", 0o1777))
    for name in _default_workdir(spec):
        steps.append(BindScratch("work", name, 0o755))
    return steps


def _default_workdir(spec: JailSpec) -> tuple[str, ...]:
    """The working directory made for the program, unless it lies in something that was given."""
    given = ("/proc", "/dev", "/usr", "/etc", *(f"/{name}" for name in MERGED_USR), *spec.targets)
    workdir = spec.workdir
    if workdir in ("/", "/tmp") or any(workdir == g or workdir.startswith(g + "/") for g in given):
        return ()
    if spec.rootfs != "host" and workdir != "/work":
        return ()
    return (workdir[1:],)


def _make_tmpfs(target: str, size_bytes: int | None, spec: JailSpec) -> Mount:
    size = size_bytes or spec.limits.disk_bytes or UNLIMITED_DISK
    inodes = min(max(size // BYTES_PER_INODE, 16), 2**24)
    options: dict[str, str | None] = {
        "size": str(size),
        "nr_inodes": str(inodes),
        "mode": "1777",
    }
    return Mount("tmpfs", target[1:], options, NOSUID_NODEV)


def _add_source(sources: list[Source], seen: SourceFacts) -> int:
    sources.append(seen.source)
    return len(sources) - 1


def _refuse_old_kernel(facts: HostFacts) -> None:
    if facts.kernel < MIN_KERNEL:
        raise HostError(
            f"Linux {facts.kernel_release} is too old: jail needs {MIN_KERNEL[0]}.{MIN_KERNEL[1]} "
            "(mount_setattr, overlay in user namespaces)",
            step="kernel",
            errno=errno.ENOSYS,
        )
