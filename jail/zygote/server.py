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
from typing import Any

from jail.agent.kernel import signalfd
from jail.kernel import process
from jail.zygote import init, link


def serve(sock: socket.socket) -> None:
    """Until the supervisor's end closes; then every jail is killed and reaped first."""
    process.set_name("jail:zygote")
    process.set_title("jail:zygote")
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    process.read_last_capability()
    # What is alive now is shared by every child; the collector would only unshare its pages.
    gc.disable()
    gc.freeze()
    zygote = Zygote(sock)
    try:
        zygote.run()
    finally:
        zygote.close()


class Zygote:
    """Owns the jails' init processes: jail number → (pid, pidfd)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._dead_fd = signalfd(signal.SIGCHLD)
        self._inits: dict[int, tuple[int, int]] = {}
        self._handlers: dict[str, Any] = {
            "Clone": self._clone,
            "Unshare": self._unshare,
        }

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._dead_fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
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
            link.send(self._sock, ["UnshareFailed", error.errno])
        else:
            link.send(self._sock, ["Unshared"])

    def _clone(
        self, jail: int, flags: int, uid_map: bytes, gid_map: bytes, deny: bool, fds: list[int]
    ) -> None:
        (session_fd,) = fds
        mapped_r, mapped_w = os.pipe2(os.O_CLOEXEC)
        step = "clone"
        try:
            pid, pidfd = process.fork_into(flags)
            if pid == 0:
                init.run_init(session_fd, mapped_r)
            self._inits[jail] = pid, pidfd
            for step, name, text in (
                ("setgroups", "setgroups", b"deny" if deny else b""),
                ("uid_map", "uid_map", uid_map),
                ("gid_map", "gid_map", gid_map),
            ):
                if text:
                    write_proc(pid, name, text)
            os.write(mapped_w, b"1")
        except OSError as error:
            # Unmapped, the child reads the end of the pipe and exits.
            link.send(self._sock, ["CloneFailed", jail, step, error.errno])
        else:
            link.send(self._sock, ["Cloned", jail, pid], [pidfd])
        finally:
            os.close(mapped_r)
            os.close(mapped_w)

    def _reap(self) -> None:
        os.read(self._dead_fd, 4096)
        by_pid = {pid: jail for jail, (pid, _) in self._inits.items()}
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (jail := by_pid.get(pid)) is not None:
                os.close(self._inits.pop(jail)[1])

    def close(self) -> None:
        """Nothing outlives us: PID 1's death takes its whole pid namespace along."""
        for _, pidfd in self._inits.values():
            process.kill_pidfd(pidfd)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                return


def write_proc(pid: int, name: str, text: bytes) -> None:
    """One write(2): the kernel takes a map whole or not at all."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
