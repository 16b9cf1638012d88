"""Jails whose birth is under a tracer, and what can be said of one that was born all the same.

A kind of jail is opened once as it should be; what that one is like, inside and outside, is what
any other of its kind must be like, to the last mount option: whoever is born in spite of a fault
and differs is weaker.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import jail
from jail import Jail, JailError, Supervisor
from jail.launcher import Launcher
from tests.faults.strace import Fault, Trace, open_strace

BORN_S: Final = 20.0
READY: Final = "sendmsg("
WITNESS: Final = "/out/witness"
NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
OWNER: Final = re.compile(r",[ug]id=\d+")
LINKS: Final = tuple(f"{name}:[" for name in NAMESPACES)
REPORT: Final = f"""
touch {WITNESS} 2>/dev/null
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk)' /proc/self/status
cat /proc/self/limits; hostname; env; pwd
stat -c '%n %A %u %g' / /* /dev/* /proc/self/fd/*
readlink /proc/1/root /proc/self/root /proc/self/cwd
""" + "".join(f"readlink /proc/self/ns/{name}\n" for name in NAMESPACES)
AGENT_LINES: Final = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")


@dataclass
class Outcome:
    """What became of a jail: refused with an error, or born; then ``report`` tells of it."""

    error: Exception | None = None
    report: Mapping[str, Any] | None = None
    injected: int = 0
    calls: Counter[str] = field(default_factory=Counter)


@dataclass
class Kind:
    """One kind of jail, and how it is when nothing fails."""

    name: str
    ids: str
    options: Mapping[str, Any]
    out: Path | None
    report: Mapping[str, Any] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    """of init, from its first to Ready"""

    @property
    def witness(self) -> bool:
        return self.out is not None and (self.out / "witness").exists()


def make_kinds(folder: Path, rootfs: Path) -> list[Kind]:
    """All ways to make a root, both ways to map ids; together they take every step there is."""
    outs = []
    for name in ("host", "overlay"):
        outs.append(folder / f"out-{name}")
        outs[-1].mkdir()
    host, overlay = outs
    shared: dict[str, Any] = {"volumes": [f"{host}:/out"], "tmpfs": ["/scratch:1m"]}
    return [
        Kind("host", "single", {"userns": "single", **shared}, host),
        Kind("overlay", "subuid", {"rootfs": rootfs, "volumes": [f"{overlay}:/out"]}, overlay),
        Kind("bind", "subuid", {"rootfs": rootfs, "read_only": True}, None),
    ]


def every_init_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spare that was made before the tracer came."""
    real = Launcher.clone

    async def clone(self: Launcher, number: int, *words: Any) -> tuple[int, int]:
        return await real(self, number, *words[:3], True)

    monkeypatch.setattr(Launcher, "clone", clone)


class Nursery:
    """A supervisor whose jails are born under a tracer; one lane of kinds, one birth at a time."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        self.supervisor = supervisor
        self._folder = folder
        self._count = 0
        self._warm = 0

    async def get_zygote(self, kind: Kind) -> int:
        """Its pid, once it has done all that it does once in its life."""
        launcher = self.supervisor._launchers.get(kind.ids)
        if launcher is None or launcher.gone.is_set() or launcher.pid != self._warm:
            async with self.supervisor.open_jail(**kind.options):
                launcher = self.supervisor._launchers[kind.ids]
            self._warm = launcher.pid
        return launcher.pid

    async def learn(self, kind: Kind) -> None:
        """Look at one that nothing happens to."""
        async with self.trace(kind) as trace, self.supervisor.open_jail(**kind.options) as j:
            init = j.init_pid
            await trio.sleep(0)
        kind.calls = trace.count_calls(init, until=READY)
        async with self.supervisor.open_jail(**kind.options) as j:
            kind.report = await read_report(j)
        if kind.out is not None:
            assert kind.witness
            forget(kind)

    @asynccontextmanager
    async def trace(
        self, kind: Kind, options: list[str] | None = None, *, follow: bool = True
    ) -> AsyncGenerator[Trace, None]:
        """The zygote, and with ``follow`` all its children to come."""
        self._count += 1
        path = self._folder / f"trace-{kind.ids}-{self._count}"
        zygote = await self.get_zygote(kind)
        async with open_strace(path, zygote, options or [], follow=follow) as trace:
            yield trace

    async def bear(self, kind: Kind, fault: Fault, *, follow: bool = True) -> Outcome:
        """One jail with a fault at its birth; the tracer lets go before a program runs in it."""
        outcome = Outcome()
        trace = None
        forget(kind)
        try:
            with trio.fail_after(BORN_S):
                async with AsyncExitStack() as life:
                    async with self.trace(kind, fault.to_options(), follow=follow) as trace:
                        opening = self.supervisor.open_jail(**kind.options)
                        j = await life.enter_async_context(opening)
                    outcome.report = await read_report(j)
        except (Exception, trio.TooSlowError) as error:
            outcome.error = error
        if trace is not None:
            outcome.injected = trace.count_injected()
        return outcome


def forget(kind: Kind) -> None:
    if kind.out is not None:
        with suppress(FileNotFoundError):
            (kind.out / "witness").unlink()


async def read_report(j: Jail) -> Mapping[str, Any]:
    """All of a living jail that must never differ: the program's view and the host's."""
    result = await j.run(["sh", "-c", REPORT], timeout=20)
    said = result.stdout.decode().splitlines()
    return {
        "program": [line for line in said if not line.startswith(LINKS)],
        "shared namespaces": find_shared(said),
        "mounts": read_mounts(j.init_pid),
        "agent": read_agent(j.init_pid),
        "agent is dumpable": os.stat(f"/proc/{j.init_pid}/mem").st_uid != 0,
    }


def find_shared(said: list[str]) -> list[str]:
    """Names of namespaces that are the host's own."""
    mine = {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    assert len([line for line in said if line.startswith(LINKS)]) == len(NAMESPACES), said
    return [line for line in said if line in mine]


def read_mounts(pid: int) -> list[list[str]]:
    """mountinfo without the numbers that differ from jail to jail: proc_pid_mountinfo(5)."""
    lines = OWNER.sub("", Path(f"/proc/{pid}/mountinfo").read_text()).splitlines()
    return [line.split(" ")[3:] for line in lines]


def read_agent(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(AGENT_LINES)]


def is_honest(error: Exception | None) -> bool:
    """The sandbox's failure, told as one, in a sentence."""
    sorts = (jail.HostError, jail.HelperError, jail.JailBroken)
    return isinstance(error, JailError) and isinstance(error, sorts) and bool(str(error).strip())
