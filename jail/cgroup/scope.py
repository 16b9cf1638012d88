"""A scope of the user's systemd, asked for over D-Bus.

It holds the zygote and nobody else. The application that uses us stays in the unit that it was
started in, whose limits, accounts and end are its own.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

import trio

from jail.cgroup import file
from jail.cgroup.bus import DAEMON, Bus, BusError, Target, list_sockets, open_bus, take
from jail.cgroup.grant import PassedOver
from jail.host import HostFacts
from jail.place import may_delegate

SCOPE_TIMEOUT_S: Final = 5.0
SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"
MANAGER: Final = Target(
    "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
)
RULE: Final = (
    f"type='signal',sender='{MANAGER.name}',path='{MANAGER.path}',"
    f"interface='{MANAGER.interface}',member='JobRemoved'"
)
SIGNATURE: Final = "ssa(sv)a(sa(sv))"


async def move_to_scope(facts: HostFacts, pid: int) -> Path:
    """The directory of a new scope, delegated to us, in which the process ``pid`` is alone.

    PassedOver says why there is none, after :data:`SCOPE_TIMEOUT_S` at the latest.
    """
    sockets = find_buses(facts)
    if isinstance(sockets, str):
        raise PassedOver(f"scope: {sockets}")
    reasons = []
    with trio.move_on_after(SCOPE_TIMEOUT_S):
        for socket in sockets:
            try:
                async with open_bus(socket) as bus:
                    return await _start_scope(bus, pid)
            except BusError as error:
                reasons.append(str(error))
        raise PassedOver(f"scope: {'; '.join(reasons)}")
    reasons.append(f"no answer from systemd within {SCOPE_TIMEOUT_S:g} s")
    raise PassedOver(f"scope: {'; '.join(reasons)}")


def find_buses(facts: HostFacts) -> list[str] | str:
    """Where systemd can be asked, or why nowhere."""
    service = facts.cgroup.user_service if facts.cgroup else None
    if not facts.systemd and service is None:
        return "systemd does not run here"
    addresses = list_addresses(facts.uid)
    return list_sockets(addresses) or f"no bus to ask systemd by: no socket at {addresses[-1]}"


def list_addresses(uid: int) -> list[str]:
    """In the order in which they are tried: dbus-daemon(1); systemd has its own at the last."""
    if uid == 0:
        return [f"unix:path={SYSTEM_BUS}"]
    named = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    own = [f"unix:path={folder}/bus"] if folder.startswith("/") else []
    return [*([named] if named else []), *own, f"unix:path=/run/user/{uid}/bus"]


async def _start_scope(bus: Bus, pid: int) -> Path:
    """As systemd's own systemd-run(1) does it: listen first, then ask, then wait for the job."""
    await _check_pid_namespace(bus)
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
