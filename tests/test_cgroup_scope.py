"""A scope is asked of systemd over a real bus; whatever goes wrong is a reason, in time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from jail.cgroup import scope
from jail.cgroup.file import read_pids
from jail.cgroup.grant import WANTED, PassedOver
from jail.cgroup.subtree import open_subtree, predict_grant
from jail.host import HostFacts
from jail.place import parse_bus_address, read_buses
from tests.cgroup_tree import CgroupTree, cgroups
from tests.fake_systemd import FakeSystemd, open_daemon
from tests.part import require

__all__ = ["cgroups"]

USER = 1000
ZYGOTE = 4_194_305
"""above PID_MAX_LIMIT: no process has it"""
OPTIONS = ["Description", "PIDs", "Delegate", "CollectMode"]
Serve = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def facts(cgroups: CgroupTree) -> HostFacts:
    """A session's cgroup, which is root's, on a host with systemd."""
    session = cgroups.add("session-1.scope", procs=(ZYGOTE,))
    facts = cgroups.facts(session, uid=USER, systemd=True, buses=("/nonexistent",))
    session.chmod(0o555)
    return facts


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """The socket of a bus."""
    require("dbus-daemon")
    with open_daemon(tmp_path) as bus:
        yield bus


@asynccontextmanager
async def serving(serve: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, *args)
        yield
        nursery.cancel_scope.cancel()


async def refuse(*buses: str, timeout_s: float | None = None) -> str:
    """What is said when there is no scope; nothing but that may come of it."""
    with trio.fail_after(10), pytest.raises(PassedOver) as caught:
        await scope.move_to_scope(buses, ZYGOTE, timeout_s)
    return str(caught.value)


async def test_the_zygote_gets_a_scope_and_nobody_else(
    cgroups: CgroupTree, facts: HostFacts, bus: str
) -> None:
    assert facts.cgroup is not None and read_pids(facts.cgroup.path) == (os.getpid(), ZYGOTE)
    systemd = FakeSystemd(cgroups)
    async with serving(systemd.serve, bus):
        path = await scope.move_to_scope((bus,), ZYGOTE)
    assert path.parent == cgroups.mount / "app.slice" and path.suffix == ".scope"
    assert read_pids(path) == (ZYGOTE,)
    assert read_pids(cgroups.mount / "session-1.scope") == (os.getpid(),)
    (_, _), (_, (unit, mode, properties, others)) = systemd.asked
    assert [method for method, _ in systemd.asked] == ["Subscribe", "StartTransientUnit"]
    assert (unit, mode, others) == (path.name, "fail", [])
    assert unit.startswith(f"jail-{os.getpid()}-")
    assert [name for name, _ in properties] == OPTIONS
    assert dict(properties)["Delegate"] == ("b", True)


async def test_a_scope_becomes_a_subtree(cgroups: CgroupTree, facts: HostFacts, bus: str) -> None:
    async with serving(FakeSystemd(cgroups).serve, bus):
        subtree, reasons = await open_subtree(replace(facts, buses=(bus,)), None, ZYGOTE)
    assert subtree is not None, reasons
    assert subtree.grant.origin == "scope"
    assert subtree.grant.controllers == WANTED == cgroups.enabled(Path(subtree.grant.path))
    assert len(reasons) == 1 and reasons[0].startswith("own: ")
    (host,) = cgroups.names(Path(subtree.grant.path))
    assert read_pids(Path(subtree.grant.path) / host) == (ZYGOTE,)
    cgroups.put(Path(subtree.grant.path) / host, "cgroup.procs", "")
    subtree.close()
    assert cgroups.names(Path(subtree.grant.path)) == set()


@pytest.mark.parametrize(
    "changes",
    [{"tells_early": True}, {"results": ("failed", "canceled", "done")}],
    ids=["told before it is answered", "others' jobs fail"],
)
async def test_our_own_job_is_waited_for(
    cgroups: CgroupTree, bus: str, changes: dict[str, Any]
) -> None:
    async with serving(FakeSystemd(cgroups, **changes).serve, bus):
        path = await scope.move_to_scope((bus,), ZYGOTE)
    assert read_pids(path) == (ZYGOTE,)


async def test_a_systemd_that_comes_to_the_bus_after_us_is_waited_for(
    cgroups: CgroupTree, bus: str
) -> None:
    """The first to use a bus may be us, and it is started for us."""
    found: list[Path] = []

    async def ask() -> None:
        found.append(await scope.move_to_scope((bus,), ZYGOTE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not found
        async with serving(FakeSystemd(cgroups).serve, bus):
            with trio.fail_after(10):
                while not found:
                    await trio.testing.wait_all_tasks_blocked()
    assert read_pids(found[0]) == (ZYGOTE,)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "job failed": ({"results": ("failed",)}, "could not start jail-"),
    "job timeout": ({"results": ("done", "timeout")}, ".scope: timeout"),
    "denied": (
        {"answers": {"StartTransientUnit": "org.freedesktop.DBus.Error.AccessDenied"}},
        "scope: AccessDenied: said so",
    ),
    "not subscribed": (
        {"answers": {"Subscribe": "org.freedesktop.DBus.Error.Failed"}}, "scope: Failed: said so",
    ),
    "a number for a job": (
        {"answers": {"StartTransientUnit": ("u", (7,))}}, "the bus answers something else"
    ),
    "nothing for a job": (
        {"answers": {"StartTransientUnit": (None, ())}}, "the bus answers something else"
    ),
    "a lie": ({"moves": False}, "says it started jail-"),
    "root's": ({"mode": 0o555}, "isn't ours to write"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_systemd_refuses_is_a_reason(cgroups: CgroupTree, bus: str, what: str) -> None:
    changes, words = REFUSALS[what]
    cgroups.add("session-1.scope", procs=(ZYGOTE,))
    async with serving(FakeSystemd(cgroups, **changes).serve, bus):
        said = await refuse(bus)
    assert said.startswith("scope: ") and words in said


@pytest.mark.parametrize("method", ["Subscribe", "StartTransientUnit"])
async def test_a_silent_systemd_is_not_waited_for_long(
    cgroups: CgroupTree, bus: str, method: str
) -> None:
    async with serving(FakeSystemd(cgroups, answers={method: None}).serve, bus):
        said = await refuse(bus, timeout_s=0.2)
    assert said == "scope: no answer from systemd within 0.2 s"


async def test_what_systemd_says_is_one_printable_line(cgroups: CgroupTree, bus: str) -> None:
    denied = "org.freedesktop.DBus.Error.AccessDenied"
    answers: Any = {"Subscribe": denied}
    systemd = FakeSystemd(cgroups, answers=answers, words="\x1b[2J\nno" + "!" * 999)
    async with serving(systemd.serve, bus):
        said = await refuse(bus)
    assert said.isprintable() and said.startswith("scope: AccessDenied: \\x1b[2J\\nno!!!")
    assert len(said) < 300


async def test_a_bus_without_systemd_is_a_reason(bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "ARRIVAL_S", 0.05)
    assert await refuse(bus) == "scope: systemd is not on this bus"


async def test_a_bus_of_another_pid_namespace_moves_nobody(cgroups: CgroupTree, bus: str) -> None:
    """There our pid is a stranger's."""
    script = (
        "import trio; from jail.cgroup import bus, scope\n"
        "async def main():\n"
        f"    async with bus.open_bus({bus!r}) as ours:\n"
        "        await scope._start_scope(ours, 1)\n"
        "trio.run(main)\n"
    )
    systemd = FakeSystemd(cgroups)
    inside = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child"]
    async with serving(systemd.serve, bus):
        done = await trio.run_process(
            [*inside, sys.executable, "-c", script], capture_stderr=True, check=False
        )
    assert b"BusError: the bus is of another pid namespace" in done.stderr
    assert systemd.asked == []


@asynccontextmanager
async def open_raw(folder: Path, serve: Serve) -> Any:
    """A socket where a bus should be, served by whatever a test wants."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
        plain.bind(f"{folder}/raw")
        plain.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(plain))
        async with serving(trio.serve_listeners, serve, [listener]):
            yield f"{folder}/raw"


def answer_login(then: bytes, *, repeat: int = 1) -> Serve:
    """Lets anybody in, and then says this."""

    async def serve(stream: trio.SocketStream) -> None:
        told = b""
        while b"\r\n" not in told:  # b"\0", and then AUTH
            told += await stream.receive_some()
        await stream.send_all(b"OK 0123456789abcdef0123456789abcdef\r\n")
        await stream.receive_some()
        try:
            for _ in range(repeat):
                await stream.send_all(then)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return

    return serve


def say(text: bytes) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(text)
        while await stream.receive_some():
            pass

    return serve


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


SIGNAL = b"l\4\1\1\0\0\0\0\1\0\0\0\0\0\0\0"
NONSENSE: dict[str, tuple[Serve, str]] = {
    "hangs up": (hang_up, "hung up"),
    "rejected": (say(b"REJECTED ANONYMOUS\r\n"), "lets us not in"),
    "another protocol": (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "lets us not in"),
    "binary": (say(bytes(range(256)) * 64), "lets us not in"),
    "zeros": (answer_login(b"\0" * 64), "talks no D-Bus"),
    "text": (answer_login(b"hello, world\r\n" * 9), "talks no D-Bus"),
    "no known type": (answer_login(b"l\11\1\1" + SIGNAL[4:]), "talks no D-Bus"),
    "broken fields": (
        answer_login(b"l\1\0\1\0\0\0\0\1\0\0\0\x08\0\0\0\1\1o\0\xff\xff\xff\xff"), "talks no D-Bus"
    ),
    "signals without end": (answer_login(SIGNAL * 256, repeat=9999), "more than"),
    "a message without end": (
        answer_login(b"l\2\1\1\0\0\0\x07" + bytes(1 << 12), repeat=9999), "more than"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
async def test_what_is_no_bus_is_a_reason(tmp_path: Path, what: str) -> None:
    serve, words = NONSENSE[what]
    async with open_raw(tmp_path, serve) as raw:
        assert words in await refuse(raw)


@pytest.mark.parametrize("text", [b"", b"OK 0123456789abcdef0123456789abcdef\r\n"])
async def test_a_silent_bus_is_not_waited_for_long(tmp_path: Path, text: bytes) -> None:
    async with open_raw(tmp_path, say(text)) as raw:
        said = await refuse(raw, timeout_s=0.2)
    assert said == "scope: no answer from systemd within 0.2 s"


async def test_a_cancelled_question_leaves_no_descriptor(tmp_path: Path) -> None:
    async with open_raw(tmp_path, say(b"")) as raw:
        before = os.listdir("/proc/self/fd")
        with trio.move_on_after(0.1) as cancelled:
            await scope.move_to_scope((raw,), ZYGOTE)
        assert cancelled.cancelled_caught
        with trio.fail_after(5):  # the server sees the end, and closes its own
            while len(os.listdir("/proc/self/fd")) > len(before):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_the_next_bus_is_tried(cgroups: CgroupTree, bus: str, tmp_path: Path) -> None:
    """A session's own, such as dbus-run-session makes one, has no systemd on it."""
    (tmp_path / "other").mkdir()
    with open_daemon(tmp_path / "other") as other:
        async with serving(FakeSystemd(cgroups).serve, bus):
            path = await scope.move_to_scope((other, bus), ZYGOTE)
    assert read_pids(path) == (ZYGOTE,)
    said = await refuse("/nonexistent/a", "\0nonexistent")
    assert said.startswith("scope: /nonexistent/a: No such file or directory; @nonexistent: ")


async def test_without_a_bus_or_systemd_nothing_is_tried(facts: HostFacts) -> None:
    said: dict[str, dict[str, Any]] = {
        "scope: no D-Bus to ask systemd by: no /run/user/1000/bus": {"buses": ()},
        "scope: systemd does not run here": {"systemd": False},
    }
    for words, changes in said.items():
        subtree, reasons = await open_subtree(replace(facts, **changes), None, ZYGOTE)
        assert subtree is None and reasons[1:] == (words,)


def test_a_scope_is_predicted_where_one_can_be_asked_for(
    cgroups: CgroupTree, facts: HostFacts
) -> None:
    service = cgroups.add("user@1000.service", pids__max="40")
    assert facts.cgroup is not None
    place = replace(facts.cgroup, user_service=service, user_controllers=("memory", "misc"))
    grant, passed_over = predict_grant(replace(facts, cgroup=place), None)
    assert grant is not None and len(passed_over) == 1
    assert (grant.origin, grant.path) == ("scope", str(service))
    assert grant.controllers == {"memory"} and grant.room.pids == 40
    none, passed_over = predict_grant(replace(facts, cgroup=place, buses=()), None)
    assert none is None and "no D-Bus" in passed_over[1]
    bare = replace(place, user_controllers=())
    none, passed_over = predict_grant(replace(facts, cgroup=bare), None)
    assert none is None and "none with controllers" in passed_over[1]
    root, _ = predict_grant(replace(facts, uid=0), None)
    assert root is not None and root.controllers == WANTED


def test_addresses_are_read_as_the_bus_writes_them() -> None:
    assert parse_bus_address("unix:path=/run/user/1/bus,guid=0f") == ["/run/user/1/bus"]
    assert parse_bus_address("unix:abstract=/a;unix:path=/b%20c") == ["\0/a", "/b c"]
    for text in ("", "unix:", "unix:path", "tcp:host=a,port=1", "unix:path=", "x", "unix:path=%00"):
        assert parse_bus_address(text) == [], text


def test_buses_are_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bus").touch()
    for address in ("", "unix:path=/nonexistent", "nonsense", f"unix:path={tmp_path}/bus"):
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert read_buses(4_200_000_000) == (f"{tmp_path}/bus",)
    assert set(read_buses(0)) <= {"/run/dbus/system_bus_socket"}


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert all("\0" not in each[1:] for each in parse_bus_address(text))


def test_no_library_is_loaded_before_there_is_a_bus() -> None:
    script = "import sys, jail.supervisor; print('jeepney' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
