"""Terminals: the caller's own is out of reach, the jail's own can't be turned against anybody."""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from jail import Jail, Supervisor, Verdict
from tests.conftest import OpenJail
from tests.part import not_exercised

ATTACK: Final = """
import errno, fcntl, glob, json, os, struct, sys
REQUESTS = {
    'TIOCSTI': (0x5412, b'X'), 'TIOCSTI with garbage': (0x5412 | 1 << 32, b'X'),
    'TIOCLINUX': (0x541c, b'\\x03' + bytes(63)), 'TIOCCONS': (0x541d, bytes(8)),
    'TIOCSETD': (0x5423, struct.pack('i', 0)),
}
found = {}
def tried(name, done):
    try: found[name] = done() and 'OK' or 'OK'
    except OSError as error: found[name] = errno.errorcode[error.errno]
def call(fd, request, data):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(data, len(data))
    if libc.syscall(IOCTL, ctypes.c_long(fd), ctypes.c_long(request), buffer) < 0:
        raise OSError(ctypes.get_errno(), '')
places = {'0': 0, '1': 1, '2': 2}
names = ['tty', 'console', 'tty0', 'tty1', 'ptmx']
for path in [*map('/dev/'.__add__, names), *glob.glob('/dev/pts/[0-9]*')]:
    try: places[path] = os.open(path, os.O_RDWR | os.O_NOCTTY)
    except OSError as error: found[path] = errno.errorcode[error.errno]
for place, fd in places.items():
    for name, (request, data) in REQUESTS.items():
        tried(f'{name} {place}', lambda: call(fd, request, data))
print(json.dumps(found))
""".replace("IOCTL", "16" if os.uname().machine == "x86_64" else "29")
REFUSED: Final = ("TIOCSTI", "TIOCLINUX", "TIOCCONS", "TIOCSETD")


class Outer:
    """A terminal of ours, as a person has one, with nothing typed into it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)

    async def run(self, source: str, *words: str) -> dict[str, Any]:
        """Python on that terminal, in a session of its own; what it writes to fd 3, as JSON."""
        reader, writer = os.pipe()
        boot = f"import fcntl; fcntl.ioctl(0, {termios.TIOCSCTTY}, 0)\n"
        command = [sys.executable, "-c", boot + source, str(writer), *words]
        process = start_on(command, self.slave, writer)
        os.close(writer)
        try:
            async with trio.lowlevel.FdStream(reader) as stream:
                text = b"".join([part async for part in stream])
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(process.wait)
        return dict(json.loads(text))

    def count_typed(self) -> int:
        """Bytes that wait to be read by whoever sits at it."""
        answer = fcntl.ioctl(self.slave, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


def start_on(command: list[str], slave: int, keep: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, pass_fds=(keep,), start_new_session=True
    )


@pytest.fixture
def outer() -> Iterator[Outer]:
    made = Outer()
    yield made
    made.close()


def assert_refused(found: dict[str, str]) -> None:
    """Each request on each place that could be opened: by the filter, before anything looks."""
    tries = {name: answer for name, answer in found.items() if name.startswith(REFUSED)}
    assert len(tries) >= 5 * 3
    assert set(tries.values()) == {"EPERM"}, found


async def attack(j: Jail) -> dict[str, str]:
    result = await j.run(["python3", "-c", ATTACK])
    assert result.verdict is Verdict.OK, result.stderr
    return dict(json.loads(result.stdout))


# -- TY-01 ----------------------------------------------------------------------------------------

IN_A_JAIL: Final = """
import json, os, sys
import jail
userns, attack = sys.argv[2:]
result = jail.run(['python3', '-c', attack], userns=userns)
os.write(int(sys.argv[1]), result.stdout or json.dumps({'stderr': result.stderr.decode()}).encode())
"""
WITHOUT_JAIL: Final = """
import os, subprocess, sys
done = subprocess.run([sys.executable, '-c', sys.argv[2]], stdout=subprocess.PIPE)
os.write(int(sys.argv[1]), done.stdout)
"""


async def test_nothing_is_typed_into_the_caller_s_terminal(outer: Outer, userns: str) -> None:
    """TY-01: CVE-2017-5226. Nor can it be found: neither as a stream nor by /dev/tty."""
    found = await outer.run(IN_A_JAIL, userns, ATTACK)
    assert_refused(found)
    assert found["/dev/tty"] == "ENXIO"
    assert outer.count_typed() == 0


async def test_without_a_jail_something_is_typed(outer: Outer) -> None:
    """TY-01, its control."""
    found = await outer.run(WITHOUT_JAIL, ATTACK)
    assert found["TIOCSETD 0"] == "OK", "a line discipline is anybody's to set on his own terminal"
    if found["TIOCSTI 0"] != "OK":
        not_exercised(
            f"this kernel lets nobody type (dev.tty.legacy_tiocsti): {found['TIOCSTI 0']}"
        )
    assert outer.count_typed() >= 1


async def test_a_jail_leaves_the_caller_s_terminal_as_it_was(outer: Outer, userns: str) -> None:
    """TY-01: its modes, its size, its foreground group, the group that owns it."""
    source = (
        "import os,sys,termios,json\n"
        "def look(): return [str(termios.tcgetattr(0)), list(os.get_terminal_size(0)),"
        " os.tcgetpgrp(0) == os.getpgrp(), os.ttyname(0), os.stat(os.ttyname(0)).st_mode]\n"
        "import jail\n"
        "before = look()\n"
        "script = 'stty raw rows 7 cols 7 < /dev/tty; stty raw; setsid -c true; kill -STOP 0'\n"
        "jail.run(['sh', '-c', script], userns=sys.argv[2], timeout=1)\n"
        "os.write(int(sys.argv[1]), json.dumps({'before': before, 'after': look()}).encode())\n"
    )
    found = await outer.run(source, userns)
    assert found["before"] == found["after"]


# -- TY-03 ----------------------------------------------------------------------------------------


async def test_no_request_that_reaches_beyond_a_terminal_is_let_through(
    open_jail: OpenJail,
) -> None:
    """TY-03: CVE-2023-28100. On pipes, and on whatever can be opened."""
    async with open_jail() as j:
        found = await attack(j)
    assert_refused(found)
    assert found["/dev/tty"] == "ENXIO"
    assert {found[name] for name in ("/dev/console", "/dev/tty0", "/dev/tty1")} == {"ENOENT"}


async def read_json(j: Jail, source: str) -> Any:
    """From a program on a terminal of the jail's own."""
    async with j.start(["python3", "-c", source], terminal=True) as process:
        assert process.stdout is not None
        text = b"".join([part async for part in process.stdout])
    return json.loads(text.splitlines()[-1])


async def test_on_a_terminal_of_its_own_the_same_is_refused(open_jail: OpenJail) -> None:
    """TY-01, TY-03: there it would type to itself, or to a program that comes after."""
    async with open_jail() as j:
        found = await read_json(j, ATTACK)
    assert_refused(found)
    assert "/dev/tty" not in found, "it has one"


async def test_a_terminal_can_t_be_stolen(open_jail: OpenJail) -> None:
    """TY-03: another session's controlling terminal stays that session's."""
    source = (
        "import errno,fcntl,json,os,sys,termios\n"
        "found = {}\n"
        "def tried(name, *args):\n"
        "  try: fcntl.ioctl(*args); found[name] = 'OK'\n"
        "  except OSError as e: found[name] = errno.errorcode[e.errno]\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  for force in (0, 1): tried(f'TIOCSCTTY {force}', 0, termios.TIOCSCTTY, force)\n"
        "  try: open('/dev/tty'); found['/dev/tty'] = 'OK'\n"
        "  except OSError as e: found['/dev/tty'] = errno.errorcode[e.errno]\n"
        "  print(json.dumps(found), flush=True)\n"
        "  os._exit(0)\n"
        "os.wait()\n"
    )
    async with open_jail() as j:
        found = await read_json(j, source)
    assert found == {"TIOCSCTTY 0": "EPERM", "TIOCSCTTY 1": "EPERM", "/dev/tty": "ENXIO"}


CONSOLE: Final = {
    "KDGKBTYPE": 0x4B33,
    "KDSETMODE": 0x4B3A,
    "KDSKBSENT": 0x4B49,
    "VT_ACTIVATE": 0x5606,
}


async def test_no_console_request_has_a_console_to_go_to(open_jail: OpenJail) -> None:
    """TY-03: KD* and VT_* are let through, and find nothing that knows them."""
    source = (
        "import errno,fcntl,json\n"
        "found = {}\n"
        f"for name, request in {CONSOLE}.items():\n"
        "  for place in ('/dev/tty', '/dev/null', '/dev/ptmx'):\n"
        "    with open(place, 'rb+', buffering=0) as f:\n"
        "      try: fcntl.ioctl(f, request, bytes(1000)); found[name + place] = 'OK'\n"
        "      except OSError as e: found[name + place] = errno.errorcode[e.errno]\n"
        "print(json.dumps(found))\n"
    )
    async with open_jail() as j:
        found = await read_json(j, source)
    assert len(found) == 12
    assert set(found.values()) <= {"ENOTTY", "EINVAL", "EPERM"}


async def test_one_jail_s_terminals_are_not_another_s(supervisor: Supervisor, userns: str) -> None:
    """TY-01: a devpts each; the host's isn't seen either."""
    source = "import json,os; print(json.dumps([sorted(os.listdir('/dev/pts')), os.ttyname(0)]))"
    outside = len([name for name in os.listdir("/dev/pts") if name.isdigit()])
    master, slave = os.openpty()
    try:
        assert len([name for name in os.listdir("/dev/pts") if name.isdigit()]) == outside + 1
        async with (
            supervisor.open_jail(userns=userns) as a,
            supervisor.open_jail(userns=userns) as b,
            a.start(["cat"], terminal=True),
        ):
            assert await read_json(b, source) == [["0", "ptmx"], "/dev/pts/0"]
            assert await read_json(a, source) == [["0", "1", "ptmx"], "/dev/pts/1"]
    finally:
        os.close(master)
        os.close(slave)


async def test_a_terminal_is_gone_with_its_jail(open_jail: OpenJail) -> None:
    """TY-01: its other side, ours, reads the end; nothing waits for ever."""
    with trio.fail_after(20):
        async with open_jail() as j, j.start(["cat"], terminal=True) as process:
            j.kill()
            result = await process.wait()
            assert process.stdout is not None
            assert b"".join([part async for part in process.stdout]) == b""
    assert result.verdict is Verdict.IE


def test_the_control_has_a_terminal(outer: Outer) -> None:
    """What is typed is seen."""
    os.write(outer.master, b"a")
    assert select.select([outer.slave], [], [], 5)[0], "it arrives by a work queue"
    assert outer.count_typed() == 1
    assert Path(os.ttyname(outer.slave)).exists()
