"""A scope of the user's systemd, asked for over D-Bus.

It holds the zygote and nobody else. The application that uses us stays in the unit that it was
started in, whose limits, accounts and end are its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import trio

from jail.cgroup import file
from jail.cgroup.bus import DAEMON, Bus, BusError, Target, open_bus, take
from jail.cgroup.grant import PassedOver
from jail.host import HostFacts
from jail.place import SYSTEM_BUS, may_delegate

SCOPE_TIMEOUT_S: Final = 10.0
ARRIVAL_S: Final = 2.0
"""a bus is started by its first user, who may be us, and systemd comes to it then"""
MANAGER: Final = Target(
    "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
)
RULE: Final = (
    f"type='signal',sender='{MANAGER.name}',path='{MANAGER.path}',"
    f"interface='{MANAGER.interface}',member='JobRemoved'"
)
ARRIVAL_RULE: Final = (
    f"type='signal',sender='{DAEMON.name}',path='{DAEMON.path}',"
    f"interface='{DAEMON.interface}',member='NameOwnerChanged',arg0='{MANAGER.name}'"
)
SIGNATURE: Final = "ssa(sv)a(sa(sv))"


async def move_to_scope(sockets: Iterable[str], pid: int, timeout_s: float | None = None) -> Path:
    """The directory of a new scope, delegated to us, in which the process ``pid`` is alone.

    ``sockets`` are of buses where systemd may be found. PassedOver says why there is no scope,
    after ``timeout_s`` at the latest, :data:`SCOPE_TIMEOUT_S` if it is None.
    """
    timeout_s = SCOPE_TIMEOUT_S if timeout_s is None else timeout_s
    reasons = []
    with trio.move_on_after(timeout_s):
        for socket in sockets:
            try:
                async with open_bus(socket) as bus:
                    return await _start_scope(bus, pid)
            except BusError as error:
                reasons.append(str(error))
        raise PassedOver(f"scope: {'; '.join(reasons)}")
    reasons.append(f"no answer from systemd within {timeout_s:g} s")
    raise PassedOver(f"scope: {'; '.join(reasons)}")


def find_buses(facts: HostFacts) -> tuple[str, ...]:
    """Where systemd can be asked, or PassedOver."""
    service = facts.cgroup.user_service if facts.cgroup else None
    if not facts.systemd and service is None:
        raise PassedOver("scope: systemd does not run here")
    if not facts.buses:
        raise PassedOver(f"scope: no D-Bus to ask systemd by: no {show_last_bus(facts.uid)}")
    return facts.buses


def show_last_bus(uid: int) -> str:
    return SYSTEM_BUS if uid == 0 else f"/run/user/{uid}/bus"


async def _start_scope(bus: Bus, pid: int) -> Path:
    """As systemd's own systemd-run(1) does it: listen first, then ask, then wait for the job."""
    await _check_pid_namespace(bus)
    await _wait_for_manager(bus)
    await bus.call(DAEMON, "AddMatch", "s", (RULE,))
    await bus.call(MANAGER, "Subscribe")
    unit = f"jail-{os.getpid()}-{secrets.token_hex(4)}.scope"
    nothing_else: list[Any] = []
    request = (unit, "fail", make_properties(pid), nothing_else)
    job = take(await bus.call(MANAGER, "StartTransientUnit", SIGNATURE, request), str)
    while True:
        told = await bus.receive_signal(MANAGER, "JobRemoved")  # id, job, unit, result
        if take(told, str, 1) == job:
            break
    result = take(told, str, 3)
    if result != "done":
        raise BusError(f"systemd could not start {unit}: {result}")
    return _find_scope(unit, pid)


def make_properties(pid: int) -> list[tuple[str, tuple[str, Any]]]:
    """systemd.resource-control(5), systemd.unit(5). Delegate=yes is all controllers that the
    service manager has itself.
    """
    return [
        ("Description", ("s", f"jails of process {os.getpid()}")),
        ("PIDs", ("au", [pid])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]


async def _wait_for_manager(bus: Bus) -> None:
    """Until somebody has systemd's name on this bus."""
    await bus.call(DAEMON, "AddMatch", "s", (ARRIVAL_RULE,))
    if take(await bus.call(DAEMON, "NameHasOwner", "s", (MANAGER.name,)), bool):
        return
    with trio.move_on_after(ARRIVAL_S):
        while True:
            told = await bus.receive_signal(DAEMON, "NameOwnerChanged")  # name, old, new owner
            if take(told, str, 2):
                return
    raise BusError("systemd is not on this bus")


async def _check_pid_namespace(bus: Bus) -> None:
    """A bus of another pid namespace would have systemd move a stranger that has our number."""
    told = await bus.call(DAEMON, "GetConnectionUnixProcessID", "s", (bus.name,))
    if take(told, int) != os.getpid():
        raise BusError("the bus is of another pid namespace, where our processes have other pids")


def _find_scope(unit: str, pid: int) -> Path:
    """Where the kernel says that the process is."""
    seat = file.read_seat(pid)
    if seat is None:
        raise BusError(f"{unit} is not below where the cgroup v2 tree is mounted")
    path = seat[1]
    if path.name != unit:
        raise BusError(f"systemd says it started {unit}, but the zygote is in {path}")
    if not may_delegate(path):
        raise BusError(f"{path} isn't ours to write")
    return path
