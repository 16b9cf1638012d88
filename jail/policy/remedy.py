"""Which option would have let a refused call be made."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Final

from jail.host import parse_kernel
from jail.policy.load import list_policies, load_policy
from jail.policy.rule import Target

FIRST: Final = ("strict", "plugin", "compute", "default", "network", "build")
"""the narrower ones before the wider ones"""
OWN: Final = "no shipped policy; one of your own (--seccomp FILE) may, or --seccomp unconfined"


def find_remedy(call: str, args: Sequence[int], policy: str) -> str:
    """``--seccomp NAME`` of the narrowest shipped policy that allows this call, or else."""
    if call.startswith("("):
        return "--seccomp unconfined"
    for name in _list_shipped():
        if name != policy and load_policy(name).ruleset.decide(_read_target(), call, args).passes:
            return f"--seccomp {name}"
    return OWN


def _list_shipped() -> list[str]:
    names = list_policies()
    return [
        *(each for each in FIRST if each in names),
        *(each for each in names if each not in FIRST),
    ]


@functools.cache
def _read_target() -> Target:
    uname = os.uname()
    return Target(uname.machine, parse_kernel(uname.release)[:2])
