"""A bus of a test's own, and who answers on it in systemd's name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.trio import DBusConnection, Proxy, open_dbus_connection

from tests.cgroup_tree import CgroupTree

CONFIG: Final = """
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
MANAGER: Final = DBusAddress(
    "/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager"
)
JOB: Final = "/org/freedesktop/systemd1/job/7"


@contextmanager
def open_daemon(folder: Path) -> Iterator[str]:
    """A dbus-daemon; its socket."""
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(socket=folder / "bus"))
    argv = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline(), "it has not started"
            yield str(folder / "bus")
        finally:
            daemon.kill()


@dataclass
class FakeSystemd:
    """Starts a scope as the real one does, or as it is told to.

    ``results`` are those of the jobs that it tells of, the last one's is ours. ``answer`` takes
    the place of a method's own, as an error's name or as signature and body; None is silence.
    """

    tree: CgroupTree
    results: tuple[str, ...] = ("done",)
    answers: dict[str, str | tuple[str, tuple[Any, ...]] | None] = field(default_factory=dict)
    words: str = "said so"
    tells_early: bool = False
    moves: bool = True
    mode: int = 0o755
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def serve(
        self, bus: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with await open_dbus_connection(f"unix:path={bus}") as connection:
            async with connection.router() as router:
                await Proxy(message_bus, router).RequestName("org.freedesktop.systemd1")
            task_status.started()
            while True:
                message = await connection.receive()
                if message.header.message_type is MessageType.method_call:
                    await self._answer(connection, message)

    async def _answer(self, connection: DBusConnection, message: Any) -> None:
        method = message.header.fields[HeaderFields.member]
        self.asked.append((method, message.body))
        if method in self.answers:
            await self._answer_otherwise(connection, message, self.answers[method])
        elif method == "StartTransientUnit":
            await self._start(connection, message)
        else:
            await connection.send(new_method_return(message))

    async def _answer_otherwise(self, connection: DBusConnection, message: Any, told: Any) -> None:
        if isinstance(told, str):
            error = new_error(message, told, "s", (self.words,))
            await connection.send(error)
        elif told is not None:
            await connection.send(new_method_return(message, *told))

    async def _start(self, connection: DBusConnection, message: Any) -> None:
        unit, _, properties, _ = message.body
        (pid,) = dict(properties)["PIDs"][1]
        if self.moves:
            scope = self.tree.add(f"app.slice/{unit}", procs=(pid,))
            scope.chmod(self.mode)
        reply = new_method_return(message, "o", (JOB,))
        if not self.tells_early:
            await connection.send(reply)
        for number, result in enumerate(self.results, start=8 - len(self.results)):
            body = (number, f"{JOB[:-1]}{number}", unit, result)
            await connection.send(new_signal(MANAGER, "JobRemoved", "uoss", body))
        if self.tells_early:
            await connection.send(reply)
