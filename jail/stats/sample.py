"""What a jail used between two looks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jail.cgroup.account import subtract_pressure


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A jail at one look. None is what nobody tells here.

    ``key`` is the same for two looks at one jail, ``at_s`` a monotonic time; ``command`` is the
    program's own word for itself.
    """

    key: tuple[int, int]
    at_s: float
    command: str | None = None
    command_age_s: float | None = None
    cpu_time_s: float = 0.0
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    tasks: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    pressure: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits_by: str = "watch"
    paused: bool = False

    @property
    def pid(self) -> int:
        return self.key[0]


@dataclass(frozen=True)
class Row:
    """What is shown of a jail. Percents are None where it was not there at the last look.

    ``pressure`` is the share of the time in which some, and in which all, waited for something.
    """

    sample: Sample
    cpu_percent: float | None = None
    memory_percent: float | None = None
    pressure: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self, time: str) -> dict[str, Any]:
        """JSON-ready."""
        now = self.sample
        return {
            "time": time,
            "jail": now.pid,
            "command": now.command,
            "command_age_s": now.command_age_s,
            "paused": now.paused,
            "cpu_percent": self.cpu_percent,
            "cpu_time_s": round(now.cpu_time_s, 6),
            "memory_bytes": now.memory_bytes,
            "memory_limit_bytes": now.memory_limit_bytes,
            "memory_percent": self.memory_percent,
            "tasks": now.tasks,
            "io_read_bytes": now.io_read_bytes,
            "io_write_bytes": now.io_write_bytes,
            "pressure_percent": {name: dict(kinds) for name, kinds in self.pressure.items()},
            "limits_by": now.limits_by,
        }


def make_rows(now: list[Sample], before: list[Sample]) -> list[Row]:
    """One for each jail that lives now; of those that have ended there is none."""
    earlier = {each.key: each for each in before}
    return [make_row(each, earlier.get(each.key)) for each in now]


def make_row(now: Sample, before: Sample | None) -> Row:
    memory = make_share(now.memory_bytes, now.memory_limit_bytes)
    if before is None or now.at_s <= before.at_s:
        return Row(now, memory_percent=memory)
    seconds = now.at_s - before.at_s
    waited = subtract_pressure(now.pressure, before.pressure)
    return Row(
        now,
        cpu_percent=make_percent(max(0.0, now.cpu_time_s - before.cpu_time_s), seconds),
        memory_percent=memory,
        pressure={
            name: {kind: min(100.0, make_percent(s, seconds)) for kind, s in kinds.items()}
            for name, kinds in waited.items()
        },
    )


def make_share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else make_percent(part, whole)


def make_percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2)
