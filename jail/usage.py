"""What has been used: of a run in its result, of a living jail on the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Usage:
    """Seconds and bytes. What is None is told by a cgroup, and by nothing else.

    ``pressure`` has, for ``cpu``, ``memory`` and ``io``, the seconds in which ``some`` and in
    which all (``full``) of the tasks waited for it.
    """

    cpu_time_s: float = 0.0
    cpu_user_time_s: float | None = None
    cpu_system_time_s: float | None = None
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    processes_peak: int = 1
    oom_kills: int | None = None
    refused_forks: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    pressure: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cpu_time_s": round(self.cpu_time_s, 6),
            "cpu_user_time_s": self.cpu_user_time_s,
            "cpu_system_time_s": self.cpu_system_time_s,
            "memory_bytes": self.memory_bytes,
            "memory_peak_bytes": self.memory_peak_bytes,
            "processes": self.processes,
            "processes_peak": self.processes_peak,
            "oom_kills": self.oom_kills,
            "refused_forks": self.refused_forks,
            "io_read_bytes": self.io_read_bytes,
            "io_write_bytes": self.io_write_bytes,
            "pressure": {name: dict(totals) for name, totals in self.pressure.items()},
        }
