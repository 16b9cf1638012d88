"""Kinds of jails that are born side by side; those of one lane share a zygote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.faults.birth import Kind, Nursery

Lanes = list[tuple[Nursery, list[Kind]]]


def at(place: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lanes", [place], indirect=True, ids=[""])


async def for_each(lanes: Lanes, work: Callable[[Nursery, Kind], Awaitable[None]]) -> None:
    async def walk(nursery: Nursery, kinds: list[Kind]) -> None:
        for kind in kinds:
            await nursery.learn(kind)
            await work(nursery, kind)

    async with trio.open_nursery() as tasks:
        for lane in lanes:
            tasks.start_soon(walk, *lane)
