"""Opening jails: look, decide, launch, and the undo of each in the opposite order."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from typing import Any, Final

import trio

from jail.background import Background, open_background
from jail.cgroup.setting import Setting, narrow_memory
from jail.cgroup.subtree import predict_grant
from jail.check import show
from jail.errors import HostError, JailBroken, SpecError, blame_host
from jail.host import HostFacts, open_runtime_dir, read_facts
from jail.idmap import count_slices
from jail.inputs import read_inputs
from jail.jail import Input, Jail
from jail.launcher import Launcher, ZygoteGoneError, open_launcher
from jail.plan import Inputs, Plan, decide_zygote, make_plan
from jail.result import Result
from jail.session import Session
from jail.slot import SlotPool
from jail.source import blame_vanished
from jail.spec import JailSpec, make_spec
from jail.teardown import Init, Teardown

PLAN_ROOM_BYTES: Final = 32 * 1024
"""what a new socket takes before anybody reads; net.core.wmem_default is 208 KiB, and counts more
than the bytes"""


class Supervisor:
    """Keeps a zygote for each kind of ids, so that a jail costs a fork. Not for several threads.

    Made by :func:`open_supervisor`.
    """

    def __init__(self, facts: HostFacts, stack: AsyncExitStack, background: Background) -> None:
        self.facts = facts
        self._stack = stack
        self._background = background
        self._launchers: dict[tuple[str, str | None], Launcher] = {}
        self._starting = trio.Lock()
        self._slots: SlotPool | None = None
        self._teardown = Teardown(background)
        self._next = 0
        self._last: tuple[JailSpec | None, Inputs | None, Plan | None] = None, None, None
        self._built: tuple[Plan | None, int] = None, 0
        """what building the last jail took of its cgroup's memory, and which plan's that was"""

    @asynccontextmanager
    async def open_jail(
        self, spec: JailSpec | None = None, **options: Any
    ) -> AsyncGenerator[Jail, None]:
        """A jail for the length of the block; ``options`` as :func:`jail.make_spec` takes them.

        Raises SpecError, HostError (with its remedy) or HelperError. When the block ends, by
        whatever way, every process in the jail is dead.
        """
        plan, launcher = await self._prepare(choose_spec(spec, options))
        async with AsyncExitStack() as stack:
            yield await self._enter(stack, plan, launcher)

    async def run(
        self,
        argv: Iterable[str | os.PathLike[str]],
        spec: JailSpec | None = None,
        *,
        input: Input = b"",
        timeout: float | str | None = None,  # noqa: ASYNC109 - a limit with a verdict, no scope
        **options: Any,
    ) -> Result:
        """One program in a jail of its own: as :meth:`open_jail` and :meth:`Jail.run`, and faster.

        The program is asked for while the jail is being built; where a cgroup holds its memory only
        if it is known how much of that the builder takes: from a jail of the same plan.
        """
        plan, launcher = await self._prepare(choose_spec(spec, options))
        settings = self._find_narrow_settings(plan)
        for fresh in (False, True):
            try:
                async with self._launch(plan, launcher, fresh, settings) as jail:
                    result = await jail.run(argv, input=input, timeout=timeout)
                    jail.raise_if_not_built()
                    return result
            except HostError as error:
                if error.step != "sources":
                    raise
                missed = error
        raise blame_vanished(missed)

    def _find_narrow_settings(self, plan: Plan) -> tuple[Setting, ...] | None:
        """What can be set before the jail is built and holds from then on; None if not all can."""
        if plan.enforced_by["memory"] != "cgroup":
            return plan.settings
        measured, builder_bytes = self._built
        if measured is not plan:
            return None
        return narrow_memory(plan.settings, plan.spec.limits, builder_bytes)

    async def wait_gone(self) -> None:
        """Until nothing is left of the jails that were closed, their inits and namespaces too.

        Their programs are dead before; this is for who counts.
        """
        await self._teardown.wait()

    async def _enter(self, stack: AsyncExitStack, plan: Plan, launcher: Launcher) -> Jail:
        """A spare's copy of the host's mounts may be older than a volume: then once more."""
        for fresh in (False, True):
            try:
                launch = self._launch(plan, launcher, fresh)
                return await stack.enter_async_context(launch)
            except HostError as error:
                if error.step != "sources":
                    raise
                missed = error
        raise blame_vanished(missed)

    @asynccontextmanager
    async def _launch(
        self,
        plan: Plan,
        launcher: Launcher,
        fresh: bool = False,
        settings: tuple[Setting, ...] | None = None,
    ) -> AsyncGenerator[Jail, None]:
        """Built when this yields; or, with ``settings`` that need no narrowing, as good as."""
        with blame_host("session"):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        session = Session(ours)
        if plan.launch.listens and not plan.launch.program_filter:
            session.expect_listener()
        if plan.launch.gate is not None:
            session.expect_gate()
        try:
            async with open_background() as background, AsyncExitStack() as after:
                background.start_soon(session.read)
                # A plan waits in the socket for the one who reads it, if there is room for it.
                early = len(plan.frame) <= PLAN_ROOM_BYTES and not plan.network.needs_helper
                if early:
                    await session.send_frame(plan.frame)
                with theirs:
                    init = await self._clone(plan, launcher, theirs, settings, fresh)
                jail = Jail(plan, session, init, background)
                try:
                    with closing(jail):
                        # Its namespaces are closed to helpers once it has dropped what it may.
                        await jail.open_network(after, self.facts)
                        if not early:
                            await session.send_frame(plan.frame)
                        if settings is None:
                            await jail.wait_built()
                        else:
                            jail.expect_built()
                        yield jail
                finally:
                    if jail.builder_bytes is not None:
                        self._built = plan, jail.builder_bytes
                    await self._teardown.end(init, wait=not jail.is_quiet)
        finally:
            session.close()

    async def _clone(
        self,
        plan: Plan,
        launcher: Launcher,
        session: socket.socket,
        settings: tuple[Setting, ...] | None,
        fresh: bool,
    ) -> Init:
        slots = self._slots if plan.ids == "subuid" else None
        slot = slots.lease() if slots is not None else -1
        self._next += 1
        try:
            ids = plan.make_idmap(slot, self.facts)
            written = plan.settings if settings is None else settings
            request = (self._next, plan.clone_flags, ids, session, written, fresh)
            try:
                born = await launcher.clone(*request)
            except ZygoteGoneError:
                launcher = await self._get_launcher(plan.zygote, plan.spec.cgroup_parent)
                refuse_other_grant(plan, launcher)
                born = await launcher.clone(*request)
        except BaseException:
            if slots is not None:
                slots.release(slot)
            raise
        return Init(born.pid, born.pidfd, born.leaf, slot, slots)

    async def _prepare(self, spec: JailSpec) -> tuple[Plan, Launcher]:
        """What can't be here at all is said before a zygote is started for it."""
        inputs = read_inputs(spec, self.facts)
        parent = spec.cgroup_parent
        kind = decide_zygote(spec, self.facts, inputs)
        if (kind, parent) not in self._launchers:
            grant, passed_over = predict_grant(self.facts, parent)
            predicted = replace(inputs, grant=grant, passed_over=passed_over)
            make_plan(spec, self.facts, predicted)
        launcher = await self._get_launcher(kind, parent)
        grant, passed_over = launcher.grant, launcher.passed_over
        return self._plan(spec, replace(inputs, grant=grant, passed_over=passed_over)), launcher

    def _plan(self, spec: JailSpec, inputs: Inputs) -> Plan:
        """Decided anew when something is different from the last time."""
        last_spec, last_inputs, plan = self._last
        if plan is None or spec is not last_spec or inputs != last_inputs:
            plan = make_plan(spec, self.facts, inputs)
            self._last = spec, inputs, plan
        return plan

    async def _get_launcher(self, kind: str, parent: str | None) -> Launcher:
        """The zygote for this kind of ids and this parent of cgroups, started when it is first
        wanted, or anew if it died.
        """
        key = (kind, parent)
        launcher = self._launchers.get(key)
        if launcher is not None and not launcher.gone.is_set():
            return launcher
        async with self._starting:
            launcher = self._launchers.get(key)
            if launcher is None or launcher.gone.is_set():
                keep: tuple[int, ...] = ()
                if kind == "subuid":
                    keep = (self._open_slots().fd,)
                launcher = await self._background.start(self._hold_launcher, kind, keep, parent)
                self._launchers[key] = launcher
            return launcher

    async def _hold_launcher(
        self,
        kind: str,
        keep_fds: tuple[int, ...],
        parent: str | None,
        *,
        task_status: trio.TaskStatus[Launcher],
    ) -> None:
        """A task of the supervisor's own: whoever wanted it first may end before the others."""
        async with open_launcher(self.facts, kind, keep_fds, parent) as launcher:
            task_status.started(launcher)
            await launcher.gone.wait()

    def _open_slots(self) -> SlotPool:
        if self._slots is None:
            folder = open_runtime_dir(self.facts)
            count = count_slices(self.facts.subuids, self.facts.subgids)
            self._slots = SlotPool(folder, count)
            self._stack.callback(self._slots.close)
        return self._slots


def refuse_other_grant(plan: Plan, launcher: Launcher) -> None:
    """A zygote that took a dead one's place must hold the same limits: the plan names them."""
    grants = [None if each is None else each.controllers for each in (plan.grant, launcher.grant)]
    if grants[0] != grants[1]:
        raise JailBroken("the zygote died, and the next one got another cgroup; try again")


def choose_spec(spec: JailSpec | None, options: Mapping[str, Any]) -> JailSpec:
    """One or the other: of a spec *and* options, one would be silently left out."""
    if spec is None:
        return make_spec(**options)
    if not isinstance(spec, JailSpec):
        raise SpecError(f"{show(spec)} is no JailSpec; make one with make_spec, or give options")
    if options:
        raise SpecError(f"{', '.join(options)}: give a spec or options, not both")
    return spec


@asynccontextmanager
async def open_supervisor(facts: HostFacts | None = None) -> AsyncGenerator[Supervisor, None]:
    """For programs that open many jails: the first pays for the zygote, the others fork it.

    When the block ends every jail is gone, and so is every helper process.
    """
    async with AsyncExitStack() as stack, open_background() as background:
        yield Supervisor(facts or read_facts(), stack, background)


@asynccontextmanager
async def open_jail(spec: JailSpec | None = None, **options: Any) -> AsyncGenerator[Jail, None]:
    """One jail with a supervisor of its own; see :meth:`Supervisor.open_jail`."""
    async with open_supervisor() as supervisor, supervisor.open_jail(spec, **options) as jail:
        yield jail


def run(
    argv: Iterable[str | os.PathLike[str]],
    *,
    input: Input = b"",
    timeout: float | str | None = None,
    **options: Any,
) -> Result:
    """One program in a jail of its own, for people without trio; blocks until it is gone.

    ``options`` as :func:`jail.make_spec` takes them (``memory="256m"``, …).
    """

    async def main() -> Result:
        async with open_supervisor() as supervisor:
            return await supervisor.run(argv, input=input, timeout=timeout, **options)

    return trio.run(main)
