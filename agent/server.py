"""The agent's loop: requests in, facts out, children reaped. It is PID 1 and has one thread."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from typing import Any, Final

from . import child, file, reaper, wire
from .filter import Filter
from .kernel import signalfd
from .tracer import Tracer

MAX_RUNS: Final = 64
SHORT_LIFE_MS: Final = 1
"""A program that ends within this is told of once: every message wakes the supervisor."""


def serve(sock: socket.socket, own: Filter | None = None) -> None:
    """Until the supervisor hangs up. Returns; the caller exits, and the kernel kills the rest.

    ``own`` is the filter that each program gets beside the agent's.
    """
    server = Server(sock, own)
    try:
        server.run()
    except (ConnectionError, wire.WireError):
        return
    except OSError as error:
        # A budget that we share with others of our user, whoever emptied it: unix(7).
        if error.errno != errno.ETOOMANYREFS:
            raise


def rehearse() -> None:
    """Go once through the reading, spawning and answering of a request that fails."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = wire.Exec(1, ["/rehearsal"], {"PATH": ""}, "/", [])
        wire.send_with_fds(theirs, wire.pack_frame(request), (0, 1, 2))
        server = Server(ours)
        server._receive()
        server._held = wire.pack_frame(wire.Started(1, 1)), (0,)
        server._poll.poll(0)
        list(reaper.reap())
        server._send(wire.Exited(1, 0, 0, 0, 0))


class Server:
    """What the agent knows: the connection, and the first process of every run."""

    def __init__(self, sock: socket.socket, own: Filter | None = None) -> None:
        self._sock = sock
        self._own = own
        self._tracer = Tracer() if own is not None and own.traces else None
        self._buffer = wire.FrameBuffer(wire.REQUESTS)
        self._runs: dict[int, int] = {}
        """pid → run"""
        self._dead_fd = -1
        self._poll = select.poll()
        self._held: tuple[bytes, tuple[int, ...]] | None = None
        """a frame and its fds that wait for the next one"""
        self._handlers: dict[type, Any] = {
            wire.Exec: self._exec,
            wire.ExecTerminal: self._exec_terminal,
            wire.KillTree: self._kill_tree,
            wire.OpenFile: self._open_file,
            wire.MakeDir: self._make_dir,
            wire.MakeLink: self._make_link,
            wire.ListDir: self._list_dir,
        }

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        self._dead_fd = signalfd(signal.SIGCHLD)
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._dead_fd, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._dead_fd:
                    self._reap()
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        data, ancillary, flags, _ = self._sock.recvmsg(
            wire.RECEIVE_BYTES, wire.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return False
        self._buffer.feed(data, ancillary, flags)
        while (taken := self._buffer.take()) is not None:
            message, fds = taken
            try:
                self._handlers[type(message)](message, fds)
            finally:
                for fd in fds:
                    os.close(fd)
        return True

    def _send(self, message: Any, fds: tuple[int, ...] = ()) -> None:
        frame = wire.pack_frame(message)
        if self._held is not None:
            (before, first_fds), self._held = self._held, None
            frame, fds = before + frame, first_fds + fds
        wire.send_with_fds(self._sock, frame, fds)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has been read while one was started
            os.read(self._dead_fd, 128)
        # All of them first: who stops again and again has one turn for everybody else's one.
        found = list(reaper.reap())
        if self._tracer is not None:
            for each in found:
                if each.has_stopped:
                    self._tracer.attend(each.pid, each.status)
        for each in found:
            if not each.has_stopped:
                self._bury(each)

    def _bury(self, dead: reaper.Reaped) -> None:
        if self._tracer is not None:
            self._tracer.forget(dead.pid)
        run = self._runs.pop(dead.pid, None)
        if run is None:
            return
        if not self._runs:
            # Whatever it left behind ends with it, before its result goes out.
            reaper.kill_all()
        if self._tracer is not None and (calls := self._tracer.take(run)):
            self._send(wire.Refused(run, calls))
        self._send(wire.Exited(run, dead.status, dead.cpu_us, dead.maxrss_kib, dead.switches))

    def _exec(self, request: wire.Exec, fds: list[int]) -> None:
        actions = child.stdio_actions(fds)
        pid = self._spawn(request, actions)
        if pid is not None:
            self._tell_started(wire.Started(request.run, pid), pid)

    def _exec_terminal(self, request: wire.ExecTerminal, _: list[int]) -> None:
        try:
            master, path = child.open_terminal(request.rows, request.columns)
        except OSError as error:
            self._send(wire.NotStarted(request.run, error.errno or 0, f"terminal: {error}"))
            return
        try:
            pid = self._spawn(request, child.terminal_actions(path))
            if pid is not None:
                self._tell_started(wire.StartedTerminal(request.run, pid), pid, master)
        finally:
            os.close(master)

    def _spawn(self, request: wire.Exec | wire.ExecTerminal, actions: Any) -> int | None:
        try:
            if len(self._runs) >= MAX_RUNS:
                raise child.NotExecutable(errno.EAGAIN, f"{MAX_RUNS} programs run here already")
            words = request.argv, request.env, request.cwd, request.rlimits
            pid, listener_fd = child.spawn(*words, actions, self._own)
        except OSError as error:
            detail = error.strerror or str(error)
            self._send(wire.NotStarted(request.run, error.errno or errno.EIO, detail))
            return None
        self._runs[pid] = request.run
        if self._tracer is not None:
            self._tracer.adopt(pid, request.run)
        if listener_fd >= 0:
            # At once: the program may be waiting for an answer already.
            try:
                self._send(wire.Listening(request.run), (listener_fd,))
            finally:
                os.close(listener_fd)
        return pid

    def _tell_started(self, message: Any, pid: int, *more: int) -> None:
        """At once if it lives; start and end of a very short program go out together."""
        # Not reaped yet, so the pid can't have been reused.
        pidfd = os.pidfd_open(pid)
        try:
            self._held = wire.pack_frame(message), (pidfd, *more)
            self._reap_early()
            self._flush()
        finally:
            os.close(pidfd)

    def _reap_early(self) -> None:
        if len(self._runs) > 1:
            return  # the others' requests and ends don't wait
        ready = [fd for fd, _ in self._poll.poll(SHORT_LIFE_MS)]
        if ready == [self._dead_fd]:
            self._reap()

    def _flush(self) -> None:
        if self._held is not None:
            (frame, fds), self._held = self._held, None
            wire.send_with_fds(self._sock, frame, fds)

    def _kill_tree(self, request: wire.KillTree, _: list[int]) -> None:
        if request.run in self._runs.values():
            reaper.kill_all_but(p for p, run in self._runs.items() if run != request.run)

    def _open_file(self, request: wire.OpenFile, _: list[int]) -> None:
        try:
            fd = file.open_file(request.path, request.write, request.mode)
        except OSError as error:
            self._fail(request.request, error)
            return
        try:
            self._send(wire.Opened(request.request), (fd,))
        finally:
            os.close(fd)

    def _make_dir(self, request: wire.MakeDir, _: list[int]) -> None:
        try:
            file.make_dirs(request.path, request.mode)
        except OSError as error:
            self._fail(request.request, error)
        else:
            self._send(wire.Done(request.request))

    def _make_link(self, request: wire.MakeLink, _: list[int]) -> None:
        try:
            file.make_link(request.path, request.target)
        except OSError as error:
            self._fail(request.request, error)
        else:
            self._send(wire.Done(request.request))

    def _list_dir(self, request: wire.ListDir, _: list[int]) -> None:
        try:
            listed = wire.Listed(request.request, file.list_dir(request.path))
            frame = wire.pack_frame(listed)
        except OSError as error:
            self._fail(request.request, error)
        except wire.WireError:
            text = f"{request.path}: the names in it are too long together"
            self._fail(request.request, OSError(errno.E2BIG, text))
        else:
            wire.send_with_fds(self._sock, frame, ())

    def _fail(self, request: int, error: OSError) -> None:
        self._send(wire.Failed(request, error.errno or errno.EIO, error.strerror or str(error)))
