"""A nursery for tasks that serve the block and end with it, unseen in what the block raises."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_background() -> AsyncGenerator[trio.Nursery, None]:
    """As ``trio.open_nursery``, cancelled when the block ends.

    The block's own exception comes out bare, not in a group: that tasks of ours run beside it
    is none of the caller's business (trio docs, “Designing for multiple errors”).
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        leaf = find_single(group)
        raise leaf from leaf.__cause__


def find_single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that isn't a cancellation; the group itself if there are several."""
    real = [each for each in group.exceptions if not isinstance(each, trio.Cancelled)]
    if len(real) == 1:
        return real[0]
    return group if real else group.exceptions[0]
