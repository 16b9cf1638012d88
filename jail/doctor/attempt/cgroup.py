"""Where the jails' cgroups would be: looked for as a supervisor does, and asked for in earnest."""

from __future__ import annotations

import errno as codes
import os
import signal
from pathlib import Path

from jail.doctor.attempt.base import AbsentError, Setting, StuckError, at
from jail.host import CgroupFacts, HostFacts, make_facts
from jail.place import read_line

NEEDED = frozenset({"memory", "pids"})
FAMILY = 3
"""this process, the one that started it, and the one that wants to know"""


def try_cgroup(setting: Setting) -> str:
    """Our own, or a scope of systemd's: what ``jail run`` would take, and its controllers."""
    from jail.cgroup.find import find_own

    facts = make_place(setting)
    if facts.cgroup is None:
        raise AbsentError("no cgroup v2 tree")
    own = find_own(facts, read_family())
    if not isinstance(own, str):
        _make_and_remove(own.path)
        return _describe("own", own.path, own.controllers)
    path, controllers = _ask_for_scope(facts, own, setting.helper_timeout_s)
    return _describe("scope", path, controllers)


def make_place(setting: Setting) -> HostFacts:
    """As much of the facts as the search for a cgroup reads."""
    where = None
    if setting.cgroup is not None:
        service = setting.user_service
        where = CgroupFacts(
            mount=Path(setting.cgroup_mount),
            path=Path(setting.cgroup),
            user_service=Path(service) if service else None,
            user_controllers=tuple(setting.user_controllers),
        )
    return make_facts(uid=setting.uid, gid=setting.gid, systemd=setting.systemd, cgroup=where)


def read_family() -> set[int]:
    """They sit where we do for as long as the doctor runs, and would not while jails do."""
    pid, family = os.getpid(), set[int]()
    while pid > 1 and len(family) < FAMILY:
        family.add(pid)
        pid = int(read_line(f"/proc/{pid}/stat").rpartition(") ")[2].split()[1])
    return family


def _make_and_remove(parent: Path) -> None:
    path = f"{parent}/jail-doctor-{os.getpid()}"
    with at("cgroup"):
        os.mkdir(path)
        os.rmdir(path)


def _ask_for_scope(facts: HostFacts, own: str, timeout_s: float) -> tuple[Path, frozenset[str]]:
    """For a process of ours that does nothing; systemd removes the scope when that has ended."""
    import trio

    from jail.cgroup.find import BUSY
    from jail.cgroup.grant import PassedOver
    from jail.cgroup.scope import find_buses, move_to_scope

    buses = find_buses(facts)
    if isinstance(buses, str):
        said = f"{own}; scope: {buses}"
        if facts.systemd and (facts.uid == 0 or (facts.cgroup and facts.cgroup.user_service)):
            raise StuckError("cgroup bus", None, said)
        raise StuckError("cgroup", codes.EBUSY if BUSY in own else codes.EACCES, said)
    pid = _fork_idle()

    async def ask() -> Path:
        with trio.fail_after(timeout_s):
            return await move_to_scope(facts, pid)

    try:
        path = trio.run(ask)
        return path, frozenset(read_line(path / "cgroup.controllers").split())
    except PassedOver as reason:
        raise StuckError("cgroup scope", None, f"{reason}; {own}") from None
    except trio.TooSlowError:
        said = f"scope: no answer from systemd within {timeout_s:g} s"
        raise StuckError("cgroup scope", codes.ETIMEDOUT, f"{said}; {own}") from None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork_idle() -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    return pid


def _describe(origin: str, path: Path, controllers: frozenset[str]) -> str:
    has = " ".join(sorted(controllers)) or "none"
    if not controllers >= NEEDED:
        words = f"{origin}: {path} lacks {' and '.join(sorted(NEEDED - controllers))} (has: {has})"
        raise StuckError("cgroup controllers", None, words)
    return f"{origin}: {has}"
