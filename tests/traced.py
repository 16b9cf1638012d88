"""A supervisor on a host where somebody else has the only listener, as far as it knows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import jail
from jail import Supervisor
from jail.host import read_facts
from jail.result import Result
from tests.part import require


@asynccontextmanager
async def open_traced() -> AsyncGenerator[Supervisor, None]:
    facts = replace(read_facts(), listener_taken=True)
    async with jail.open_supervisor(facts) as supervisor:
        yield supervisor


def python(code: str) -> list[str]:
    require("python3")
    return ["python3", "-c", code]


def told(result: Result) -> dict[str, tuple[str, int]]:
    return {each.call: (each.action, each.count) for each in result.denied}
