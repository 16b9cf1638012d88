"""Jails are strangers to each other, to the host, and to the user's own programs."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from jail import Jail
from tests.attacks.payload import make_argv, run_inside, run_outside
from tests.conftest import OpenJail
from tests.part import not_exercised, require
from tests.probe import Probe, make_call

# -- meeting places -------------------------------------------------------------------------------


@pytest.fixture
def place() -> str:
    """A name and a key that nobody else has."""
    return uuid.uuid4().hex


MEETING_PLACES: Final = {"shm", "msg", "sem", "mq", "devshm", "abstract", "tcp"}


async def test_what_a_jail_creates_is_found_by_nobody_else(open_jail: OpenJail, place: str) -> None:
    """NS-11. System V and POSIX objects, abstract sockets, ports: not in a sibling, not outside."""
    async with open_jail() as one, open_jail() as other, hold_places(one, place) as made:
        assert made == MEETING_PLACES
        assert set(await run_inside(one, "ipc", "look", place)) == MEETING_PLACES
        assert await run_inside(other, "ipc", "look", place) == []
        assert run_outside("ipc", "look", place) == []


async def test_what_the_host_has_is_not_found_inside(open_jail: OpenJail, place: str) -> None:
    """NS-11, the other way round."""
    with create_outside(place):
        assert set(run_outside("ipc", "look", place)) >= MEETING_PLACES - {"mq"}
        async with open_jail() as j:
            assert await run_inside(j, "ipc", "look", place) == []


@contextmanager
def create_outside(place: str) -> Iterator[None]:
    """All of them, by a process of the host, for the length of a block."""
    argv = make_argv("ipc", "create", place)
    maker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert maker.stdout is not None
        maker.stdout.readline()
        yield
    finally:
        maker.communicate(b"", timeout=10)


class hold_places:  # noqa: N801 - reads as the verb it is
    """Creates them in a jail, and holds them for the length of a block."""

    def __init__(self, jail: Jail, place: str) -> None:
        self._running = jail.start(make_argv("ipc", "create", place))

    async def __aenter__(self) -> set[str]:
        process = await self._running.__aenter__()
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        return set(json.loads(line))

    async def __aexit__(self, *error: Any) -> None:
        await self._running.__aexit__(*error)


# -- what has no namespace ------------------------------------------------------------------------

LOCK: Final = """
import fcntl, json, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
answers = {}
for name, take in {
    "flock": lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "read_lock": lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "write_lock": lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "lease": lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "notify": lambda: fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_ACCESS),
}.items():
    try: take(); answers[name] = "OK"
    except OSError as error: answers[name] = os.strerror(error.errno)
print(json.dumps(answers), flush=True)
if len(sys.argv) > 2: sys.stdin.read()
"""
SHARED_FILE: Final = "/usr/bin/env"


async def lock(jail: Jail, path: str) -> dict[str, str]:
    result = await jail.run(["python3", "-c", LOCK, path])
    answers: dict[str, str] = json.loads(result.stdout)
    return answers


async def test_a_flock_on_a_shared_file_is_seen_by_others_as_documented(
    open_jail: OpenJail,
) -> None:
    """NS-12. The one channel through files that the default policy leaves open; leases are shut."""
    async with open_jail() as one, open_jail() as other:
        free = await lock(other, SHARED_FILE)
        hold = ["python3", "-c", LOCK, SHARED_FILE, "hold"]
        async with one.start(hold) as holder:
            assert holder.stdout is not None
            held = json.loads(await holder.stdout.receive_some())
            taken = await lock(other, SHARED_FILE)
    assert held == free
    assert (free["flock"], taken["flock"]) == ("OK", "Resource temporarily unavailable")
    for each in (free, taken):
        assert each["read_lock"] == "OK", "of which there can be many: it tells nothing"
        assert each["write_lock"] == "Bad file descriptor"
        assert each["lease"] == "Operation not permitted"


LEASE: Final = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
    try: fcntl.fcntl(fd, fcntl.F_SETLEASE, kind); print("leased")
    except OSError as error: print(os.strerror(error.errno))
"""


async def test_no_lease_holds_up_who_opens_a_volume_s_file(
    open_jail: OpenJail, tmp_path: Path
) -> None:
    """NS-12. The program may be the file's owner there, and owners may take leases."""
    shared = tmp_path / "shared"
    shared.write_text("x")
    if "leased" not in run_python(LEASE, str(shared)):
        not_exercised("this file system knows no leases")
    async with open_jail(volumes=[f"{tmp_path}:/data"]) as j:
        result = await j.run(["python3", "-c", LEASE, "/data/shared"])
    assert result.stdout == b"Operation not permitted\n" * 2


def run_python(source: str, *words: str) -> str:
    command = ["python3", "-c", source, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


WATCH: Final = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, sys.argv[1].encode(), 0x20) > 0  # IN_OPEN
print("watching", flush=True)
print("seen" if select.select([fd], [], [], float(sys.argv[2]))[0] else "nothing", flush=True)
"""


async def watch(jail: Jail, path: str, touch: Callable[[], object], seconds: float) -> str:
    """Whether a program inside notices what ``touch`` does to a file."""
    async with jail.start(["python3", "-c", WATCH, path, str(seconds)]) as watcher:
        assert watcher.stdout is not None
        assert await watcher.stdout.receive_some() == b"watching\n"
        touch()
        return (await watcher.stdout.receive_some()).decode().strip()


async def test_who_opens_a_shared_file_is_seen_as_documented(open_jail: OpenJail) -> None:
    """NS-12. inotify knows inodes, not namespaces: a shared read-only tree tells of its use."""

    def open_outside() -> None:
        with open(SHARED_FILE, "rb"):
            pass

    async with open_jail() as j:
        assert await watch(j, SHARED_FILE, open_outside, 20) == "seen"
        assert await watch(j, "/etc/passwd", open_outside, 0.2) == "nothing", "that one is its own"


async def test_a_lock_on_what_is_the_jail_s_own_is_nobody_else_s(open_jail: OpenJail) -> None:
    """NS-12. Its namespaces, its /proc, its devpts are other inodes than its sibling's."""
    for path in (
        "/proc/self/ns/uts",
        "/proc/version",
        "/proc/sys/kernel/ostype",
        "/tmp",
        "/dev/shm",
    ):
        async with open_jail() as one, open_jail() as other:
            hold = ["python3", "-c", LOCK, path, "hold"]
            async with one.start(hold) as holder:
                assert holder.stdout is not None
                held = json.loads(await holder.stdout.receive_some())
                assert (await lock(other, path))["flock"] == held["flock"] == "OK", path


async def test_no_family_of_sockets_leaves_the_network_namespace(
    open_jail: OpenJail, probe: Probe, probe_folder: Path
) -> None:
    """NS-12. AF_VSOCK and its like speak to the machine, not to a namespace."""
    families = {"vsock": 40, "alg": 38, "rxrpc": 33, "qipcrtr": 42, "tipc": 30, "bluetooth": 31}
    calls = [
        make_call("socket", number, kind, 0, label=f"{name}_{kind}")
        for name, number in families.items()
        for kind in (1, 2, 5)
    ]
    outside = probe.try_calls_outside(probe_folder, calls)
    exercised = {label for label, answer in outside.items() if answer == "OK"}
    if not exercised:
        not_exercised("this kernel has none of these families")
    async with open_jail() as j:
        answers = await probe.try_calls(j, calls)
    assert {answers[label] for label in exercised} == {"EAFNOSUPPORT"}


# -- keyrings -------------------------------------------------------------------------------------

FIND_KEYS: Final = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY, REQUEST_KEY, KEYCTL = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[
    os.uname().machine]
SEARCH, READ = 10, 11
name = sys.argv[1].encode()
found, errors = [], []
def call(*words):
    answer = libc.syscall(*words)
    if answer < 0: errors.append(ctypes.get_errno())
    return answer
for ring in (-1, -2, -3, -4, -5):
    key = call(KEYCTL, SEARCH, ring, b"user", name, 0)
    if key > 0:
        room = ctypes.create_string_buffer(64)
        if call(KEYCTL, READ, key, room, 64) > 0: found.append(room.value.decode())
if call(REQUEST_KEY, b"user", name, None, 0) > 0: found.append("requested")
call(ADD_KEY, b"user", name, b"x", 1, -3)
for path in ("/proc/keys", "/proc/key-users"):
    found += [path for line in open(path) if sys.argv[1] in line]
print(json.dumps([found, errors]))
"""
JAIL_IN_SESSION: Final = """
import subprocess, sys, jail
name, secret, userns, seccomp, source = sys.argv[1:]
def keyctl(*words):
    return subprocess.run(["keyctl", *words], check=True, capture_output=True, text=True).stdout
keys = [(keyctl("add", "user", name, secret, ring).strip(), ring) for ring in ("@s", "@u")]
look = ["python3", "-c", source, name]
print(subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip())
result = jail.run(look, userns=userns, seccomp=seccomp)
print(result.stdout.decode() or result.stderr.decode())
for key, ring in keys:
    keyctl("unlink", key, ring)
"""


@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
def test_a_key_of_the_supervisor_is_never_seen(userns: str, seccomp: str) -> None:
    """NS-13. In its session's keyring and in its user's: by the filter, and without it, too."""
    require("keyctl")
    name, secret = uuid.uuid4().hex, uuid.uuid4().hex
    drive = ["python3", "-c", JAIL_IN_SESSION, name, secret, userns, seccomp, FIND_KEYS]
    session = ["keyctl", "session", f"test-{name}", *drive]
    done = subprocess.run(session, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    outside, inside = done.stdout.splitlines()[:2]
    if secret not in outside:
        not_exercised("this kernel gives no keys to those who ask")
    found, errors = json.loads(inside)
    assert found == []
    if seccomp == "default":
        assert set(errors) <= {1, 38}, "EPERM or ENOSYS"
        assert len(errors) >= 7, "all of it was refused"
