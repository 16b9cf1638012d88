"""Tasks that serve a block and end with it, unseen in what the block raises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio


class Background:
    """Starts tasks that live until the block's very end; made by :func:`open_background`.

    A cancellation from outside reaches the block, not them: while the block cleans up after
    itself it needs those who read the answers and watch the dying.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._ending = False

    def start_soon(self, serve: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """As a nursery's."""
        self._nursery.start_soon(self._run, serve, args)

    async def start(self, serve: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """As a nursery's; until the task has started, cancelling the caller cancels it."""
        return await self._nursery.start(self._run_started, serve, args)

    async def _run(self, serve: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        with trio.CancelScope(shield=True) as scope, self._remember(scope):
            await serve(*args)

    async def _run_started(
        self,
        serve: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        *,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        with trio.CancelScope() as scope, self._remember(scope):
            await serve(*args, task_status=_Shield(scope, self._nursery, task_status))

    @contextmanager
    def _remember(self, scope: trio.CancelScope) -> Iterator[None]:
        self._scopes.add(scope)
        if self._ending:
            scope.cancel()
        try:
            yield
        finally:
            self._scopes.discard(scope)

    def end(self) -> None:
        """Cancel them all, and whoever is started from now on."""
        self._ending = True
        for scope in self._scopes:
            scope.cancel()


class _Shield:
    """A ``task_status`` whose ``started`` puts the task out of reach of the caller's scopes."""

    def __init__(
        self, scope: trio.CancelScope, nursery: trio.Nursery, task_status: trio.TaskStatus[Any]
    ) -> None:
        self._scope, self._nursery, self._task_status = scope, nursery, task_status

    def started(self, value: Any = None) -> None:
        self._task_status.started(value)
        # Where the caller is cancelled already, trio leaves the task to him, and he waits for it.
        task = trio.lowlevel.current_task()
        self._scope.shield = task.parent_nursery is self._nursery


@asynccontextmanager
async def open_background() -> AsyncGenerator[Background, None]:
    """A :class:`Background` for the block.

    The block's own exception comes out bare, not in a group: that tasks of ours run beside it
    is none of the caller's business (trio docs, “Designing for multiple errors”).
    """
    try:
        async with trio.open_nursery() as nursery:
            background = Background(nursery)
            try:
                yield background
            finally:
                background.end()
    except BaseExceptionGroup as group:
        leaf = find_single(group)
        raise leaf from leaf.__cause__


async def run_together(*functions: Callable[[], Awaitable[Any]]) -> None:
    """All of them at once, until the last has ended. The first failure ends the others, and comes
    out bare.
    """
    failures: list[Exception] = []

    async def run(function: Callable[[], Awaitable[Any]]) -> None:
        try:
            await function()
        except Exception as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for each in functions:
                nursery.start_soon(run, each)
    except BaseExceptionGroup as group:
        leaf = find_single(group)
        raise leaf from leaf.__cause__
    if failures:
        raise failures[0]


def find_single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that isn't a cancellation; the group itself if there are several."""
    real = [each for each in group.exceptions if not isinstance(each, trio.Cancelled)]
    if len(real) == 1:
        return real[0]
    return group if real else group.exceptions[0]
