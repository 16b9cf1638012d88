"""What a filter answers, as ``linux/seccomp.h`` numbers it. Pure; imports nothing of ours."""

from __future__ import annotations

import errno
from typing import Final, Literal, get_args

KILL_PROCESS: Final = 0x80000000
TRAP: Final = 0x00030000
ERRNO: Final = 0x00050000
USER_NOTIF: Final = 0x7FC00000
TRACE: Final = 0x7FF00000
LOG: Final = 0x7FFC0000
ALLOW: Final = 0x7FFF0000
ACTION_BITS: Final = 0xFFFF0000
DATA_BITS: Final = 0x0000FFFF

NOTIFY_DATA: Final = 0
KILL_DATA: Final = 0xFFF
"""data of a USER_NOTIF, of which the kernel takes no notice: what the listener is to answer. An
errno, NOTIFY_DATA (let the call be made), or this (end the process)."""
MAX_ERRNO: Final = 0xFFF
TRAP_MARK: Final = 0x7000
"""Data of a TRAP that a tracer is to take back, beside the errno that is to be answered. Not a
TRACE: a USER_NOTIF comes before that, and a listener above us might let the call be made."""

Report = Literal["none", "denied", "all", "traced", "traced-all"]
"""What a listener hears of: nothing; what is refused, but for quiet rules; those too. And the
same for a tracer, who hears of refusals by an errno alone, by a TRAP."""
REPORTS: Final[tuple[Report, ...]] = get_args(Report)
HEARD: Final[dict[Report, Report]] = {"traced": "denied", "traced-all": "all"}
"""what a listener hears of in a tracer's place"""

PLAIN: Final = {
    "allow": ALLOW,
    "kill": KILL_PROCESS,
    "log": LOG,
    "notify": ALLOW,
    "trap": TRAP,
    "trace": TRACE,
}
"""without a listener; any other action is the name of an errno"""


def decide_return(action: str, quiet: bool, report: Report) -> int:
    """SECCOMP_RET_* with its data, for the action of a rule."""
    plain = PLAIN.get(action)
    if plain is None:
        plain = ERRNO | int(getattr(errno, action))
    if report == "none" or action in ("allow", "log", "trap", "trace"):
        return plain
    if report in HEARD:
        asks = plain & ACTION_BITS == ERRNO and not (quiet and report == "traced")
        return TRAP | TRAP_MARK | plain & DATA_BITS if asks else plain
    if action == "notify":
        return USER_NOTIF | NOTIFY_DATA
    if quiet and report == "denied":
        return plain
    return USER_NOTIF | (KILL_DATA if action == "kill" else plain & DATA_BITS)


def silence_return(value: int) -> int:
    """The same answer where there is neither listener nor tracer."""
    data = value & DATA_BITS
    if value & ACTION_BITS == TRAP and TRAP_MARK < data <= TRAP_MARK | MAX_ERRNO:
        return ERRNO | data & MAX_ERRNO
    if value & ACTION_BITS != USER_NOTIF:
        return value
    return {NOTIFY_DATA: ALLOW, KILL_DATA: KILL_PROCESS}.get(data, ERRNO | data)
