"""What comes back: one :class:`Result` for everything that ran. Pure data."""

from __future__ import annotations

import enum
import signal as signals
from dataclasses import dataclass, field
from typing import Any

from jail.denied import Denied
from jail.errors import HelperError, HostError, ProgramError, SpecError
from jail.network.use import NetworkUse
from jail.usage import Usage


class Verdict(enum.StrEnum):
    """How a run ended, in the words graders use."""

    OK = "OK"
    RE = "RE"
    """exited with a status other than 0"""
    SG = "SG"
    """killed by a signal that was not ours"""
    TLE = "TLE"
    """cpu or wall time limit"""
    MLE = "MLE"
    """memory limit"""
    OLE = "OLE"
    """output limit"""
    DLE = "DLE"
    """disk or file-size limit"""
    PLE = "PLE"
    """processes limit"""
    SV = "SV"
    """ended by the system-call policy"""
    IE = "IE"
    """the sandbox itself failed: says nothing about the program"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a program did, counted from outside the jail.

    Times are seconds, sizes bytes. ``memory_peak_bytes`` is the most that the run's processes
    held together at any look (and at least the largest single process's peak); None where
    nothing could be read. ``enforced_by`` names, per limit, the mechanism that held it.
    ``stdout``/``stderr`` hold at most the output limit; ``truncated`` names the streams that
    had more.
    """

    verdict: Verdict
    exit_code: int | None = None
    signal: int | None = None
    wall_time_s: float = 0.0
    cpu_time_s: float = 0.0
    memory_peak_bytes: int | None = None
    processes_peak: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: tuple[str, ...] = ()
    denied: tuple[Denied, ...] = ()
    """what the system-call policy refused it"""
    denied_partial: bool = False
    """there may be more than that: the kernel gave no listener, or the list was full"""
    noted: tuple[Denied, ...] = ()
    """calls that were made, and that the policy wants told of"""
    enforced_by: dict[str, str] = field(default_factory=dict)
    message: str = ""
    killed: bool = False
    """the supervisor ended it"""
    limit: str | None = None
    """which limit ended it: ``cpu_time``, ``wall_time``, ``memory``, ``output``, …"""
    cgroup: str | None = None
    """who gave the place for its cgroup: ``given``, ``own`` or ``scope``; None without one"""
    fault: str | None = None
    """whose it is that nothing can be said (IE): ``caller``, ``host``, ``sandbox``, or
    ``program`` where that could not be executed"""
    failure_status: int = 125
    """what ``jail run`` exits with then"""
    context_switches_forced: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    network: NetworkUse = field(default_factory=NetworkUse)
    """what it tried to reach, and what became of that"""
    usage: Usage = field(default_factory=Usage)
    """all that is known of what it used: with a cgroup also who waited for what, and more"""

    @property
    def ok(self) -> bool:
        """Whether it exited with 0 within every limit."""
        return self.verdict is Verdict.OK

    @property
    def exit_status(self) -> int:
        """What ``jail run`` exits with (docs/reference.md, “Exit status”)."""
        match self.verdict:
            case Verdict.IE:
                return self.failure_status
            case Verdict.TLE:
                return 124
            case Verdict.MLE:
                return 137
            case Verdict.OLE:
                return 128 + signals.SIGXFSZ
        if self.signal is not None:
            return 128 + self.signal
        return self.exit_code if self.exit_code is not None else 125

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; bytes that aren't UTF-8 come out with U+FFFD in their place."""
        return {
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "exit_status": self.exit_status,
            "wall_time_s": round(self.wall_time_s, 6),
            "cpu_time_s": round(self.cpu_time_s, 6),
            "cpu_user_time_s": self.usage.cpu_user_time_s,
            "cpu_system_time_s": self.usage.cpu_system_time_s,
            "memory_peak_bytes": self.memory_peak_bytes,
            "oom_kills": self.usage.oom_kills,
            "processes_peak": self.processes_peak,
            "refused_forks": self.usage.refused_forks,
            "io_read_bytes": self.usage.io_read_bytes,
            "io_write_bytes": self.usage.io_write_bytes,
            "pressure": {name: dict(totals) for name, totals in self.usage.pressure.items()},
            "stdout": self.stdout.decode("utf-8", "replace"),
            "stderr": self.stderr.decode("utf-8", "replace"),
            "stdout_bytes": self.stdout_bytes,
            "stderr_bytes": self.stderr_bytes,
            "truncated": list(self.truncated),
            "denied": [each.to_json() for each in self.denied],
            "denied_partial": self.denied_partial,
            "noted": [each.to_json() for each in self.noted],
            "network": self.network.to_json(),
            "enforced_by": dict(self.enforced_by),
            "cgroup": self.cgroup,
            "limit": self.limit,
            "killed": self.killed,
            "fault": self.fault,
            "context_switches_forced": self.context_switches_forced,
            "message": self.message,
        }


FAULTS: tuple[tuple[type[Exception], str], ...] = (
    (SpecError, "caller"),
    (HostError, "host"),
    (HelperError, "host"),
    (ProgramError, "program"),
)


def make_failure(error: Exception) -> Result:
    """The result of a run that never was: IE, whose fault, and the error's own sentence."""
    fault = next((name for kind, name in FAULTS if isinstance(error, kind)), "sandbox")
    status = error.exit_status if isinstance(error, ProgramError) else 125
    return Result(verdict=Verdict.IE, message=str(error), fault=fault, failure_status=status)
