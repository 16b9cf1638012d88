"""The trio side of the zygote: start it, map it, have it clone."""

from __future__ import annotations

import array
import errno
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import trio

from jail.background import Background, open_background, run_together
from jail.cgroup.grant import Grant
from jail.cgroup.leaf import Leaf
from jail.cgroup.setting import Setting
from jail.cgroup.subtree import Subtree, open_subtree
from jail.errors import HostError, JailBroken, blame_host
from jail.host import HostFacts
from jail.idmap import IdMap, format_map
from jail.image import copy_to_memory, is_own
from jail.mapping import map_user, run_map_helper
from jail.session import IN_FLIGHT_REMEDY
from jail.zygote import link

BOOT = (
    "import os,sys,socket;s=socket.socket(fileno=int(sys.argv[1]));"
    "p=s.recv(65536);p or sys.exit();sys.path[:0]=p.decode().split('\\0');"
    "from jail.zygote.server import serve;serve(s)"
)
# Isolated, without site, without column tables: every page of the zygote that
# a child touches is copied for it.
INTERPRETER_FLAGS = ("-I", "-S", "-X", "no_debug_ranges")
END_TIMEOUT_S = 5.0


@dataclass
class _Reply:
    """One answer that somebody waits for."""

    event: trio.Event = field(default_factory=trio.Event)
    message: list[Any] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Born:
    """An init, and the leaf it was born into, if it was. All of it is the caller's."""

    pid: int
    pidfd: int
    leaf: Leaf | None


class ZygoteGoneError(JailBroken):
    """It had died before it was asked: another one can be."""


class Launcher:
    """A running zygote. Owns the process and the socket; made by :func:`open_launcher`."""

    def __init__(self, process: subprocess.Popen[bytes], sock: trio.socket.SocketType) -> None:
        self._process = process
        self._sock = sock
        self._replies: dict[int, _Reply] = {}
        self._unshared = _Reply()
        self.subtree: Subtree | None = None
        """below it each jail has its leaf"""
        self.passed_over: tuple[str, ...] = ()
        """why there is none, or none that would have been taken before it"""
        self.background: Background | None = None
        """for what nobody waits for"""
        self.gone = trio.Event()
        """set when the zygote has hung up: it serves nobody any more"""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def grant(self) -> Grant | None:
        """The same, as the planner has it."""
        return self.subtree.grant if self.subtree is not None else None

    async def clone(
        self,
        jail: int,
        flags: int,
        ids: IdMap,
        session: socket.socket,
        settings: Iterable[Setting] = (),
        fresh: bool = False,
    ) -> Born:
        """An init, where there is a subtree in a leaf with these settings. HostError names the
        step.

        ``fresh`` is one whose copy of the host's mounts is of this moment, not a spare's.
        """
        reply = self._replies[jail] = _Reply()
        deny = not ids.drops_groups
        maps = format_map(ids.uids), format_map(ids.gids)
        message = link.Clone(jail, flags, fresh, *maps, deny, [list(each) for each in settings])
        try:
            if self.gone.is_set():  # nobody is left to hand out an answer
                raise ZygoteGoneError("the zygote died")
            await self._send(message, [session.fileno()])
            await reply.event.wait()
        except BaseException:
            self._give_back(reply.message, reply.fds)
            raise
        finally:
            del self._replies[jail]
        if not reply.message:
            raise JailBroken("the zygote died")
        if reply.message[0] == "CloneFailed":
            raise HostError.at_step(reply.message[2], reply.message[3])
        return self._make_born(reply.message, reply.fds)

    def _make_born(self, message: list[Any], fds: list[int]) -> Born:
        kind = link.Cloned if self.subtree is None else link.ClonedInto
        if message[0] != kind.__name__ or len(fds) < link.FDS[kind]:
            # What our table of descriptors has no room for the kernel drops: unix(7), MSG_CTRUNC.
            self._give_back(message, fds)
            raise HostError.at_step("descriptors", errno.EMFILE)
        if self.subtree is None:
            return Born(message[2], fds[0], None)
        path = f"{self.subtree.grant.path}/{self.subtree.prefix}{message[3]}"
        return Born(message[2], fds[0], Leaf(path, fds[1]))

    def _give_back(self, message: list[Any], fds: list[int]) -> None:
        """Nobody takes this answer, so the zygote has to end what it tells of."""
        _close_all(fds)
        tells_of_one = bool(message) and message[0] != "CloneFailed"
        if tells_of_one and self.background is not None and not self.gone.is_set():
            leaf = message[3] if message[0] == "ClonedInto" else -1
            self.background.start_soon(self._abandon, link.Abandon(message[1], leaf))

    async def _abandon(self, message: link.Abandon) -> None:
        with suppress(JailBroken, HostError):  # with the zygote all of it goes
            await self._send(message, [])

    async def find_cgroup(self, facts: HostFacts, parent: str | None) -> None:
        """If one is found, each jail is born into a leaf of it from here on."""
        self.subtree, self.passed_over = await open_subtree(facts, parent, self.pid)
        if self.subtree is not None:
            await self._send(link.UseCgroup(self.subtree.prefix), [self.subtree.fd])

    async def enter_outer_namespace(self, facts: HostFacts, *, subids: bool) -> None:
        """One user namespace, mapped once: the user is 0 there, with ``subids`` the whole
        subordinate range is behind him.
        """
        await self._send(link.Unshare(), [])
        await self._unshared.event.wait()
        if not self._unshared.message:
            raise HostError("the zygote died", step="zygote")
        if self._unshared.message[0] == "UnshareFailed":
            raise HostError.at_step("unshare", self._unshared.message[1])
        if subids:
            await run_map_helper("newuidmap", facts.newuidmap, self.pid, facts.uid, facts.subuids)
            await run_map_helper("newgidmap", facts.newgidmap, self.pid, facts.gid, facts.subgids)
        else:
            map_user(self.pid, facts.uid, facts.gid)

    async def _send(self, message: Any, fds: list[int]) -> None:
        rights = _rights(fds)
        try:
            await self._sock.sendmsg([link.pack(message)], rights)
        except (OSError, trio.ClosedResourceError) as error:
            if isinstance(error, OSError) and error.errno == errno.ETOOMANYREFS:
                raise HostError.at_step("descriptors", error.errno, IN_FLIGHT_REMEDY) from error
            self.gone.set()
            raise ZygoteGoneError("the zygote died") from error

    async def read_replies(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The task that hands each answer to whoever waits for it."""
        task_status.started()
        try:
            while True:
                data, ancillary, _, _ = await self._sock.recvmsg(
                    link.MAX_PACKET_BYTES,
                    socket.CMSG_SPACE(link.MAX_FDS * 4),
                    socket.MSG_CMSG_CLOEXEC,
                )
                if not data:
                    return
                self._hand_out(*link.unpack(data, ancillary))
        except OSError:
            return
        finally:
            self.gone.set()
            for reply in (*self._replies.values(), self._unshared):
                reply.event.set()

    def _hand_out(self, message: list[Any], fds: list[int]) -> None:
        named = message[0] in ("Unshared", "UnshareFailed")
        reply = self._unshared if named else self._replies.get(message[1])
        if reply is None:  # its caller was cancelled
            self._give_back(message, fds)
            return
        reply.message, reply.fds = message, fds
        reply.event.set()

    async def aclose(self) -> None:
        """Hang up, which ends every jail; kill it if that takes long. Shielded by the caller."""
        self._sock.close()
        try:
            pidfd = os.pidfd_open(self.pid) if self._process.poll() is None else -1
        except OSError:
            self._process.kill()  # no descriptor left to wait with; its jails end without it
        else:
            if pidfd >= 0:
                await self._wait_for_end(pidfd)
        self._process.wait()
        if self.subtree is not None:
            await self.subtree.end_jails()
            self.subtree.close()

    async def _wait_for_end(self, pidfd: int) -> None:
        with trio.move_on_after(END_TIMEOUT_S) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        if scope.cancelled_caught:
            self._process.kill()
        os.close(pidfd)


@asynccontextmanager
async def open_launcher(
    facts: HostFacts, kind: str, keep_fds: tuple[int, ...], cgroup_parent: str | None = None
) -> AsyncGenerator[Launcher, None]:
    """A zygote for jails of one kind of ids; gone, with all its jails, when the block ends.

    The kinds are those of :func:`jail.plan.decide_zygote`.

    ``keep_fds`` stay open in it for as long as it lives. Its jails have their leaves below
    ``cgroup_parent``, or where :func:`jail.cgroup.subtree.open_subtree` finds a place for them.
    """
    with blame_host("zygote"):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                ours.setblocking(False)
                ours.send("\0".join(import_paths()).encode())
                process = _start(theirs.fileno(), keep_fds)
            except OSError:
                ours.close()
                raise
    launcher = Launcher(process, trio.socket.from_stdlib_socket(ours))
    try:
        async with open_background() as background:
            launcher.background = background
            await background.start(launcher.read_replies)
            prepare = [partial(launcher.find_cgroup, facts, cgroup_parent)]
            if kind != "single":
                enter = launcher.enter_outer_namespace
                prepare.append(partial(enter, facts, subids=kind == "subuid"))
            await run_together(*prepare)
            yield launcher
    finally:
        with trio.CancelScope(shield=True):
            await launcher.aclose()


def _start(fd: int, keep_fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """It imports ours and msgpack and nothing else.

    A session of its own keeps the terminal's Ctrl-C away from it.
    """
    with ExitStack() as stack:
        executable, env = None, {}
        if is_own(sys.executable):
            image_fd = copy_to_memory(sys.executable)
            stack.callback(os.close, image_fd)
            executable, keep_fds = f"/proc/self/fd/{image_fd}", (*keep_fds, image_fd)
            # $ORIGIN in an interpreter's RPATH would be the copy's place.
            env = {"LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"}
        return subprocess.Popen(
            [sys.executable, *INTERPRETER_FLAGS, "-c", BOOT, str(fd)],
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=env,
            cwd="/",
            pass_fds=(fd, *keep_fds),
            start_new_session=True,
        )


def import_paths() -> list[str]:
    """Where jail and msgpack lie; given over the socket: everybody can read a command line."""
    here = Path(__file__).resolve().parent.parent
    there = Path(msgpack.__file__).resolve().parent.parent
    return list(dict.fromkeys([str(here), str(there)]))


def _rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    if not fds:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
