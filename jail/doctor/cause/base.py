"""What a reason for a failure is, and what a rule that knows one is asked."""

from __future__ import annotations

import errno as codes
from collections.abc import Callable
from dataclasses import dataclass

from jail.host import HostFacts

SYSCTL_FILE = "/etc/sysctl.d/50-jail.conf"


@dataclass(frozen=True)
class Cause:
    """Why a step failed. ``key`` is stable, ``lines`` are to be typed or copied as they are."""

    key: str
    title: str
    text: str
    lines: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """The paragraph and the exact lines, as one text."""
        return "\n".join([self.text, *(f"    {line}" for line in self.lines)])


@dataclass(frozen=True)
class Failure:
    """What a rule is asked about."""

    step: str
    errno: int | None
    facts: HostFacts

    @property
    def is_refusal(self) -> bool:
        return self.errno in (codes.EPERM, codes.EACCES)

    @property
    def makes_namespace(self) -> bool:
        return self.step == "clone" or self.step.split(" ")[0] == "unshare"

    @property
    def is_mount(self) -> bool:
        return self.step.split(" ")[0] in ("mount", "bind") or self.step == "pivot_root"

    @property
    def needs_capability(self) -> bool:
        """The step is done with the rights that a user namespace gives."""
        inside = {"uid_map", "gid_map", "setgroups", "sethostname", "lo up", "capset"}
        return self.makes_namespace or self.is_mount or self.is_gate or self.step in inside

    @property
    def is_gate(self) -> bool:
        """A step of what the network ``filtered`` is made of."""
        return self.step.split(" ")[0] == "gate"


Rule = Callable[[Failure], Cause | None]


def set_sysctl(name: str, value: int) -> tuple[str, ...]:
    """Lines that set a sysctl now and at every boot."""
    return (
        f"sudo sysctl -w {name}={value}",
        f"echo '{name}={value}' | sudo tee -a {SYSCTL_FILE}",
    )
