"""What a run may use: pure data, in the kernel's units, from people's words."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from jail.check import MAX_NUMBER, MiB, check_host_path, check_list, check_number, check_text, show
from jail.errors import SpecError
from jail.units import UNLIMITED_WORDS, parse_count, parse_size, parse_time

ULIMITS: Final = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
"""``--ulimit`` names, docker's; ``cpu`` is ``--cpu-time``."""

CPU_SHARES: Final = (2, 262_144)
BLKIO_WEIGHT: Final = (10, 1000)
FEWEST_CPUS: Final = 0.01
MAX_CPU: Final = 65_535
THROTTLES: Final = {
    "device_read_bps": "rbps",
    "device_write_bps": "wbps",
    "device_read_iops": "riops",
    "device_write_iops": "wiops",
}
"""docker's words, and the keys of ``io.max``"""
_CPUS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Throttle:
    """At most ``rate`` (bytes or operations a second) of one block device; ``key`` is io.max's."""

    device: str
    key: str
    rate: int

    def __post_init__(self) -> None:
        check_host_path(self.device, "device")
        if self.key not in THROTTLES.values():
            raise SpecError(f"device limit {show(self.key)}: there is {', '.join(THROTTLES)}")
        check_number(self.rate, f"device {show(self.device)}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None is unlimited. Sizes in bytes, times in seconds.

    ``cpus`` is a share of time (1.5: one and a half processors' worth), ``cpuset_cpus`` the
    processors themselves; ``cpu_shares`` (2 to 262144, usually 1024) and ``blkio_weight`` (10 to
    1000) say who gets more where several want it.
    """

    memory_bytes: int | None = 512 * MiB
    cpu_time_s: float | None = 60.0
    wall_time_s: float | None = 120.0
    pids: int | None = 256
    output_bytes: int | None = 64 * MiB
    disk_bytes: int | None = 256 * MiB
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard); -1 is unlimited"""
    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset_cpus: frozenset[int] | None = None
    blkio_weight: int | None = None
    throttles: tuple[Throttle, ...] = ()

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "pids", "output_bytes", "disk_bytes"):
            check_number(getattr(self, name), name)
        for name in ("cpu_time_s", "wall_time_s", "cpus"):
            check_number(getattr(self, name), name, (int, float))
        for each in check_list(self.ulimits, "ulimits"):
            _check_ulimit(each)
        for each in check_list(self.throttles, "throttles"):
            _check_throttle(each)
        _check_range(self.cpu_shares, CPU_SHARES, "cpu_shares")
        _check_range(self.blkio_weight, BLKIO_WEIGHT, "blkio_weight")
        if self.cpus is not None and self.cpus < FEWEST_CPUS:
            raise SpecError(f"cpus: {self.cpus} is less than {FEWEST_CPUS}")
        _check_cpuset(self.cpuset_cpus)


def make_limits(base: Limits, **words: Any) -> Limits:
    """``base`` with the limits named in people's words changed."""
    changes: dict[str, Any] = {}
    throttles: list[Throttle] = []
    for word, value in words.items():
        if word == "ulimits":
            changes["ulimits"] = _parse_ulimits(value)
        elif word in THROTTLES:
            throttles += [parse_throttle(each, word) for each in check_list(value, word)]
        elif word in PARSERS:
            name, parse = PARSERS[word]
            unlimited = value is None or (isinstance(value, str) and value in UNLIMITED_WORDS)
            changes[name] = None if unlimited else parse(value, word)
        else:
            there = ", ".join(sorted((*PARSERS, *THROTTLES, "ulimits")))
            raise SpecError(f"{word}: no such option; there are {there}")
    if throttles:
        changes["throttles"] = tuple(throttles)
    return replace(base, **changes)


def parse_cpus(value: Any, what: str = "cpus") -> float:
    """``1.5``: so many processors' worth of time."""
    readable = isinstance(value, str | float) or (type(value) is int and 0 < value <= MAX_CPU)
    if not readable or not _CPUS.fullmatch(str(value)) or not float(value):
        raise SpecError(f"{what}: {show(value)} is no number of processors, such as 1.5")
    return float(value)


def parse_cpuset(value: Any, what: str = "cpuset_cpus") -> frozenset[int]:
    """``0-2,4``: the processors' numbers."""
    if isinstance(value, str):
        matches = [_CPU_RANGE.fullmatch(word) for word in value.split(",")]
        ranges = [(int(m[1]), int(m[2] or m[1])) for m in matches if m is not None]
        if None not in matches and all(low <= high <= MAX_CPU for low, high in ranges):
            return frozenset(n for low, high in ranges for n in range(low, high + 1))
    elif isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | Mapping):
        numbers = list(value)
        _check_cpus(numbers)
        return frozenset(numbers)
    raise SpecError(f"{what}: {show(value)} names no processors; write 0-2,4")


def format_cpuset(cpus: Iterable[int]) -> str:
    """``0,1,2,4``, as the kernel takes it."""
    return ",".join(map(str, sorted(cpus)))


def parse_throttle(value: Any, word: str) -> Throttle:
    """``/dev/sda:1mb`` (a size, or a count of operations) a second."""
    if isinstance(value, Throttle):
        return value
    device, _, rate = check_text(value, word).rpartition(":")
    if not device:
        raise SpecError(f"{word} {show(value)}: write DEVICE:RATE, such as /dev/sda:1mb")
    parse = parse_size if word.endswith("bps") else parse_count
    return Throttle(device, THROTTLES[word], parse(rate, word))


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """``nofile=64[:128]`` (soft, hard); -1 or ``unlimited`` lifts it."""
    name, _, bounds = check_text(text, "ulimit").partition("=")
    if name not in ULIMITS:
        raise SpecError(f"ulimit {show(name)}: there is {', '.join(sorted(ULIMITS))}")
    soft, _, hard = bounds.partition(":")
    low, high = _parse_bound(name, soft), _parse_bound(name, hard or soft)
    if high != -1 and (low == -1 or low > high):
        raise SpecError(f"ulimit {show(text)}: the soft limit is above the hard one")
    return name, low, high


PARSERS: Final[dict[str, tuple[str, Callable[[Any, str], Any]]]] = {
    "memory": ("memory_bytes", parse_size),
    "cpu_time": ("cpu_time_s", parse_time),
    "wall_time": ("wall_time_s", parse_time),
    "pids_limit": ("pids", parse_count),
    "output_limit": ("output_bytes", parse_size),
    "disk": ("disk_bytes", parse_size),
    "cpus": ("cpus", parse_cpus),
    "cpu_shares": ("cpu_shares", parse_count),
    "cpuset_cpus": ("cpuset_cpus", parse_cpuset),
    "blkio_weight": ("blkio_weight", parse_count),
}


def _parse_ulimits(value: Any) -> tuple[tuple[str, int, int], ...]:
    if isinstance(value, Mapping):
        return tuple(parse_ulimit(_join_ulimit(*item)) for item in value.items())
    return tuple(parse_ulimit(each) for each in check_list(value, "ulimits"))


def _join_ulimit(name: object, bound: object) -> str:
    if not isinstance(bound, str | int) or (type(bound) is int and abs(bound) > MAX_NUMBER):
        raise SpecError(f"ulimit {show(name)}: {show(bound)} is no limit")
    return f"{check_text(name, 'ulimit')}={bound}"


def _parse_bound(name: str, text: str) -> int:
    if text in UNLIMITED_WORDS:
        return -1
    if text == "0":
        return 0
    if name in ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"):
        return parse_size(text, f"ulimit {name}")
    return parse_count(text, f"ulimit {name}")


def _check_ulimit(each: Any) -> None:
    name, *bounds = each if isinstance(each, tuple) and len(each) == 3 else (None,)
    if name not in ULIMITS or any(type(b) is not int or not -1 <= b <= MAX_NUMBER for b in bounds):
        raise SpecError(f"ulimit: {show(each)} is no (name, soft, hard)")


def _check_range(value: Any, bounds: tuple[int, int], what: str) -> None:
    low, high = bounds
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise SpecError(f"{what}: {show(value)} must be from {low} to {high}")


def _check_cpuset(cpus: Any) -> None:
    if cpus is None:
        return
    if not isinstance(cpus, frozenset):
        raise SpecError(f"cpuset_cpus: {show(cpus)} is no frozenset of numbers")
    _check_cpus(cpus)


def _check_cpus(cpus: Any) -> None:
    if not cpus or any(type(n) is not int or not 0 <= n <= MAX_CPU for n in cpus):
        raise SpecError(f"cpuset_cpus: {show(cpus)} names no processors; write 0-2,4")


def _check_throttle(each: Any) -> None:
    if not isinstance(each, Throttle):
        raise SpecError(f"throttles: {show(each)} is no Throttle")


UNLIMITED: Final = Limits(
    memory_bytes=None,
    cpu_time_s=None,
    wall_time_s=None,
    pids=None,
    output_bytes=None,
    disk_bytes=None,
)
