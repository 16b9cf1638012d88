"""strace as a hand in a living process: it counts system calls, and makes the n-th one fail.

It is attached, never a parent: under a tracer a setuid program such as newuidmap has no rights,
and ``--seccomp-bpf`` would give the traced the very filter whose absence is to be noticed. The
maker of a user namespace may trace whoever is in it (user_namespaces(7)), so this needs no root.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

ATTACH_S: Final = 10.0
LIFETIME_S: Final = "120"
LINE: Final = re.compile(r"(?:(\d+) +)?(?:<\.\.\. )?(\w+)(\(| resumed)")


class Fault(NamedTuple):
    """What befalls the ``when``-th ``call`` of each traced process: ``error=E`` or ``signal=S``."""

    call: str
    when: int
    action: str

    def to_options(self) -> list[str]:
        inject = f"inject={self.call}:{self.action}:when={self.when}"
        return ["-e", f"trace={self.call}", "-e", inject]

    def __str__(self) -> str:
        return f"{self.call} number {self.when}, {self.action}"


LOOP: Final = ("poll", "read", "wait4")
"""an event loop makes them as often as it happens: only the first can be relied on"""


def count_reliable(call: str, count: int) -> int:
    return min(count, 1) if call in LOOP else count


def make_faults(call: str, count: int, errnos: tuple[str, ...]) -> Iterator[Fault]:
    """Each of the ``count`` calls once, and each errno once."""
    count = count_reliable(call, count)
    for i in range(max(count, len(errnos)) if count else 0):
        yield Fault(call, 1 + i % count, f"error={errnos[i % len(errnos)]}")


class Line(NamedTuple):
    """The begin of a call, or what was injected into one."""

    pid: int
    call: str
    text: str
    begins: bool


class Trace:
    """What a tracer wrote; complete once it is detached."""

    def __init__(self, path: Path, only: int) -> None:
        self._path = path
        self._only = only

    def read(self) -> list[Line]:
        found = []
        for text in self._path.read_text(errors="replace").splitlines():
            if match := LINE.match(text):
                pid, call, kind = match.groups()
                found.append(Line(int(pid or self._only), call, text, kind == "("))
        return found

    def list_calls(self, pid: int, until: str = "") -> list[Line]:
        """Those that ``pid`` began, up to the one whose text holds ``until``."""
        calls = []
        for line in self.read():
            if line.pid == pid and line.begins:
                calls.append(line)
                if until and until in line.text:
                    break
        return calls

    def count_calls(self, pid: int, until: str = "") -> Counter[str]:
        return Counter(line.call for line in self.list_calls(pid, until))

    def count_injected(self) -> int:
        return sum("(INJECTED)" in line.text for line in self.read())


@asynccontextmanager
async def open_strace(
    path: Path, pid: int, options: Sequence[str] = (), *, follow: bool = True
) -> AsyncGenerator[Trace, None]:
    """A tracer of ``pid`` (and with ``follow`` of all it forks), detached when the block ends."""
    process = start_strace(path, pid, options, follow=follow)
    try:
        with trio.fail_after(ATTACH_S):
            while not is_held(pid, process):
                if process.poll() is not None:  # its fault came sooner than our look
                    assert is_dead(pid), read_complaint(process)
                    break
                await trio.sleep(0.001)
        yield Trace(path, pid)
    finally:
        # It passes the signal on to strace, which lets go of all it holds.
        process.terminate()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def start_strace(
    path: Path, pid: int, options: Sequence[str] = (), *, follow: bool
) -> subprocess.Popen[bytes]:
    command = ["timeout", "-s", "KILL", LIFETIME_S, "strace", "-q", "-s", "0", "-o", str(path)]
    command += [*(["-f"] if follow else []), *options, "-p", str(pid)]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=subprocess.PIPE)


def is_held(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    """By this one: the last one may still be about to let go."""
    return read_parent(read_tracer(pid)) == tracer.pid


def read_tracer(pid: int) -> int:
    """0 where nobody traces it, or it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return int(line.split()[1])
    return 0


def read_parent(pid: int) -> int:
    """0 of nobody."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def is_dead(pid: int) -> bool:
    """A zombie is."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def read_complaint(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    return "strace: " + process.stderr.read().decode(errors="replace")
