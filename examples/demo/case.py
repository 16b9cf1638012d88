"""The programs, and how each must end."""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jail import Verdict

PROGRAMS = Path(__file__).resolve().parent / "program"
LIMITS: dict[str, Any] = {
    "memory": "128m",
    "cpu_time": "1s",
    "wall_time": "10s",
    "pids_limit": 32,
    "output_limit": "1m",
    "disk": "16m",
}
WORDS = "to be or not to be that is the question\n"
FILL_DISK = "while head -c 1m /dev/zero >/tmp/$((i += 1)); do :; done; exit 1"
COUNT_WORDS = "tr ' ' '\\n' | sort | uniq -c | sort -k1,1nr -k2 | head -2"


@dataclass(frozen=True)
class Case:
    """A program and how it must end. ``files`` of PROGRAMS are put into its jail before."""

    name: str
    argv: tuple[str, ...]
    verdict: Verdict
    files: tuple[str, ...] = ()
    input: str = ""
    output: str | None = None
    """what it must have printed, None for whatever"""
    stopped_by: str | None = None
    """the limit that must be the cause, None for no limit"""
    limits: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bait:
    """What the hostile programs are after."""

    canary: Path
    """a file in the home of whoever runs this, with ``secret`` in it"""
    secret: str
    listener: socket.socket
    """on the host's loopback"""
    marker: str
    """on the daemon's command line"""

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


@contextmanager
def open_bait() -> Iterator[Bait]:
    """Laid out for the length of the block."""
    secret = secrets.token_hex(16)
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix=".jail-canary-", dir=Path.home())
        canary = Path(stack.enter_context(folder)) / "canary.txt"
        canary.write_text(secret)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        yield Bait(canary, secret, listener, f"daemon-{secret}")


def make_honest() -> list[Case]:
    """Programs that must run as they would outside."""
    return [
        Case(
            "primes, in Python",
            ("python3", "primes.py"),
            Verdict.OK,
            files=("primes.py",),
            input="10\n1000000\n",
            output="4\n78498\n",
        ),
        Case(
            "words, in a shell pipeline",
            ("sh", "-c", COUNT_WORDS),
            Verdict.OK,
            input=WORDS,
            output="      2 be\n      2 to\n",
        ),
    ]


def make_compiled() -> list[Case]:
    """C: the compiler is as untrusted as what it makes, so both run in one jail."""
    return [
        Case(
            "gcc, inside",
            ("gcc", "-O2", "-o", "collatz", "collatz.c"),
            Verdict.OK,
            files=("collatz.c",),
            limits={"cpu_time": "5s", "wall_time": "10s"},
        ),
        Case("what it made", ("./collatz",), Verdict.OK, output="837799 (525 steps)\n"),
    ]


def make_hostile(bait: Bait) -> list[Case]:
    """Programs that must come to nothing."""
    return [*make_greedy(), *make_curious(bait)]


def make_greedy() -> list[Case]:
    """Those that want all there is of something, and meet a limit."""
    return [
        Case(
            "fork bomb",
            ("python3", "fork_bomb.py"),
            Verdict.PLE,
            files=("fork_bomb.py",),
            stopped_by="pids",
        ),
        Case(
            "memory bomb",
            ("python3", "memory_bomb.py"),
            Verdict.MLE,
            limits={"cpu_time": "10s"},
            files=("memory_bomb.py",),
            stopped_by="memory",
        ),
        Case(
            "endless loop",
            ("sh", "-c", "while :; do :; done"),
            Verdict.TLE,
            stopped_by="cpu_time",
        ),
        Case(
            "endless sleep",
            ("sleep", "1000"),
            Verdict.TLE,
            stopped_by="wall_time",
            limits={"wall_time": "500ms"},
        ),
        Case("output flood", ("yes",), Verdict.OLE, stopped_by="output"),
        Case(
            "disk filler",
            ("sh", "-c", FILL_DISK),
            Verdict.DLE,
            stopped_by="disk",
        ),
    ]


def make_curious(bait: Bait) -> list[Case]:
    """Those that want something of the host, and don't find it."""
    return [
        Case(
            "reads a file of the user",
            ("python3", "thief.py", str(bait.canary)),
            Verdict.RE,
            files=("thief.py",),
            output="",
        ),
        Case(
            "calls a listener on the host",
            ("python3", "caller.py", str(bait.port)),
            Verdict.RE,
            files=("caller.py",),
            output="",
        ),
        Case("makes a user namespace", ("unshare", "-Ur", "id"), Verdict.RE, output=""),
    ]
