"""Whether this host has a way out, by the kernel's tables of routes."""

from __future__ import annotations

from typing import Final

from jail.place import read_text

_ROUTES: Final = "/proc/net/route"
_ROUTES6: Final = "/proc/net/ipv6_route"
_ZERO: Final = "00000000"


def has_default_route(routes: str) -> bool:
    """In the text of /proc/net/route: a row with destination 0 and mask 0."""
    rows = (line.split() for line in routes.splitlines())
    return any(len(row) > 7 and row[1] == row[7] == _ZERO for row in rows)


def has_default_route6(routes: str) -> bool:
    """In that of /proc/net/ipv6_route: one to ::/0 that is not the loopback's refusal of it."""
    rows = (line.split() for line in routes.splitlines())
    return any(
        len(row) == 10 and row[0] == _ZERO * 4 and row[1] == "00" and row[9] != "lo" for row in rows
    )


def read_uplink() -> bool:
    return has_default_route(read_text(_ROUTES)) or read_uplink6()


def read_uplink6() -> bool:
    return has_default_route6(read_text(_ROUTES6))
