"""The zygote: it clones, writes the id maps and reaps; it knows no plan and no secret.

A jail's plan, arguments and environment go over a socket of that jail's own, which the zygote
passes on unread: nothing of one jail is in the memory that the next one is forked from.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from typing import Any, Final, NamedTuple

from jail.agent import wire
from jail.agent.kernel import signalfd
from jail.kernel import process
from jail.launchplan import SAMPLE_PLAN
from jail.zygote import init, link
from jail.zygote.leaf import Leaf, LeafError, Leaves, write_setting

SPARE_DELAY_MS: Final = 2
REHEARSAL: Final = wire.pack_frame(wire.Setup(wire.PROTOCOL_VERSION, SAMPLE_PLAN.to_wire()))[
    wire.HEADER.size :
]


def serve(sock: socket.socket) -> None:
    """Until the supervisor's end closes; then every jail is killed and reaped first."""
    process.set_name("jail:zygote")
    process.set_title("jail:zygote")
    process.lift_oom_protection()
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    process.read_last_capability()
    init.rehearse(REHEARSAL)
    # What is alive now is shared by every child; the collector would only unshare its pages.
    gc.disable()
    gc.freeze()
    zygote = Zygote(sock)
    try:
        zygote.run()
    except ConnectionError:
        return  # the supervisor has gone without a goodbye
    finally:
        zygote.close()


class Child(NamedTuple):
    """An init process: waiting for its session, or a jail."""

    pid: int
    pidfd: int
    handover: socket.socket | None
    flags: int
    leaf: Leaf | None


class Zygote:
    """Owns the init processes: those of jails, and one spare made ahead of the next request.

    The spare has its namespaces and nothing else: no plan, no ids. It is used once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._dead_fd = signalfd(signal.SIGCHLD)
        self._jails: dict[int, Child] = {}
        self._spare: Child | None = None
        self._wanted_flags = 0
        self._unclaimed: set[int] = set()
        """pids of inits that the supervisor was never told of"""
        self._leaves: Leaves | None = None
        self._handlers: dict[str, Any] = {
            "Clone": self._clone,
            "Unshare": self._unshare,
            "UseCgroup": self._use_cgroup,
            "Abandon": self._abandon,
        }

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._dead_fd, select.POLLIN)
        while True:
            idle = self._wanted_flags and self._spare is None
            ready = poll.poll(SPARE_DELAY_MS if idle else None)
            if not ready:
                self._make_spare()
            for fd, _ in ready:
                if fd == self._dead_fd:
                    self._reap()
                elif not self._serve_one():
                    return

    def _serve_one(self) -> bool:
        received = link.receive(self._sock)
        if received is None:
            return False
        (name, *fields), fds = received
        try:
            self._handlers[name](*fields, fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _unshare(self, _: list[int]) -> None:
        try:
            process.unshare(process.CLONE_NEWUSER)
        except OSError as error:
            link.send(self._sock, link.UnshareFailed(error.errno or 0))
        else:
            link.send(self._sock, link.Unshared())

    def _use_cgroup(self, prefix: str, fds: list[int]) -> None:
        self._leaves = Leaves(os.dup(fds[0]), prefix)

    def _abandon(self, jail: int, leaf: int, _: list[int]) -> None:
        child = self._jails.get(jail)
        if child is not None:
            self._unclaimed.add(child.pid)
            process.kill_pidfd(child.pidfd)
        elif leaf >= 0 and self._leaves is not None:
            self._leaves.remove(leaf)

    def _clone(
        self,
        jail: int,
        flags: int,
        fresh: bool,
        uid_map: bytes,
        gid_map: bytes,
        deny: bool,
        settings: list[tuple[str, str, bool]],
        fds: list[int],
    ) -> None:
        step = "clone"
        try:
            child = self._take_child(flags, fresh)
            self._jails[jail] = child
            for step, text in (
                ("setgroups", b"deny" if deny else b""),
                ("uid_map", uid_map),
                ("gid_map", gid_map),
            ):
                if text:
                    write_proc(child.pid, step, text)
            if child.leaf is not None:
                for name, value, optional in settings:
                    step = f"cgroup {name}"
                    write_setting(child.leaf.fd, name, value, optional)
            hand_over(child, fds[0])
        except OSError as error:
            if jail in self._jails:
                self._unclaimed.add(self._jails[jail].pid)
                # Without a session it reads the end of its handover socket and exits.
                close_handover(self._jails[jail])
            step = error.step if isinstance(error, LeafError) else step
            link.send(self._sock, link.CloneFailed(jail, step, error.errno or 0))
        else:
            self._tell_cloned(jail, child)

    def _tell_cloned(self, jail: int, child: Child) -> None:
        try:
            self._send_cloned(jail, child)
        except OSError as error:
            # Too many descriptors of this user are on their way: unix(7), ETOOMANYREFS.
            self._unclaimed.add(child.pid)
            process.kill_pidfd(child.pidfd)
            link.send(self._sock, link.CloneFailed(jail, "descriptors", error.errno or 0))

    def _send_cloned(self, jail: int, child: Child) -> None:
        if child.leaf is None:
            link.send(self._sock, link.Cloned(jail, child.pid), [child.pidfd])
        else:
            message = link.ClonedInto(jail, child.pid, child.leaf.number)
            link.send(self._sock, message, [child.pidfd, child.leaf.fd])

    def _take_child(self, flags: int, fresh: bool) -> Child:
        spare = self._spare
        self._wanted_flags = flags
        if spare is None or spare.flags != flags or fresh:
            return self._fork(flags, b"")
        self._spare = None
        return spare

    def _make_spare(self) -> None:
        try:
            self._spare = self._fork(self._wanted_flags, REHEARSAL)
        except OSError:
            self._wanted_flags = 0  # until somebody asks again, and is told the reason

    def _fork(self, flags: int, rehearsal: bytes) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leaf = None
        try:
            leaf = self._leaves.make() if self._leaves is not None else None
            leaf_fd = leaf.fd if leaf is not None else -1
            pid, pidfd = process.fork_into(born_with(flags, leaf_fd), leaf_fd)
            if pid == 0:
                init.run_init(theirs.fileno(), leaf_fd, flags, rehearsal)
        except OSError:
            ours.close()
            self._let_go(leaf, given=False)
            raise
        finally:
            theirs.close()
        return Child(pid, pidfd, ours, flags, leaf)

    def _reap(self) -> None:
        os.read(self._dead_fd, 4096)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        for jail, child in self._jails.items():
            if child.pid == pid:
                release(self._jails.pop(jail))
                self._let_go(child.leaf, given=pid not in self._unclaimed)
                self._unclaimed.discard(pid)
                return
        if self._spare is not None and self._spare.pid == pid:
            release(self._spare)
            self._let_go(self._spare.leaf, given=False)
            self._spare = None
            self._wanted_flags = 0  # as above: the next one might die of the same

    def _let_go(self, leaf: Leaf | None, *, given: bool) -> None:
        """The supervisor reads the books of one that it was given, and removes it."""
        if leaf is not None and self._leaves is not None:
            self._leaves.let_go(leaf, remove=not given)

    def close(self) -> None:
        """Nothing outlives us: PID 1's death takes its whole pid namespace along."""
        children = [*self._jails.values()]
        if self._spare is not None:
            children.append(self._spare)
        for child in children:
            process.kill_pidfd(child.pidfd)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        if self._leaves is not None:
            self._leaves.close()


def born_with(flags: int, leaf_fd: int) -> int:
    """A cgroup namespace made by clone(2) has the cloner's cgroup as its root, not the child's
    (copy_cgroup_ns(), kernel/cgroup/namespace.c): who is born into a leaf makes it himself.
    """
    return flags if leaf_fd < 0 else flags & ~process.CLONE_NEWCGROUP


def hand_over(child: Child, session_fd: int) -> None:
    """The session goes to the child, which has been waiting for nothing else."""
    assert child.handover is not None
    link.send(child.handover, link.Session(), [session_fd])
    child.handover.close()


def close_handover(child: Child) -> None:
    if child.handover is not None:
        child.handover.close()


def release(child: Child) -> None:
    close_handover(child)
    os.close(child.pidfd)


def write_proc(pid: int, name: str, text: bytes) -> None:
    """One write(2): the kernel takes a map whole or not at all."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
