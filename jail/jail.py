"""A living jail: run programs in it, put files in, take files out."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import trio

from jail import transfer, watch
from jail.agent import wire
from jail.answer import Inside
from jail.background import Background, open_background
from jail.cgroup.account import Account
from jail.cgroup.setting import BUILDER_ROOM_BYTES
from jail.check import check_env, check_host_path
from jail.denied import Ledger
from jail.errors import HostError, JailBroken, ProtocolError, SpecError, blame_host
from jail.host import HostFacts
from jail.kernel.listener import is_listener
from jail.kernel.process import kill_pidfd
from jail.listening import Listening
from jail.network.driver import Link, find_driver
from jail.plan import Plan
from jail.policy.judge import Judge
from jail.process import Process, describe_limit, make_meter
from jail.program import make_program, merge_limits
from jail.result import Result
from jail.session import AGENT_GONE, Session
from jail.spec import ProgramSpec
from jail.stream import Collector, OutputStream, feed, fill, open_pipe
from jail.teardown import Init
from jail.units import parse_size
from jail.usage import Usage
from jail.view import JailView
from jail.watch import open_init

SHORT_RUN_S = 0.002
"""A program that ends within this needs no tasks beside it: nothing to look at, and what it
wrote waits in the pipes."""
PIPE_BYTES = 64 * 1024
TERMINAL_SIZE = (24, 80)

Data = bytes | bytearray | memoryview | str
Input = Data | None


class Jail:
    """Made by :func:`jail.open_jail`; gone, with everything in it, when that block ends.

    Several programs may run in it, at once or one after another; they share its files, its ids
    and its limits. ``init_pid`` is its init's pid on the host.
    """

    def __init__(
        self,
        plan: Plan,
        session: Session,
        init: Init,
        background: Background,
    ) -> None:
        self.plan = plan
        self.init_pid, self._init_pidfd = init.pid, init.pidfd
        self._closed = False
        self.attend: Callable[[int], None] | None = None
        """takes a listener's fd, and answers as the plan's policy decides, instead of us"""
        self._session = session
        self._background = background
        self._fds: list[int] = []
        self._built = trio.Event()
        self._leaf = init.leaf
        self._view = JailView(
            driver=plan.network.driver,
            session=session,
            init_pid=self.init_pid,
            enforced_by=plan.enforced_by,
            kill=self.kill,
            leaf=init.leaf,
            leaf_origin=plan.grant.origin if plan.grant is not None else None,
        )
        if plan.policy is not None:
            self._view.judge = Judge(plan.policy, plan.target)
        if plan.launch.traces:
            self._view.is_filtered = self._view.traces = True
        if plan.launch.listens:
            self._view.is_filtered = True
            self._view.hears_all = not plan.launch.program_filter
            self._view.listen = self._listen
            session.ear.attach(self._hear)
        session.on_break = self.kill
        session.tell_end = self._tell_end

    async def open_network(self, stack: AsyncExitStack, facts: HostFacts) -> None:
        """What its programs may reach, before the first of them starts; closed by ``stack``."""
        plan = self.plan.network
        link = Link(
            spec=self.plan.spec,
            plan=plan,
            facts=facts,
            pid=self.init_pid,
            session=self._session,
        )
        opened = find_driver(plan.driver)(link)
        self._view.network = await stack.enter_async_context(opened)

    async def wait_built(self) -> None:
        """Until its programs can run. HostError or SpecError when it can't be built."""
        self.attach(await self._session.wait_ready())

    def expect_built(self) -> None:
        """Instead of waiting: what is asked meanwhile is done when it is built."""
        self._session.expect_ready(self.attach, self._built.set)

    def attach(self, inside: Inside) -> None:
        """It is built, and this is what it is watched by. Owns the fds; HostError if it can't."""
        fds = (inside.proc_fd, inside.scratch_fd, inside.shm_fd)
        self._fds += fds
        with blame_host("session"):
            self._fds.append(open_init(fds[0]))
        view = self._view
        view.proc_fd, view.scratch_fd, view.shm_fd, view.init_stat_fd = self._fds
        view.built = self._settle(inside)
        view.is_built = True
        for process in view.running.values():
            process.start_clock(view.built)
        self._built.set()

    def _hear(self, fd: int) -> None:
        """The listener of the filter that all its programs are under."""
        self._view.is_heard = True
        self._listen(fd, self._find_ledgers)

    def _listen(self, fd: int, find_ledgers: Callable[[int], Iterable[Ledger]]) -> None:
        if not is_listener(fd):
            os.close(fd)
            raise ProtocolError("from inside the jail: something else than a listener")
        if self.attend is not None:
            self.attend(fd)
            return
        assert self._view.judge is not None
        listening = Listening(fd, self._view.judge, find_ledgers, self.init_pid)
        self._background.start_soon(listening.attend)

    def _find_ledgers(self, thread: int) -> Iterable[Ledger]:
        """Of the runs whose family it is in; a stray could be any's. The agent is nobody's."""
        runs = list(self._view.running.values())
        if thread == self.init_pid:
            return ()
        if len(runs) > 1:
            line = watch.read_ancestors(thread)
            runs = [each for each in runs if each.pid in line] or runs
        return [each.ledger for each in runs]

    def _settle(self, inside: Inside) -> Account:
        """The limit was wider while the jail was being built; nothing else was in it till now."""
        memory_bytes = max(0, min(inside.memory_bytes, BUILDER_ROOM_BYTES))
        limit = self.plan.spec.limits.memory_bytes
        if self._leaf is not None and limit and self.plan.enforced_by["memory"] == "cgroup":
            with blame_host("cgroup memory.max"):
                self._leaf.write("memory.max", str(limit + memory_bytes))
        return Account(
            cpu_us=inside.cpu_us,
            user_us=inside.cpu_us - inside.system_us,
            system_us=inside.system_us,
            memory_bytes=memory_bytes,
        )

    def _tell_end(self) -> str:
        """Why its agent has gone, as far as the kernel's books say."""
        with suppress(OSError):
            account = Account() if self._leaf is None else self._leaf.read_account()
            if account.own_ooms and account.oom_kills:
                return f"out of memory: {describe_limit('memory', self.plan.spec.limits)}"
        return AGENT_GONE

    @property
    def enforced_by(self) -> Mapping[str, str]:
        """Per limit, the mechanism that holds it here."""
        return self.plan.enforced_by

    @property
    def builder_bytes(self) -> int | None:
        """What building it took of its cgroup's memory; None until it is built."""
        return self._view.built.memory_bytes

    @property
    def is_quiet(self) -> bool:
        """Nothing runs in it: the agent has ended whatever the last program left."""
        return not self._view.running and self._session.broken is None

    def kill(self) -> None:
        """Kill PID 1 and with it, by the kernel, every process of the jail. At once."""
        # The maker of a user namespace has every capability over it, CAP_KILL too:
        # user_namespaces(7).
        if not self._closed:
            kill_pidfd(self._init_pidfd)
            if self._leaf is not None:
                self._leaf.kill()

    async def pause(self) -> None:
        """Every process of it stands still when this returns, and its limits' clocks with them.

        A program that is killed meanwhile takes the jail along: its agent stands still, too.
        HostError where it has no cgroup of its own.
        """
        await self._freeze(True)

    async def resume(self) -> None:
        """It goes on where it stood. HostError as :meth:`pause`."""
        await self._freeze(False)

    async def _freeze(self, frozen: bool) -> None:
        self.raise_if_broken()
        if self._leaf is None:
            text = "a jail can be paused only where it has a cgroup of its own"
            raise HostError("; ".join((text, *self.plan.passed_over)), step="cgroup")
        with blame_host("cgroup cgroup.freeze"):
            await self._leaf.freeze(frozen)
        self._view.clock.note(frozen)

    async def usage(self) -> Usage:
        """What the jail has used since it was built, all its programs together.

        Without a cgroup it is what a look at its processes shows. HostError where nothing can be
        seen.
        """
        await self._built.wait()
        self.raise_if_broken()
        meter = make_meter(self._view, self.plan.spec.limits, lambda: False)
        with blame_host("cgroup" if self._leaf is not None else "watch"):
            return await meter.read_whole()

    async def run(
        self,
        argv: Iterable[str | os.PathLike[str]],
        *,
        input: Input = b"",
        timeout: float | str | None = None,  # noqa: ASYNC109 - a limit with a verdict, no scope
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        cpu_time: float | str | None = None,
        output_limit: int | str | None = None,
    ) -> Result:
        """Run a program to its end and collect its output.

        ``timeout`` (wall) and ``cpu_time`` are seconds or ``"1.5s"``; reached, they are a
        verdict (TLE), no exception. Cancelling kills the program and waits until it is gone.
        Raises ProgramError when it can't be started, JailBroken when the jail is no more.
        """
        program = make_program(argv, env, cwd, timeout, cpu_time, output_limit)
        data = input.encode() if isinstance(input, str) else bytes(input or b"")
        async with self._open_process(program, stdin=data) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if not self._view.is_built:
                await self._built.wait()
            out, err = Collector(process.stdout), Collector(process.stderr)
            with trio.move_on_after(SHORT_RUN_S):
                await process.wait()
            if process.returncode is None:
                process.start_watch()
                async with open_background() as background:
                    background.start_soon(out.run)
                    background.start_soon(err.run)
                    await process.wait()
            # All it left is dead by now, unless another run of this jail holds the pipes.
            out.drain()
            err.drain()
            return add_output(process.get_result(), process, out.data, err.data)

    @asynccontextmanager
    async def start(
        self,
        argv: Iterable[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | str | None = None,  # noqa: ASYNC109 - a limit with a verdict, no scope
        cpu_time: float | str | None = None,
        output_limit: int | str | None = None,
        terminal: bool = False,
        size: tuple[int, int] = TERMINAL_SIZE,
    ) -> AsyncGenerator[Process, None]:
        """A live program: ``stdin``, ``stdout``, ``stderr`` are trio streams; killed at the end.

        With ``terminal`` it gets a terminal of the jail's own of ``size`` (rows, columns);
        ``stdin`` and ``stdout`` are its other side, ``stderr`` is None.
        """
        program = make_program(argv, env, cwd, timeout, cpu_time, output_limit)
        program = replace(program, terminal=terminal)
        async with self._open_process(program, stdin=None, size=size) as process:
            process.start_watch()
            await process.wait_started()
            yield process

    @asynccontextmanager
    async def _open_process(
        self,
        program: ProgramSpec,
        *,
        stdin: bytes | None,
        size: tuple[int, int] = TERMINAL_SIZE,
    ) -> AsyncGenerator[Process, None]:
        """``stdin`` as bytes is fed and closed; None leaves a pipe's other end to the caller."""
        limits = merge_limits(self.plan.spec.limits, program)
        process = Process(self._view, limits, self._background, program.terminal)
        with self._session.open_run(process) as number, ExitStack() as streams:
            streams.enter_context(process.follow_traffic())
            process.begin(number)
            try:
                if program.terminal:
                    await self._exec_on_terminal(process, number, program, size, streams)
                else:
                    await self._exec_on_pipes(process, number, program, stdin, streams)
                yield process
            finally:
                if not process.is_gone:
                    process.kill()
                    with trio.CancelScope(shield=True):
                        await process.wait_gone()
                process.close()

    async def _exec_on_pipes(
        self,
        process: Process,
        number: int,
        program: ProgramSpec,
        data: bytes | None,
        streams: ExitStack,
    ) -> None:
        limit = merge_limits(self.plan.spec.limits, program).output_bytes
        with ExitStack() as theirs:
            ends = [self._open_stdin(process, data, streams, theirs)]
            ends += self._open_outputs(process, limit, streams, theirs)
            request = wire.Exec(number, *self._make_exec(program))
            await self._send_exec(process, request, ends)

    async def _send_exec(self, process: Process, request: Any, ends: Sequence[int] = ()) -> None:
        """Where a limit ends the jail meanwhile, that is the result and no failure."""
        try:
            await self._session.send(request, ends, process)
        except JailBroken:
            if not process.is_judged:
                raise

    def _open_outputs(
        self, process: Process, limit: int | None, streams: ExitStack, theirs: ExitStack
    ) -> list[int]:
        ends = []
        for name in ("stdout", "stderr"):
            reader, writer = open_pipe()
            theirs.callback(os.close, writer)
            stream = OutputStream(reader, limit, lambda: process.breach("output"))
            streams.callback(stream.close)
            setattr(process, name, stream)
            ends.append(writer)
        return ends

    def _open_stdin(
        self, process: Process, data: bytes | None, streams: ExitStack, theirs: ExitStack
    ) -> int:
        if data == b"":
            # Opened anew: flags and locks belong to the open file, and would be the next run's.
            with blame_host("session"):
                null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, null_fd)
            return null_fd
        reader, writer = open_pipe()
        theirs.callback(os.close, reader)
        if data is None:
            process.stdin = trio.lowlevel.FdStream(writer)
            streams.callback(process.stdin.close)
        elif len(data) > PIPE_BYTES:
            self._background.start_soon(feed, writer, data)
        elif rest := fill(writer, data):
            self._background.start_soon(feed, writer, rest)
        else:
            os.close(writer)
        return reader

    async def _exec_on_terminal(
        self,
        process: Process,
        number: int,
        program: ProgramSpec,
        size: tuple[int, int],
        streams: ExitStack,
    ) -> None:
        limit = merge_limits(self.plan.spec.limits, program).output_bytes
        rows, columns = size
        request = wire.ExecTerminal(number, *self._make_exec(program), rows, columns)
        await self._send_exec(process, request)
        process.start_watch()
        await process.wait_started()
        master = process.open_terminal()
        # Both streams share one open file: trio would make it blocking again with the first's end.
        os.set_blocking(master, False)
        process.stdin = trio.lowlevel.FdStream(master)
        streams.callback(process.stdin.close)
        reader = process.open_terminal()
        process.stdout = OutputStream(reader, limit, lambda: process.breach("output"))
        streams.callback(process.stdout.close)

    def _make_exec(
        self, program: ProgramSpec
    ) -> tuple[list[str], dict[str, str], str, list[list[int]]]:
        env = dict(self.plan.env)
        if program.env:
            env = check_env({**env, **program.env})
        workdir = self.plan.spec.workdir
        cwd = os.path.join(workdir, program.cwd) if program.cwd else workdir
        return list(program.argv), env, cwd, self._own_rlimits()

    def _own_rlimits(self) -> list[list[int]]:
        return [list(each) for each in self.plan.program_rlimits]

    # -- files --------------------------------------------------------------------------------

    async def put(self, path: str, data: Data, mode: int = 0o644) -> None:
        """Write a file, as the program's user. Relative paths start at the working directory.

        Symbolic links on the way lead to places inside the jail; at the end they are refused.
        Set-id bits of ``mode`` are dropped. Raises TransferError.
        """
        content = data.encode() if isinstance(data, str) else bytes(data)
        await transfer.put(self._session, self._inside(path), content, mode)

    async def get(self, path: str, max_bytes: int | str = 64 * 2**20) -> bytes:
        """A regular file's content. TransferError for all else, and for more than ``max_bytes``."""
        limit = parse_size(max_bytes, "max_bytes")
        return await transfer.get(self._session, self._inside(path), limit)

    async def put_tree(self, source: str | os.PathLike[str], path: str) -> None:
        """Copy a host directory in: directories, regular files and symbolic links as they are."""
        host_path = check_host_path(source, "source")
        await transfer.put_tree(self._session, host_path, self._inside(path))

    async def get_tree(
        self, path: str, target: str | os.PathLike[str], max_bytes: int | str = 2**30
    ) -> list[str]:
        """Copy a directory out into a new host directory ``target``, of which we are the owner.

        Directories and regular files come, without set-id bits; the names of everything else
        (links, FIFOs, sockets, devices) are returned and stay. At most ``max_bytes`` together.
        """
        limit = parse_size(max_bytes, "max_bytes")
        host_path = check_host_path(target, "target")
        return await transfer.get_tree(self._session, self._inside(path), host_path, limit)

    def _inside(self, path: str) -> str:
        return transfer.make_inside_path(self.plan.spec.workdir, path)

    def close(self) -> None:
        """What this object owns beside the process and the session."""
        self._closed = True
        for fd in self._fds:
            with suppress(OSError):
                os.close(fd)

    def raise_if_not_built(self) -> None:
        """HostError or SpecError when init gave up; what ran in it says the rest itself."""
        broken = self._session.broken
        if isinstance(broken, HostError | SpecError):
            raise broken

    def raise_if_broken(self) -> None:
        """JailBroken when it has ended under us."""
        if self._session.broken is not None:
            raise JailBroken(str(self._session.broken))


def add_output(result: Result, process: Process, stdout: bytes, stderr: bytes) -> Result:
    """The result with what was collected; on a terminal there is no stderr."""
    streams = {"stdout": process.stdout, "stderr": process.stderr}
    return replace(
        result,
        stdout=stdout,
        stderr=stderr,
        truncated=tuple(name for name, each in streams.items() if each and each.truncated),
        stdout_bytes=process.stdout.total_bytes if process.stdout else 0,
        stderr_bytes=process.stderr.total_bytes if process.stderr else 0,
    )
