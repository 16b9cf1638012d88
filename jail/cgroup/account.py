"""What a leaf's files say, and what a run's part of it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

US_PER_S: Final = 1_000_000
RESOURCES: Final = ("cpu", "memory", "io")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A leaf's books at one moment, its agent included. None is what this kernel doesn't tell.

    ``oom_kills`` are the processes that the kernel killed for want of memory, ``own_ooms`` how
    often it was the leaf's own limit that was reached and not an ancestor's or the host's.
    ``pressure`` has, per resource, the seconds in which some and in which all of its tasks
    waited for it.
    """

    cpu_us: int = 0
    user_us: int = 0
    system_us: int = 0
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    own_ooms: int | None = None
    tasks: int | None = None
    tasks_peak: int | None = None
    refused_forks: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    pressure: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def parse_table(text: str) -> dict[str, int]:
    """A "flat keyed" file: a name and a number a line."""
    words = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}


def parse_number(text: str) -> int | None:
    """The one number of a file; None for ``max`` and for no file at all."""
    word = text.strip()
    return int(word) if word.isdecimal() else None


def parse_io(text: str) -> tuple[int, int]:
    """Bytes read and written, of all devices: a "nested keyed" file, a device a line."""
    sums = {"rbytes": 0, "wbytes": 0}
    for line in text.splitlines():
        for word in line.split()[1:]:
            key, _, value = word.partition("=")
            if key in sums and value.isdecimal():
                sums[key] += int(value)
    return sums["rbytes"], sums["wbytes"]


def parse_pressure(text: str) -> dict[str, float]:
    """Seconds per line (``some``, ``full``) of a pressure file: Documentation/accounting/psi."""
    totals = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        for word in rest.split():
            key, _, value = word.partition("=")
            if key == "total" and value.isdecimal():
                totals[kind] = int(value) / US_PER_S
    return totals


def make_account(files: Mapping[str, str]) -> Account:
    """From the files' texts, by name; one that isn't there is "" or missing."""
    cpu = parse_table(files.get("cpu.stat", ""))
    events = parse_table(files.get("memory.events", ""))
    refused = parse_table(files.get("pids.events", ""))
    io = parse_io(files["io.stat"]) if "io.stat" in files else (None, None)
    pressure = {each: parse_pressure(files.get(f"{each}.pressure", "")) for each in RESOURCES}
    return Account(
        cpu_us=cpu.get("usage_usec", 0),
        user_us=cpu.get("user_usec", 0),
        system_us=cpu.get("system_usec", 0),
        memory_bytes=parse_number(files.get("memory.current", "")),
        memory_peak_bytes=parse_number(files.get("memory.peak", "")),
        oom_kills=events.get("oom_kill"),
        own_ooms=events.get("oom"),
        tasks=parse_number(files.get("pids.current", "")),
        tasks_peak=parse_number(files.get("pids.peak", "")),
        refused_forks=refused.get("max"),
        io_read_bytes=io[0],
        io_write_bytes=io[1],
        pressure={name: totals for name, totals in pressure.items() if totals},
    )


def subtract_counts(later: int | None, earlier: int | None) -> int | None:
    """What a counter grew by; None where it isn't known."""
    return None if later is None else later - (earlier or 0)


def subtract_pressure(
    later: Mapping[str, Mapping[str, float]], earlier: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """What of the waiting lies between two moments."""
    return {
        name: {
            kind: round(max(0.0, total - earlier.get(name, {}).get(kind, 0.0)), 6)
            for kind, total in totals.items()
        }
        for name, totals in later.items()
    }
