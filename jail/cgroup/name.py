"""Names of the cgroups that are ours. Pure.

``jail-BOOT.PIDNS.PID.START-host`` holds the zygotes of one supervisor, and
``jail-BOOT.PIDNS.PID.START-SERIAL.NUMBER`` one jail each: SERIAL counts the supervisor's
zygotes, NUMBER a zygote's jails. Who finds such a name can tell whose it was and whether that
process still lives: a pid alone is given out anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_NUMBER: Final = "0|[1-9][0-9]{0,19}"
_NAME: Final = re.compile(
    rf"jail-([0-9a-f]{{8}})\.({_NUMBER})\.({_NUMBER})\.({_NUMBER})-(?:host|({_NUMBER})\.({_NUMBER}))",
    re.ASCII,
)


@dataclass(frozen=True)
class Owner:
    """A process, told from every other one: ``start`` is in ticks since the boot ``boot``."""

    boot: str
    pid_ns: int
    pid: int
    start: int


@dataclass(frozen=True)
class Name:
    """A cgroup of ``owner``'s: one jail's, or without numbers the one of its zygotes."""

    owner: Owner
    serial: int | None = None
    number: int | None = None

    @property
    def is_host(self) -> bool:
        return self.number is None


def make_host_name(owner: Owner) -> str:
    return f"{_make_stem(owner)}host"


def make_prefix(owner: Owner, serial: int) -> str:
    """What the names of one zygote's jails begin with; a number follows."""
    return f"{_make_stem(owner)}{serial}."


def make_name(name: Name) -> str:
    if name.serial is None or name.number is None:
        return make_host_name(name.owner)
    return f"{make_prefix(name.owner, name.serial)}{name.number}"


def parse_name(text: str) -> Name | None:
    """None for a stranger's."""
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    boot, pid_ns, pid, start, serial, number = found.groups()
    owner = Owner(boot, int(pid_ns), int(pid), int(start))
    return Name(owner, int(serial), int(number)) if number is not None else Name(owner)


def _make_stem(owner: Owner) -> str:
    return f"jail-{owner.boot}.{owner.pid_ns}.{owner.pid}.{owner.start}-"
