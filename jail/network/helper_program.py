"""A helper program that makes a jail's network: start, readiness, death, end.

It must not outlive us, however we end. A parent-death signal is no way: it is bound to the thread
that started the program, and forgotten when its credentials change (PR_SET_PDEATHSIG(2const)). So
its stdin is a pipe whose other end is ours alone. The kernel closes that with us, and then sends
SIGKILL to whom the reading end names as its owner: fcntl(2), F_SETOWN, F_SETSIG, O_ASYNC.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Final, NamedTuple

import trio

from jail.background import open_background
from jail.errors import HelperError, HostError, blame_host, make_line

READY_TIMEOUT_S: Final = 10.0
WORDS_TIMEOUT_S: Final = 1.0
END_TIMEOUT_S: Final = 5.0
HELP_TIMEOUT_S: Final = 5.0
MAX_HELP_BYTES: Final = 65536
WORDS_BYTES: Final = 2048
"""of the beginning of what it says, and as many of the end"""
SAID_CHARACTERS: Final = 300
MAX_READY_BYTES: Final = 64
CHUNK_BYTES: Final = 65536
STDOUT: Final = 1
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}

# What pasta says, after each line, on a host without a syslog.
_NOISE: Final = re.compile(r"Failed to send [0-9]+ bytes to syslog", re.ASCII)

MakeArgv = Callable[[int], Sequence[str]]
IsReady = Callable[[bytes], bool]
OnDeath = Callable[[str], None]


class Started(NamedTuple):
    """A process, and our ends of its pipes."""

    process: subprocess.Popen[bytes]
    pidfd: int
    ready: io.FileIO
    said: io.FileIO


class Helper:
    """One running program; made by :func:`open_helper`."""

    def __init__(self, name: str, started: Started) -> None:
        self.name = name
        self._process, self._pidfd, self._ready, self._said = started
        self._words = Words()
        self._hung_up = trio.Event()
        self._dead = trio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read_words(self) -> None:
        """All it says has to be read, or it would stop at a full pipe one day."""
        while data := await _read(self._said, CHUNK_BYTES):
            self._words.add(data)
        self._hung_up.set()

    async def read_help(self) -> str:
        """What it says by itself, until it has said enough, or is not heard of any more."""
        said = b""
        with trio.move_on_after(HELP_TIMEOUT_S) as scope:
            while len(said) < MAX_HELP_BYTES and (data := await _read(self._said, CHUNK_BYTES)):
                said += data
        self._hung_up.set()
        if scope.cancelled_caught:
            raise HelperError(f"{self.name} --help: no end of it in {HELP_TIMEOUT_S:g} s")
        return said.decode(errors="replace")

    async def wait_dead(self) -> None:
        """Until it has ended, its children with it, and the rest of its words has been read."""
        await trio.lowlevel.wait_readable(self._pidfd)
        self._kill()  # while nobody has reaped it, its number is nobody else's
        self._process.wait()
        with trio.move_on_after(WORDS_TIMEOUT_S):
            await self._hung_up.wait()
        self._dead.set()

    async def watch(self, on_death: OnDeath) -> None:
        """Tells how it died."""
        await self._dead.wait()
        on_death(self._describe_end())

    async def wait_ready(self, is_ready: IsReady) -> None:
        """Until it has said so. HostError: it died; HelperError: it said another thing, or none."""
        said = b""
        with trio.move_on_after(READY_TIMEOUT_S):
            while not is_ready(said):
                if len(said) >= MAX_READY_BYTES:
                    raise HelperError(f"{self.name} does not say that it is ready, but {said!r}")
                data = await _read(self._ready, MAX_READY_BYTES - len(said))
                if not data:
                    await self._dead.wait()
                    raise HostError(self._describe_end(), step=f"{self.name} start")
                said += data
            self._ready.close()
            return
        words = f": {self._words.line}" if self._words.line else ", and said nothing"
        raise HelperError(f"{self.name} was not ready in {READY_TIMEOUT_S:g} s{words}")

    async def end(self) -> None:
        """At once, stopped or not: it has nothing to put in order. Shielded by the caller."""
        if self._process.returncode is None:
            self._kill()
        with trio.move_on_after(END_TIMEOUT_S):
            await self._dead.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it leads a group: starting, it may have children
            os.killpg(self.pid, signal.SIGKILL)

    def _describe_end(self) -> str:
        """``pasta exited with 1: what it said``"""
        status = self._process.returncode
        how = f"exited with {status}" if status >= 0 else f"was killed by {name_signal(-status)}"
        return f"{self.name} {how}: {self._words.line or 'it said nothing'}"


class Words:
    """What a program says: the beginning and the end of it, however much it is."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def add(self, data: bytes) -> None:
        room = WORDS_BYTES - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-WORDS_BYTES:]

    @property
    def line(self) -> str:
        """Printable, and not a long one."""
        lines = (self._head + self._tail).decode(errors="replace").splitlines()
        lines = [each.strip() for each in lines if not _NOISE.fullmatch(each)]
        line = make_line("; ".join(filter(None, lines)))
        half = SAID_CHARACTERS // 2
        return line if len(line) <= SAID_CHARACTERS else f"{line[:half]} … {line[-half:]}"


@asynccontextmanager
async def open_helper(
    name: str,
    make_argv: MakeArgv,
    is_ready: IsReady,
    on_death: OnDeath,
    ready_fd: int | None = None,
) -> AsyncGenerator[Helper, None]:
    """The program for the length of the block, which begins when it is ready.

    ``make_argv`` is told the descriptor to say so on: ``ready_fd``, or without one any. In the
    block ``on_death`` hears, once, how it died. Raises HostError or HelperError.
    """
    with ExitStack() as stack:
        with blame_host(name):
            helper = Helper(name, _start(stack, make_argv, ready_fd))
        async with open_background() as background:
            background.start_soon(helper.read_words)
            background.start_soon(helper.wait_dead)
            try:
                await helper.wait_ready(is_ready)
                async with open_background() as watching:
                    watching.start_soon(helper.watch, on_death)
                    yield helper
            finally:
                with trio.CancelScope(shield=True):
                    await helper.end()


async def read_help(name: str, program: str) -> str:
    """What ``--help`` tells, a part of it if that is too long."""
    with ExitStack() as stack:
        with blame_host(name):
            helper = Helper(name, _start(stack, lambda _: (program, "--help"), None))
        async with open_background() as background:
            background.start_soon(helper.wait_dead)
            try:
                return await helper.read_help()
            finally:
                with trio.CancelScope(shield=True):
                    await helper.end()


def name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _start(ours: ExitStack, make_argv: MakeArgv, ready_fd: int | None) -> Started:
    """``ours`` closes what is ours of it."""
    with ExitStack() as theirs:
        life, _ = _make_pipe(reader=theirs, writer=ours)
        ready, ready_end = _make_pipe(reader=ours, writer=theirs)
        said, said_end = _make_pipe(reader=ours, writer=theirs)
        number = ready_end.fileno() if ready_fd is None else ready_fd
        process = subprocess.Popen(
            make_argv(number),
            stdin=life,
            stdout=ready_end if number == STDOUT else said_end,
            stderr=said_end,
            pass_fds=() if number == STDOUT else (number,),
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        try:
            end_with_us(life.fileno(), process.pid)
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    ours.callback(os.close, pidfd)
    return Started(process, pidfd, ready, said)


def end_with_us(read_fd: int, group: int) -> None:
    """SIGKILL for this process group as soon as the pipe's last writer is gone."""
    fcntl.fcntl(read_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_fd, fcntl.F_SETOWN, -group)
    fcntl.fcntl(read_fd, fcntl.F_SETFL, fcntl.fcntl(read_fd, fcntl.F_GETFL) | os.O_ASYNC)


def _make_pipe(*, reader: ExitStack, writer: ExitStack) -> tuple[io.FileIO, io.FileIO]:
    read_fd, write_fd = os.pipe()
    ends = io.FileIO(read_fd, "rb"), io.FileIO(write_fd, "wb")
    reader.enter_context(ends[0])
    writer.enter_context(ends[1])
    return ends


async def _read(file: io.FileIO, size_bytes: int) -> bytes:
    """Some bytes; none at the end."""
    await trio.lowlevel.wait_readable(file)
    return file.read(size_bytes) or b""
