"""Who takes what an agent says: one answer each, kept until it is asked for or given on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import trio

from jail.agent import wire
from jail.errors import HostError, JailBroken, ProtocolError, SpecError


class Receiver(Protocol):
    """Who takes the answers of one run, as they come in; ProtocolError if they can't be."""

    def receive(self, message: Any, fds: list[int]) -> None:
        """The fds are the receiver's from here on."""

    def fail(self, error: Exception) -> None:
        """The session broke: no more will come."""


class Call:
    """One question that somebody waits for the answer of, which is of one of these kinds."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = kinds
        self._ready = trio.Event()
        self._answer: tuple[Any, list[int]] | None = None
        self._broken: Exception | None = None

    def receive(self, message: Any, fds: list[int]) -> None:
        self._answer = message, fds
        self._ready.set()

    def fail(self, error: Exception) -> None:
        self._broken = error
        self._ready.set()

    async def get(self) -> tuple[Any, list[int]]:
        """The answer, once; what broke the session is raised if that came first."""
        await self._ready.wait()
        answer = self.take()
        if answer is None:
            raise self._broken or JailBroken("the jail is closed")
        return answer

    def take(self) -> tuple[Any, list[int]] | None:
        """The answer if it has come; its fds are the caller's."""
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        if self._answer is not None:
            for fd in self._answer[1]:
                os.close(fd)
            self._answer = None


class Nobody:
    """Takes the answer to a question whose asker has gone."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self.kinds = kinds

    def receive(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)

    def fail(self, error: Exception) -> None:
        return


class Built:
    """Takes init's word in place of a :class:`Call`, where requests go out before it has come."""

    kinds = (wire.Ready, wire.SetupFailed)

    def __init__(self, on_ready: Callable[[Inside], None], on_fail: Callable[[], None]) -> None:
        self._on_ready, self._on_fail = on_ready, on_fail

    def receive(self, message: Any, fds: list[int]) -> None:
        self._on_ready(read_setup(message, fds))

    def fail(self, error: Exception) -> None:
        self._on_fail()


class Ear:
    """Takes the listener of the filter that all programs of a jail are under, and gives it on.

    It may come before there is anybody to give it to.
    """

    kinds = (wire.Listening,)

    def __init__(self) -> None:
        self._hear: Callable[[int], None] | None = None
        self._fd = -1

    def receive(self, message: Any, fds: list[int]) -> None:
        if self._hear is None:
            self._fd = fds[0]
        else:
            self._hear(fds[0])

    def attach(self, hear: Callable[[int], None]) -> None:
        """From here on the fd is ``hear``'s."""
        self._hear = hear
        fd, self._fd = self._fd, -1
        if fd >= 0:
            hear(fd)

    def fail(self, error: Exception) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor that nobody took."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class GateFds:
    """Takes the sockets of a network that leads to us, and gives them on.

    They may come before there is anybody to give them to.
    """

    kinds = (wire.Gated,)

    def __init__(self) -> None:
        self._take: Callable[[list[int]], None] | None = None
        self._fds: list[int] = []

    def receive(self, message: Any, fds: list[int]) -> None:
        if self._take is None:
            self._fds = fds
        else:
            self._take(fds)

    def attach(self, take: Callable[[list[int]], None]) -> None:
        """From here on the fds are ``take``'s."""
        self._take = take
        fds, self._fds = self._fds, []
        if fds:
            take(fds)

    def fail(self, error: Exception) -> None:
        self.close()

    def close(self) -> None:
        """Close those that nobody took."""
        while self._fds:
            os.close(self._fds.pop())


class Inside(NamedTuple):
    """What a jail is watched by, and what of its cgroup's figures is its builder's."""

    proc_fd: int
    scratch_fd: int
    shm_fd: int
    cpu_us: int
    system_us: int
    memory_bytes: int


def read_setup(message: Any, fds: list[int]) -> Inside:
    """What Ready brings; HostError or SpecError when init gave up."""
    if isinstance(message, wire.SetupFailed):
        raise make_setup_error(message)
    if message.version != wire.PROTOCOL_VERSION:
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"the agent speaks version {message.version}")
    proc_fd, scratch_fd, shm_fd = fds
    used = message.cpu_us, message.system_us, message.memory_bytes
    return Inside(proc_fd, scratch_fd, shm_fd, *used)


def make_setup_error(message: wire.SetupFailed) -> HostError | SpecError:
    """Init's report in our words."""
    step, detail = message.step[:200], message.detail[:1000]
    said = detail or os.strerror(message.errno)
    if step == wire.REFUSED:
        return SpecError(said)
    return HostError(f"{step}: {said}", step=step, errno=message.errno or None)
