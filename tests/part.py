"""What a test needs of its host, and what it says when the host hasn't got it.

Two different things: a *missing part* (a program, subordinate ids) is a skip that fails in CI,
where everything is installed. An attack that this kernel doesn't offer even to those outside a
jail is NOT-EXERCISED: nothing was shown, and no installation mends it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import pytest

from jail.host import read_facts
from jail.idmap import count_slices
from jail.landlock import MIN_ABI

NOT_EXERCISED: Final = "NOT-EXERCISED: "
_said: list[str] = []


def require(*parts: str) -> None:
    """Skip unless they are all here; a part is a program or one of :data:`PARTS`."""
    for part in parts:
        is_here = PARTS[part]() if part in PARTS else shutil.which(part) is not None
        if not is_here:
            _skip(f"this host lacks a part: {part}")


def not_exercised(reason: str) -> NoReturn:
    """The attack fails without a jail, too: whatever it does inside shows nothing."""
    _skip(NOT_EXERCISED + reason)


def _skip(reason: str) -> NoReturn:
    _said.append(reason)
    pytest.skip(reason)


def find_reason(told: str) -> str:
    """The reason of a skip; pytest-trio drops that of a test that is a coroutine."""
    reason = told.removeprefix("Skipped").removeprefix(": ")
    return reason or (_said[-1] if _said else told)


def is_allowed_in_ci(reason: str) -> bool:
    """Whether a skip with this reason may stand in CI."""
    return reason.startswith(NOT_EXERCISED)


def _has_subids() -> bool:
    facts = read_facts()
    return facts.can_map_subids and count_slices(facts.subuids, facts.subgids) > 0


def _has_delegation() -> bool:
    cgroup = read_facts().cgroup
    if cgroup is None:
        return False
    return cgroup.delegated or {"memory", "pids"} <= set(cgroup.user_controllers)


PARTS: Final[Mapping[str, Callable[[], bool]]] = {
    "block": lambda: os.path.ismount("/mnt/block"),
    "containers": lambda: os.path.exists("/usr/share/containers/seccomp.json"),
    "cgroup": _has_delegation,
    "landlock": lambda: read_facts().landlock_abi >= MIN_ABI,
    "subuid": _has_subids,
}
