"""What was reached and what was refused: :attr:`jail.Result.network`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Protocol = Literal["tcp", "udp", "dns"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One thing that was tried, and how often: the same name, address, port, protocol and answer.

    ``reason`` is the rule that allowed it, or why it was refused; ``remedy`` the option that would
    allow what was refused, "" where none does or should. Bytes are the payload's, as we moved them.
    """

    protocol: Protocol
    allowed: bool
    name: str = ""
    """what was asked for, what the address was the answer to, or what was refused"""
    address: str = ""
    port: int = 0
    reason: str = ""
    remedy: str = ""
    spoken: str = ""
    """what TLS or HTTP called the other side, where that is not ``name``"""
    count: int = 1
    sent_bytes: int = 0
    received_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class NetworkUse:
    """Of one run. ``partial`` when there was more than the log holds."""

    driver: str = "none"
    attempts: tuple[Attempt, ...] = field(default=())
    partial: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """Rules that would have allowed what was reached, as ``--allow`` has them."""
        if not self.attempts:
            return ()
        from jail.network.advice import find_rules

        return find_rules(self).needed

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "driver": self.driver,
            "needed": list(self.needed),
            "attempts": [each.to_json() for each in self.attempts],
            "partial": self.partial,
        }
