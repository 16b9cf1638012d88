"""Words of ``jail run`` that these tests share."""

from __future__ import annotations

from typing import Any, Final

FAST_S: Final = 2.0
"""what is refused is refused at once; no timeout of any client is as short"""


def allow(*rules: str) -> list[str]:
    """A network that opens these and nothing else."""
    return ["--network", "filtered", *(word for rule in rules for word in ("--allow", rule))]


def at(events: list[dict[str, Any]], *addresses: str) -> list[dict[str, Any]]:
    """What was seen at these addresses."""
    return [each for each in events if each["address"] in addresses]
