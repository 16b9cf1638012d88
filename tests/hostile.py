"""An agent in the hands of an attacker: it has the session's other end, and real descriptors.

The jail around it is one in name only: a process of ours stands for its init, programs are our
children, and its ``/proc`` is a directory that shows what a test puts there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import trio

import jail
from jail import Jail, Limits
from jail.agent import wire
from jail.answer import Inside
from jail.background import Background, open_background
from jail.host import read_facts
from jail.inputs import plan_jail
from jail.session import Session
from jail.teardown import Init


def start_child(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, **options)


async def wait_dead(program: subprocess.Popen[bytes]) -> None:
    """Until it has ended; reaped then, as the agent would have."""
    if program.returncode is None:
        pidfd = os.pidfd_open(program.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        program.wait()


class HostileAgent:
    """Says what it is told to say. Reads as an honest one would."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._trio = trio.socket.from_stdlib_socket(sock)
        self._buffer = wire.FrameBuffer(wire.REQUESTS)
        self._programs: list[subprocess.Popen[bytes]] = []

    async def take(self) -> tuple[Any, list[int]]:
        """The next request; its descriptors are the caller's."""
        while (taken := self._buffer.take()) is None:
            data, ancillary, flags, _ = await self._trio.recvmsg(
                wire.RECEIVE_BYTES, wire.ANCILLARY_BYTES
            )
            assert data, "the supervisor hung up"
            self._buffer.feed(data, ancillary, flags)
        return taken

    async def say(self, message: Any, *fds: int) -> None:
        await self.say_raw(wire.pack_frame(message), *fds)

    async def say_raw(self, data: bytes, *fds: int) -> None:
        """Any bytes, with any descriptors on the first of them."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds_to_bytes(fds))] if fds else []
        sent = await self._trio.sendmsg([data], rights)
        while sent < len(data):
            sent += await self._trio.send(data[sent:])

    async def spawn(self, *argv: str) -> tuple[wire.Exec, subprocess.Popen[bytes], int]:
        """Take an Exec and start ``argv`` on its pipes: the request, the program, its pidfd."""
        request, fds = await self.take()
        assert isinstance(request, wire.Exec)
        program = self.adopt(start_child(*argv, stdin=fds[0], stdout=fds[1], stderr=fds[2]))
        for fd in fds:
            os.close(fd)
        return request, program, os.pidfd_open(program.pid)

    def adopt(self, program: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """It ends when we do."""
        self._programs.append(program)
        return program

    async def start(self, *argv: str) -> tuple[wire.Exec, subprocess.Popen[bytes]]:
        """As ``spawn``, and honestly said."""
        request, program, pidfd = await self.spawn(*argv)
        await self.say(wire.Started(request.run, program.pid), pidfd)
        os.close(pidfd)
        return request, program

    def hang_up(self) -> None:
        self._trio.close()

    def close(self) -> None:
        self.hang_up()
        self._buffer.close()
        for program in self._programs:
            program.kill()
            program.wait()


class HostileJail:
    """A jail whose agent is hostile, as the supervisor has it."""

    def __init__(self, jail_: Jail, agent: HostileAgent, init: subprocess.Popen[bytes]) -> None:
        self.jail, self.agent, self._init = jail_, agent, init
        self.was_killed = False

    async def wait_killed(self) -> None:
        """Until the supervisor has killed its init."""
        with trio.fail_after(5):
            await wait_dead(self._init)
        assert self._init.returncode == -signal.SIGKILL

    def is_alive(self) -> bool:
        return self._init.poll() is None

    def close(self) -> None:
        """Remembers whether the supervisor killed it before we do."""
        with suppress(subprocess.TimeoutExpired):
            self._init.wait(2 if self.jail_is_broken() else 0)
        self.was_killed = self._init.returncode == -signal.SIGKILL

    def jail_is_broken(self) -> bool:
        try:
            self.jail.raise_if_broken()
        except jail.JailBroken:
            return True
        return False


@asynccontextmanager
async def open_hostile_jail(
    proc: Path, limits: Limits = jail.UNLIMITED
) -> AsyncGenerator[HostileJail, None]:
    """``proc`` is the directory that is its /proc; process 1 must be there."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    session = Session(ours)
    agent = HostileAgent(theirs)
    init = start_child("sleep", "600")
    try:
        async with open_background() as background:
            background.start_soon(session.read)
            async with open_jail_on(session, init, proc, limits, background) as made:
                hostile = HostileJail(made, agent, init)
                try:
                    yield hostile
                finally:
                    hostile.close()
    finally:
        session.close()
        agent.close()
        init.kill()
        init.wait()


@asynccontextmanager
async def open_jail_on(
    session: Session,
    init: subprocess.Popen[bytes],
    proc: Path,
    limits: Limits,
    background: Background,
) -> AsyncGenerator[Jail, None]:
    plan = plan_jail(jail.make_spec(limits=limits), read_facts())
    pidfd = os.pidfd_open(init.pid)
    proc_fd, scratch_fd = os.open(proc, os.O_RDONLY), os.open("/tmp", os.O_RDONLY)
    shm_fd = os.open("/dev/null", os.O_RDONLY)
    try:
        # Its programs are our children, so we are the init that it has on paper.
        with closing(Jail(plan, session, Init(os.getpid(), pidfd), background)) as made:
            made.attach(Inside(proc_fd, scratch_fd, shm_fd, 0, 0, 0))
            yield made
    finally:
        os.close(pidfd)


def fds_to_bytes(fds: Sequence[int]) -> bytes:
    return b"".join(fd.to_bytes(4, "little") for fd in fds)
