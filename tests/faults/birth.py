"""Jails whose birth is under a tracer, and what can be said of one that was born all the same.

A kind of jail is opened once as it should be; what that one is like, inside and outside, is what
any other of its kind must be like, to the last mount option: whoever is born in spite of a fault
and differs is weaker.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import trio

import jail
from jail import Jail, JailBroken, JailError, Supervisor, Verdict
from jail.agent.kernel import number
from jail.cgroup.setting import Setting
from jail.idmap import IdMap
from jail.launcher import Born, Launcher
from tests.faults.strace import Fault, Trace, open_strace

Found = TypeVar("Found")

BORN_S: Final = 20.0
READY: Final = "sendmsg("
RECVMSG: Final = str(number(47, 212))
WITNESS: Final = "/out/witness"
NAMESPACES: Final = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
OWNER: Final = re.compile(r",[ug]id=\d+")
LINKS: Final = tuple(f"{name}:[" for name in NAMESPACES)
# A whiteout is no device to the kernel, so anybody may make one, but for Landlock: mknod(2).
WITHOUT_LANDLOCK: Final = "a device made:"
REPORT: Final = f"""
touch {WITNESS} 2>/dev/null
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk)' /proc/self/status
cat /proc/self/limits; hostname; env; pwd
mknod /tmp/device c 0 0 2>/dev/null; echo {WITHOUT_LANDLOCK} $?
stat -c '%n %A %u %g' / /* /dev/* /proc/self/fd/*
readlink /proc/1/root /proc/self/root /proc/self/cwd
""" + "".join(f"readlink /proc/self/ns/{name}\n" for name in NAMESPACES)
AGENT_LINES: Final = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")


@dataclass
class Outcome:
    """What became of a jail: refused with an error, or born; then ``report`` tells of it."""

    error: Exception | None = None
    report: Mapping[str, Any] | None = None
    trace: Trace | None = None


@dataclass
class Kind:
    """One kind of jail, and how it is when nothing fails."""

    name: str
    ids: str
    options: Mapping[str, Any]
    out: Path | None
    report: Mapping[str, Any] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    """of the place that is traced; those of an init up to Ready"""

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
    more = {"volumes": [f"{overlay}:/out"], "add_host": ["db:10.1.2.3"]}
    return [
        Kind("host", "single", {"userns": "single", **shared}, host),
        Kind("overlay", "subuid", {"rootfs": rootfs, **more}, overlay),
        Kind("bind", "subuid", {"rootfs": rootfs, "read_only": True}, None),
    ]


def every_init_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spare that was made before the tracer came."""
    real = Launcher.clone

    async def clone(
        self: Launcher,
        jail: int,
        flags: int,
        ids: IdMap,
        session: socket.socket,
        settings: tuple[Setting, ...],
        _: bool,
    ) -> Born:
        return await real(self, jail, flags, ids, session, settings, True)

    monkeypatch.setattr(Launcher, "clone", clone)


class Nursery:
    """A supervisor whose jails are born under a tracer, one at a time.

    ``place`` says whose calls are traced: ``init`` (the zygote's new children, and its own),
    ``zygote`` (alone), ``spare`` (an init that waits for its session, from there on).
    """

    def __init__(self, supervisor: Supervisor, folder: Path, place: str) -> None:
        self.supervisor = supervisor
        self.place = place
        self._folder = folder
        self._count = 0
        self._warm = 0

    async def learn(self, kind: Kind) -> None:
        """Look at one that nothing happens to."""
        zygote = await self.get_zygote(kind)
        async with self.trace(kind) as trace, self.supervisor.open_jail(**kind.options) as j:
            init = j.init_pid
        if self.place == "zygote":
            kind.calls = trace.count_calls(zygote)
        else:
            kind.calls = trace.count_calls(init, until=READY)
        assert kind.calls, f"nothing seen of {self.place}"
        async with self.supervisor.open_jail(**kind.options) as j:
            kind.report = await read_report(j)
        assert kind.out is None or kind.witness
        forget(kind)

    async def bear(self, kind: Kind, fault: Fault) -> Outcome:
        """One jail with a fault at its birth."""
        outcome = Outcome()
        forget(kind)
        try:
            with trio.fail_after(BORN_S):
                if self.place == "zygote":
                    await self._live_under(kind, fault, outcome)
                else:
                    await self._be_born_under(kind, fault, outcome)
        except Exception as error:
            outcome.error = error
        return outcome

    async def _be_born_under(self, kind: Kind, fault: Fault, outcome: Outcome) -> None:
        """The tracer lets go before a program runs, which would be counted as well."""
        async with AsyncExitStack() as life:
            async with self.trace(kind, fault.to_options()) as outcome.trace:
                j = await life.enter_async_context(self.supervisor.open_jail(**kind.options))
            outcome.report = await read_report(j)

    async def _live_under(self, kind: Kind, fault: Fault, outcome: Outcome) -> None:
        """The tracer stays until the zygote has buried the jail, or is dead itself."""
        async with self.trace(kind, fault.to_options()) as outcome.trace:
            async with self.supervisor.open_jail(**kind.options) as j:
                outcome.report = await read_report(j)
            await wait_for(lambda: j.init_pid not in read_children(self._warm))

    @asynccontextmanager
    async def trace(self, kind: Kind, options: Sequence[str] = ()) -> AsyncGenerator[Trace, None]:
        self._count += 1
        path = self._folder / f"trace-{kind.ids}-{self._count}"
        target = await self.get_zygote(kind)
        if self.place == "spare":
            async with self.supervisor.open_jail(**kind.options):
                pass  # it makes a spare after each; one that died is not made again
            target = await wait_for_spare(target)
        async with open_strace(path, target, options, follow=self.place == "init") as trace:
            yield trace

    async def get_zygote(self, kind: Kind) -> int:
        """Its pid, once it has done all that it does once in its life.

        One that was made to fail may be about to die: only a jail shows that it isn't.
        """
        launcher = self.supervisor._launchers.get((kind.ids, None))
        known = launcher is not None and not launcher.gone.is_set() and launcher.pid == self._warm
        while not known or self.place == "zygote":
            with suppress(JailBroken):
                async with self.supervisor.open_jail(**kind.options):
                    self._warm = self.supervisor._launchers[kind.ids, None].pid
                    break
        return self._warm


async def wait_for_spare(zygote: int) -> int:
    """The pid of the init that the zygote made ahead."""
    return await wait_for(lambda: find_spare(zygote))


async def wait_for(look: Callable[[], Found]) -> Found:
    """Until there is something to be seen."""
    with trio.fail_after(BORN_S):
        while True:
            if found := look():
                return found
            await trio.sleep(0.001)


def find_spare(zygote: int) -> int:
    """The one child that waits for a message; agents wait for several things. 0 for none."""
    for pid in read_children(zygote):
        with suppress(OSError):
            if Path(f"/proc/{pid}/syscall").read_text().split()[0] == RECVMSG:
                return pid
    return 0


def read_children(pid: int) -> list[int]:
    """None of a process that is gone."""
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def forget(kind: Kind) -> None:
    if kind.out is not None:
        with suppress(FileNotFoundError):
            (kind.out / "witness").unlink()


async def read_report(j: Jail) -> Mapping[str, Any]:
    """All of a living jail that must never differ: the program's view and the host's."""
    result = await j.run(["sh", "-c", REPORT], timeout=20)
    if result.verdict is Verdict.IE:
        raise JailBroken(result.message)
    assert b"time:[" in result.stdout, f"no report: {result}"
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
    assert len([line for line in said if line.startswith(LINKS)]) == len(NAMESPACES)
    return [line for line in said if line in mine]


def read_mounts(pid: int) -> list[list[str]]:
    """mountinfo without the numbers that differ from jail to jail: proc_pid_mountinfo(5)."""
    lines = OWNER.sub("", Path(f"/proc/{pid}/mountinfo").read_text()).splitlines()
    return [line.split(" ")[3:] for line in lines]


def read_agent(pid: int) -> list[str]:
    """Host ids by whose they are: a jail's own are others each time."""
    text = Path(f"/proc/{pid}/status").read_text()
    text = re.sub(r"^(?:Uid|Gid):.*$", lambda match: name_ids(match[0]), text, flags=re.M)
    return [line for line in text.splitlines() if line.startswith(AGENT_LINES)]


def name_ids(line: str) -> str:
    label, *ids = line.split()
    whose = {"0": "root's", str(os.getuid()): "mine", str(os.getgid()): "mine"}
    return " ".join([label, *(whose.get(each, "its own") for each in ids)])


def describe_difference(usual: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    """The lines that are not as usual."""
    lines = []
    for part, there in seen.items():
        if isinstance(there, list):
            lines += [f"{part} + {each}" for each in there if each not in usual[part]]
            lines += [f"{part} - {each}" for each in usual[part] if each not in there]
        if there != usual[part] and not lines:
            lines.append(f"{part}: {there}")
    return "; ".join(lines)


def is_honest(error: Exception | None) -> bool:
    """The sandbox's failure, told as one, in a sentence."""
    # SpecError: a place that can't be bound to may be the caller's mistake as well.
    sorts = (jail.HostError, jail.HelperError, jail.JailBroken, jail.SpecError)
    return isinstance(error, JailError) and isinstance(error, sorts) and bool(str(error).strip())
