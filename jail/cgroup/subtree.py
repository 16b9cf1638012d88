"""Stub."""

from __future__ import annotations

from jail.cgroup.grant import Grant
from jail.host import HostFacts


class Subtree:
    grant: Grant
    fd: int
    prefix: str

    def close(self) -> None:
        """Undo."""


async def open_subtree(
    facts: HostFacts, parent: str | None, zygote_pid: int
) -> tuple[Subtree | None, tuple[str, ...]]:
    return None, ()


def predict_grant(facts: HostFacts, parent: str | None) -> Grant | None:
    return None
