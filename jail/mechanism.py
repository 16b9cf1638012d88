"""What holds each limit on this host, and what of it the kernel is told by setrlimit(2). Pure."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Final

from jail.cgroup.grant import Grant
from jail.cgroup.setting import CONTROLLERS
from jail.check import MAX_NUMBER, MiB
from jail.errors import HostError, SpecError
from jail.landlock import MIN_ABI
from jail.limit import THROTTLES, ULIMITS, Limits
from jail.spec import JailSpec

CEILING_ABOVE_MEMORY: Final = 1024 * MiB
OPEN_FILES: Final = (1024, 4096)
ONLY_BY_CGROUP: Final = ("cpus", "cpu_shares", "blkio_weight", *THROTTLES)
"""limits that nothing else can hold"""
REQUIRE_REMEDY: Final = {
    "cgroup": "see `jail doctor`: no delegated cgroup v2 here, or not all its controllers",
    "subuid": "see `jail doctor`: subordinate ids and newuidmap are missing on this host",
    "ruleset": "see `jail doctor`: no Landlock here, or too old a one",
    "filter": "ask for it: --network filtered, and --allow for what is to be reached",
}
NETWORKS: Final = {"none": "namespace", "host": "none", "filtered": "namespace+filter"}
"""of those without a helper program, what holds them"""
REQUIRE_STEP: Final = {"cgroup": "cgroup", "ruleset": "landlock"}
"""where the doctor has more to say"""


def decide_mechanisms(
    spec: JailSpec,
    ids: str,
    grant: Grant | None = None,
    landlock_abi: int = 0,
    network: str = "none",
) -> dict[str, str]:
    """Per limit, what holds it on this host (``+`` where there are two).

    ``network`` is the driver. A helper program limits nothing but by its own rules: it is named.
    """
    limits = spec.limits
    chosen = {
        "memory": "watch+rlimit" if limits.memory_bytes else "none",
        "cpu_time": "watch" if limits.cpu_time_s else "none",
        "wall_time": "supervisor" if limits.wall_time_s else "none",
        "pids": "rlimit" if limits.pids else "none",
        "output": "supervisor" if limits.output_bytes else "none",
        "disk": "tmpfs+rlimit" if limits.disk_bytes else "none",
        "ids": ids,
        "network": NETWORKS.get(network, f"namespace+{network}"),
        "seccomp": "none" if spec.seccomp == "unconfined" else "filter",
        "landlock": "ruleset" if landlock_abi >= MIN_ABI else "none",
    }
    for name, _, _ in limits.ulimits:
        chosen.setdefault(name, "rlimit")
    chosen |= decide_shares(limits)
    if grant is not None:
        chosen |= decide_by_cgroup(limits, grant)
    return chosen


def decide_shares(limits: Limits) -> dict[str, str]:
    """Those that are there only where they were asked for, without a cgroup."""
    keys = {each.key for each in limits.throttles}
    asked = {
        "cpus": limits.cpus is not None,
        "cpu_shares": limits.cpu_shares is not None,
        "blkio_weight": limits.blkio_weight is not None,
        **{word: key in keys for word, key in THROTTLES.items()},
    }
    chosen = {name: "none" for name, is_asked in asked.items() if is_asked}
    if limits.cpuset_cpus is not None:
        chosen["cpuset_cpus"] = "affinity"
    return chosen


def decide_by_cgroup(limits: Limits, grant: Grant) -> dict[str, str]:
    """What a leaf with these controllers holds of it."""
    chosen = {}
    if limits.cpu_time_s:
        chosen["cpu_time"] = "cgroup"  # cpu.stat is there without any controller: cgroup-v2.rst
    held = {
        "memory": limits.memory_bytes is not None,
        "pids": limits.pids is not None,
        **dict.fromkeys(decide_shares(limits), True),
    }
    for name, is_asked in held.items():
        controller = CONTROLLERS["throttles" if name in THROTTLES else name]
        is_there = name != "blkio_weight" or bool(grant.files)
        if is_asked and is_there and controller in grant.controllers:
            chosen[name] = "cgroup"
    return chosen


def check_required(
    require: Mapping[str, str], enforced_by: Mapping[str, str], passed_over: tuple[str, ...] = ()
) -> None:
    """HostError where a limit is held by less than ``--require`` asks."""
    for limit, mechanism in require.items():
        if limit not in enforced_by:
            raise SpecError(f"require {limit}: there is {', '.join(sorted(enforced_by))}")
        if mechanism in enforced_by[limit].split("+"):
            continue
        texts = [f"require {limit}={mechanism}: here {limit} is enforced by {enforced_by[limit]}"]
        if mechanism == "cgroup":
            texts += passed_over
        step = REQUIRE_STEP.get(mechanism, "require")
        raise HostError("; ".join(texts), step=step, remedy=REQUIRE_REMEDY.get(mechanism))


def describe_unheld(enforced_by: Mapping[str, str]) -> list[str]:
    """A sentence for what was asked for and nothing holds here."""
    unheld = [name for name in ONLY_BY_CGROUP if enforced_by.get(name) == "none"]
    texts = [f"{name}: no delegated cgroup with its controller; not limited" for name in unheld]
    if enforced_by.get("cpuset_cpus") == "affinity":
        texts.append("cpuset_cpus: by affinity, which the program may change: sched_setaffinity(2)")
    return texts


def decide_affinity(limits: Limits, enforced_by: Mapping[str, str]) -> tuple[int, ...]:
    """The processors that init binds itself to."""
    if limits.cpuset_cpus is None or enforced_by.get("cpuset_cpus") != "affinity":
        return ()
    return tuple(sorted(limits.cpuset_cpus))


def make_rlimits(
    limits: Limits, enforced_by: Mapping[str, str]
) -> tuple[tuple[int, int, int], ...]:
    """(resource, soft, hard) of the jail, its agent included; -1 is unlimited."""
    chosen: dict[int, tuple[int, int]] = {
        # 1, not 0: a core_pattern that is a pipe ignores 0 and honours 1, see core(5).
        resource.RLIMIT_CORE: (1, 1),
        resource.RLIMIT_RTPRIO: (0, 0),
        resource.RLIMIT_NICE: (0, 0),
    }
    if limits.pids is not None:
        chosen[resource.RLIMIT_NOFILE] = OPEN_FILES
        chosen[resource.RLIMIT_SIGPENDING] = (1024, 1024)
    if enforced_by["pids"] == "rlimit" and limits.pids is not None:
        # The agent counts too: it has the program's id.
        tasks = min(limits.pids + 1, MAX_NUMBER)
        chosen[resource.RLIMIT_NPROC] = (tasks, tasks)
    if limits.disk_bytes is not None:
        chosen[resource.RLIMIT_FSIZE] = (limits.disk_bytes, limits.disk_bytes)
    if enforced_by["memory"] != "cgroup" and limits.memory_bytes is not None:
        ceiling = min(limits.memory_bytes + CEILING_ABOVE_MEMORY, MAX_NUMBER)
        chosen[resource.RLIMIT_DATA] = (ceiling, ceiling)
    for name, _, hard in limits.ulimits:
        # Those are the program's alone, set when it starts; here only room is made for them.
        if (number := ULIMITS[name]) in chosen:
            low, high = chosen[number]
            chosen[number] = (low, -1 if -1 in (high, hard) else max(high, hard))
    return tuple((number, soft, hard) for number, (soft, hard) in sorted(chosen.items()))


def make_program_rlimits(limits: Limits) -> tuple[tuple[int, int, int], ...]:
    """What was asked for by ``--ulimit``: it may be less than the agent itself needs."""
    return tuple((ULIMITS[name], soft, hard) for name, soft, hard in limits.ulimits)
