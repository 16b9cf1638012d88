"""``jail run --explain``: a plan in words, every step of it, for a person to check. Pure."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterable, Iterator, Sequence

from jail import landlock
from jail.kernel import mount, process
from jail.launchplan import (
    Bind,
    BindScratch,
    LaunchPlan,
    MakeDir,
    MakeLinks,
    Mount,
    MountDev,
    MountProc,
    Seal,
    Step,
    WriteFiles,
)
from jail.network.show import describe_network, list_network
from jail.plan import UNLIMITED_DISK, Plan
from jail.policy.gap import find_gaps
from jail.units import format_size

NAMESPACES = {
    process.CLONE_NEWUSER: "user",
    process.CLONE_NEWNS: "mount",
    process.CLONE_NEWPID: "pid",
    process.CLONE_NEWNET: "net",
    process.CLONE_NEWIPC: "ipc",
    process.CLONE_NEWUTS: "uts",
    process.CLONE_NEWCGROUP: "cgroup",
    process.CLONE_NEWTIME: "time",
}
ATTRIBUTES = {
    mount.MOUNT_ATTR_RDONLY: "ro",
    mount.MOUNT_ATTR_NOSUID: "nosuid",
    mount.MOUNT_ATTR_NODEV: "nodev",
    mount.MOUNT_ATTR_NOEXEC: "noexec",
}
RLIMITS = {
    getattr(resource, name): name.removeprefix("RLIMIT_").lower()
    for name in dir(resource)
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
RIGHTS = {
    landlock.READ & ~landlock.EXECUTE: "read",
    landlock.EXECUTE: "execute",
    landlock.CHANGE & ~landlock.WRITE_FILE: "make, move, remove",
    landlock.WRITE_FILE: "write",
    landlock.DEVICE & ~landlock.WRITE_FILE: "device ioctls",
}
INSTRUCTION_BYTES = 8


def format_plan(plan: Plan, argv: Sequence[str] = ()) -> str:
    """The whole of it, a heading a part."""
    launch = plan.launch
    parts = {
        "program": [" ".join(argv)] if argv else [],
        "namespaces": [
            ", ".join(name for flag, name in NAMESPACES.items() if plan.clone_flags & flag)
        ],
        "ids": describe_ids(plan),
        "root": describe_root(launch),
        "file system, in this order": [describe_step(step, launch) for step in launch.steps],
        "network": list(describe_network(plan.spec, plan.network)),
        "working directory": [launch.workdir],
        "environment": [f"{name}={value}" for name, value in plan.env.items()],
        "rlimits (soft, hard)": describe_rlimits((*launch.rlimits, *plan.program_rlimits)),
        "seccomp": describe_filter(plan),
        "landlock (a place and all below it)": list(describe_landlock(launch)),
        "cgroup": describe_cgroup(plan),
        "limits and what holds them": [f"{k}: {v}" for k, v in plan.enforced_by.items()],
        "weaker than it could be": [*plan.warnings, *plan.notes],
    }
    return "\n".join(_format_parts(parts))


def format_plan_json(plan: Plan) -> str:
    """What the builder gets, on one line; of the filter its digest."""
    wire = plan.launch.to_wire()
    wire["gate"] = plan.launch.gate is not None
    wire["filter"] = hashlib.sha256(plan.launch.filter).hexdigest()
    names = [name for flag, name in NAMESPACES.items() if plan.clone_flags & flag]
    more = {"namespaces": names, "env": dict(plan.env), "enforced_by": dict(plan.enforced_by)}
    more |= {"ids": plan.ids, "warnings": list(plan.warnings), "notes": list(plan.notes)}
    more["network"] = list_network(plan.spec, plan.network)
    cgroup = None if plan.grant is None else plan.grant.path
    settings = [[each.file, each.value] for each in plan.settings]
    parts = {**wire, **more, "cgroup": cgroup, "cgroup_settings": settings}
    return json.dumps(parts, default=lambda data: data.decode("utf-8", "replace"))


def _format_parts(parts: dict[str, list[str]]) -> Iterator[str]:
    for heading, lines in parts.items():
        if lines:
            yield f"{heading}:"
            yield from (f"  {line}" for line in lines)


def describe_ids(plan: Plan) -> list[str]:
    """Who is who."""
    uid, gid = plan.launch.program
    lines = [f"program: {uid}:{gid} ({plan.user.name})"]
    if plan.ids == "single":
        return [*lines, "on the host: your own id, and no other is mapped"]
    lines.append("on the host: a slice of your subordinate ids that no other living jail has")
    if plan.user_as is not None:
        lines.append("you yourself: {}:{} inside".format(*plan.user_as))
    return lines


def describe_root(launch: LaunchPlan) -> list[str]:
    """The root filesystem and the cap on what is written."""
    root = launch.root
    if root.lower is None:
        kind = "an empty tmpfs"
    elif root.overlay:
        kind = f"overlay over {launch.sources[root.lower].path}; what is written is thrown away"
    else:
        kind = f"{launch.sources[root.lower].path}, read-only"
    capped = root.disk_bytes < UNLIMITED_DISK
    size = f"{format_size(root.disk_bytes)}, {root.inodes} inodes" if capped else "unlimited"
    own = [f"/{path} of its own, whatever that has there" for path, _ in root.files]
    return [kind, *own, f"written data together: {size}"]


def describe_step(step: Step, launch: LaunchPlan) -> str:
    """One line a step."""
    match step:
        case MakeDir(path, mode):
            return f"mkdir /{path} ({mode:04o})"
        case MakeLinks(links):
            return "link " + ", ".join(f"/{path} -> {target}" for path, target in links)
        case WriteFiles(files):
            return "write " + ", ".join(f"/{path}" for path, _ in files)
        case Bind(source, path, attr):
            return f"bind {launch.sources[source].path} on /{path} ({describe_attr(attr)})"
        case BindScratch(_, path, mode):
            return f"scratch directory on /{path} ({mode:04o})"
        case Mount(fstype, path, options, attr):
            words = ",".join(k if v is None else f"{k}={v}" for k, v in options.items())
            return f"{fstype} on /{path} ({describe_attr(attr)}; {words})"
        case MountDev(devices, _, queues):
            own = "pts, mqueue and shm" if queues else "pts and shm"
            return f"/dev with {', '.join(devices)}, its own {own}"
        case MountProc(hidden, protected):
            return f"/proc without {', '.join(hidden)}; read-only {', '.join(protected)}"
        case Seal(path):
            return f"make /{path} itself read-only"


def describe_attr(attr: int) -> str:
    return ",".join(name for flag, name in ATTRIBUTES.items() if attr & flag) or "as it is"


def describe_rlimits(rlimits: Iterable[tuple[int, int, int]]) -> list[str]:
    def show(value: int) -> str:
        return "unlimited" if value == -1 else str(value)

    return [f"{RLIMITS[number]}: {show(soft)}, {show(hard)}" for number, soft, hard in rlimits]


def describe_cgroup(plan: Plan) -> list[str]:
    """Where its leaf will be, and what is written to it; or why there is none."""
    if plan.grant is None:
        return ["none: nothing is delegated here (see jail doctor)", *plan.passed_over]
    controllers = ", ".join(sorted(plan.grant.controllers)) or "no controllers"
    origins = {
        "given": f"a leaf of its own in {plan.grant.path}",
        "own": f"a leaf of its own in {plan.grant.path}, the cgroup that this is run in",
        "scope": "a leaf of its own in a scope that the user's systemd is asked for",
    }
    lines = [f"{origins[plan.grant.origin]} ({controllers})"]
    lines += [f"{each.file} = {each.value}" for each in plan.settings]
    if plan.enforced_by["memory"] == "cgroup":
        lines.append("memory.max is then narrowed to the limit and what the agent itself has")
    return lines


def describe_filter(plan: Plan) -> list[str]:
    """How long it is, who has it, and what it leaves open that the shipped ones close."""
    name, launch = plan.spec.seccomp, plan.launch
    if plan.policy is None:
        return [f"{name}: no filter"]
    sizes = [len(each) // INSTRUCTION_BYTES for each in (launch.program_filter, launch.filter)]
    if launch.program_filter:
        lines = [f"{name}: {sizes[0]} instructions, loaded for each program before it runs"]
        lines.append(f"the agent, which needs more, has a wider one of {sizes[1]} instructions")
    else:
        lines = [f"{name}: {sizes[1]} instructions, which the agent is under as well"]
    lines.append("no_new_privs, every capability dropped")
    lines.append("what it refuses is asked the supervisor, answered, and told in the result")
    gaps = find_gaps(plan.policy.read_rules(plan.target), plan.target)
    return [*lines, *(f"it leaves open: {each}" for each in gaps)]


def describe_landlock(launch: LaunchPlan) -> Iterator[str]:
    """The rules: what is at a place, and at all below it; and what no rule lets through."""
    wall = launch.landlock
    if wall is None:
        yield "none: this kernel has no Landlock, or too old a one (see jail doctor)"
        return
    for path, access in wall.rules:
        words = [word for rights, word in RIGHTS.items() if access & rights]
        yield f"/{path}: {', '.join(words)}"
    yield "nothing else with any file"
    if wall.scoped:
        yield "signals and abstract sockets: those of the jail alone"
    if wall.handled_net:
        yield "no TCP"
    for path in landlock.find_unheld(launch):
        yield f"/{path} is read-only by its mount alone: what is above it can be written"
