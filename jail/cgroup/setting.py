"""What is written to a leaf before anything runs in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final, NamedTuple

from jail.cgroup.grant import Grant
from jail.errors import SpecError
from jail.limit import BLKIO_WEIGHT, CPU_SHARES, Limits, format_cpuset
from jail.units import format_size

MiB: Final = 1024 * 1024
PERIOD_US: Final = 100_000
LEAST_QUOTA_US: Final = 1_000
BUILDER_ROOM_BYTES: Final = 64 * MiB
"""above the program's limit while its jail is being built; what init had by then is what stays"""
AGENT_TASKS: Final = 1
PIDS_MOST: Final = 2**22
"""no kernel has more (PID_MAX_LIMIT, include/linux/threads.h), or takes a larger pids.max"""
CGROUP_WEIGHTS: Final = (1, 10_000)
BFQ_WEIGHTS: Final = (1, 1000)
CONTROLLERS: Final = {
    "memory": "memory",
    "pids": "pids",
    "cpus": "cpu",
    "cpu_shares": "cpu",
    "cpuset_cpus": "cpuset",
    "blkio_weight": "io",
    "throttles": "io",
}
"""the limits that a leaf can hold, and the controller that does it"""


class Setting(NamedTuple):
    """One write(2) to one file of the leaf; an ``optional`` file may be missing."""

    file: str
    value: str
    optional: bool = False


class DeviceThrottle(NamedTuple):
    """A line of ``io.max``: the device's numbers, a key, bytes or operations a second."""

    major: int
    minor: int
    key: str
    rate: int


def make_settings(
    limits: Limits, grant: Grant, throttles: tuple[DeviceThrottle, ...] = ()
) -> tuple[Setting, ...]:
    """In the order in which they are written; what no controller holds is left out."""
    settings: list[Setting] = []
    controllers = grant.controllers
    if "memory" in controllers:
        settings += _make_memory(limits)
    if "pids" in controllers and limits.pids is not None:
        settings.append(Setting("pids.max", str(min(limits.pids + AGENT_TASKS, PIDS_MOST))))
    if "cpu" in controllers:
        settings += _make_cpu(limits)
    if "cpuset" in controllers and limits.cpuset_cpus is not None:
        settings.append(Setting("cpuset.cpus", format_cpuset(limits.cpuset_cpus)))
    if "io" in controllers:
        settings += _make_io(limits, grant.files, throttles)
    return tuple(settings)


def _make_memory(limits: Limits) -> Iterator[Setting]:
    # One process of the jail alone, killed, would leave a program that goes on in pieces.
    yield Setting("memory.oom.group", "1")
    if limits.memory_bytes is not None:
        yield Setting("memory.max", str(limits.memory_bytes + BUILDER_ROOM_BYTES))
        # A kernel without swap has no such file, and needs none.
        yield Setting("memory.swap.max", "0", optional=True)


def _make_cpu(limits: Limits) -> Iterator[Setting]:
    if limits.cpus is not None:
        quota = max(LEAST_QUOTA_US, round(limits.cpus * PERIOD_US))
        yield Setting("cpu.max", f"{quota} {PERIOD_US}")
    if limits.cpu_shares is not None:
        weight = scale(limits.cpu_shares, CPU_SHARES, CGROUP_WEIGHTS)
        yield Setting("cpu.weight", str(weight))


def _make_io(
    limits: Limits, files: Set[str], throttles: tuple[DeviceThrottle, ...]
) -> Iterator[Setting]:
    if limits.blkio_weight is not None and "io.weight" in files:
        weight = scale(limits.blkio_weight, BLKIO_WEIGHT, CGROUP_WEIGHTS)
        yield Setting("io.weight", f"default {weight}")
    if limits.blkio_weight is not None and "io.bfq.weight" in files:
        yield Setting("io.bfq.weight", str(scale(limits.blkio_weight, BLKIO_WEIGHT, BFQ_WEIGHTS)))
    for each in throttles:
        yield Setting("io.max", f"{each.major}:{each.minor} {each.key}={each.rate}")


def narrow_memory(
    settings: tuple[Setting, ...], limits: Limits, builder_bytes: int
) -> tuple[Setting, ...] | None:
    """The same, without more room than the builder is known to take. None where that might be too
    little to build in: then it can be narrowed only when the jail is built.
    """
    if limits.memory_bytes is None or limits.memory_bytes < BUILDER_ROOM_BYTES:
        return None
    narrow = Setting("memory.max", str(limits.memory_bytes + builder_bytes))
    return tuple(narrow if each.file == narrow.file else each for each in settings)


def scale(value: int, source: tuple[int, int], target: tuple[int, int]) -> int:
    """From one range to another, ends to ends: what the OCI runtimes do with v1's numbers."""
    low, high = source
    first, last = target
    return first + (value - low) * (last - first) // (high - low)


def check_room(limits: Limits, grant: Grant) -> None:
    """SpecError for a limit that the parent's own, or the host's, would undercut.

    It would be the parent that is out of memory then, and the verdict wrong.
    """
    room, where, has = grant.room, f"the cgroup {grant.path}", grant.controllers
    if "memory" in has and _exceeds(limits.memory_bytes, room.memory_bytes):
        asked, left = format_size(limits.memory_bytes or 0), format_size(room.memory_bytes or 0)
        raise SpecError(f"memory: {asked} is more than {where} leaves: {left}; ask for less")
    tasks = None if limits.pids is None else limits.pids + AGENT_TASKS
    if "pids" in has and _exceeds(tasks, room.pids):
        left = str(max(0, (room.pids or 0) - AGENT_TASKS))
        raise SpecError(f"pids_limit: {limits.pids} is more than {where} leaves: {left}")
    if "cpu" in has and _exceeds(limits.cpus, room.cpus):
        raise SpecError(f"cpus: {limits.cpus:g} is more than {where} leaves: {room.cpus:g}")
    beyond = (limits.cpuset_cpus or frozenset()) - (room.cpuset or limits.cpuset_cpus or set())
    if "cpuset" in has and beyond:
        raise SpecError(
            f"cpuset_cpus: {format_cpuset(beyond)} is not among those of {where}: "
            f"{format_cpuset(room.cpuset or ())}"
        )


def _exceeds(asked: float | None, room: float | None) -> bool:
    return asked is not None and room is not None and asked > room


def check_cpus(limits: Limits, there: Set[int]) -> None:
    """SpecError for processors that aren't there, as docker has it."""
    if limits.cpus is not None and limits.cpus > len(there):
        raise SpecError(f"cpus: {limits.cpus:g}; there are {len(there)} to run on")
    if beyond := (limits.cpuset_cpus or frozenset()) - there:
        wanted, has = format_cpuset(beyond), format_cpuset(there)
        raise SpecError(f"cpuset_cpus: {wanted} is not among those to run on: {has}")
