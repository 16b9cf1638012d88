"""decide(facts) → verdict: a pure function, the only place where a verdict is made."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from jail.result import Verdict


@dataclass(frozen=True)
class Breach:
    """A limit that was reached ``at_s`` seconds after the start.

    One that is ``soft`` was only noticed (the disk was seen full, the process limit reached); a
    program that lives with it and exits with 0 has done nothing wrong.
    """

    limit: str
    at_s: float
    soft: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How the first process ended and what the supervisor saw on the way.

    ``failure`` says that the sandbox itself broke, and how.
    """

    exit_code: int | None = None
    signal: int | None = None
    ended_s: float = 0.0
    breaches: tuple[Breach, ...] = ()
    failure: str | None = None


VERDICT_OF: Final = {
    "memory": Verdict.MLE,
    "cpu_time": Verdict.TLE,
    "wall_time": Verdict.TLE,
    "output": Verdict.OLE,
    "disk": Verdict.DLE,
    "fsize": Verdict.DLE,
    "pids": Verdict.PLE,
    "seccomp": Verdict.SV,
}
ORDER: Final = (Verdict.MLE, Verdict.TLE, Verdict.OLE, Verdict.DLE, Verdict.PLE, Verdict.SV)
LIMIT_OF_SIGNAL: Final[dict[int, str]] = {
    signal.SIGXCPU: "cpu_time",
    signal.SIGXFSZ: "fsize",
    signal.SIGSYS: "seccomp",
}


def decide(facts: Facts) -> tuple[Verdict, str | None]:
    """The verdict and the limit behind it.

    The sandbox's own failure comes first: nothing can be said of the program then. Of several
    breaches the earliest wins, and at the same moment MLE, TLE, OLE, DLE, PLE, SV in this order.
    """
    if facts.failure is not None:
        return Verdict.IE, None
    first = find_first_breach(facts)
    if first is not None:
        return VERDICT_OF[first.limit], first.limit
    if facts.signal is not None:
        return Verdict.SG, None
    if facts.exit_code != 0:
        return Verdict.RE, None
    return Verdict.OK, None


def find_first_breach(facts: Facts) -> Breach | None:
    """The cause of the end, or None where no limit had a part in it."""
    went_well = facts.exit_code == 0 and facts.signal is None
    breaches = [each for each in facts.breaches if not (each.soft and went_well)]
    own_end = LIMIT_OF_SIGNAL.get(facts.signal or 0)
    if own_end is not None:
        breaches.append(Breach(own_end, facts.ended_s))
    return min(breaches, key=_rank, default=None)


def _rank(breach: Breach) -> tuple[float, int]:
    return breach.at_s, ORDER.index(VERDICT_OF[breach.limit])
