"""How much of what a supervisor may have open one jail's network takes at most. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

PART: Final = 8
"""of all its descriptors: a jail that takes whatever it can get leaves the others theirs"""
MIN: Final = 16


class Share(NamedTuple):
    """Of connections (two descriptors each), those that are being made, flows of datagrams, and
    connections to our resolver.
    """

    relays: int = 1024
    pending: int = 512
    flows: int = 256
    streams: int = 128


def make_share(file_limit: int) -> Share:
    """``file_limit`` is the soft RLIMIT_NOFILE, -1 for none."""
    full = Share()
    if file_limit < 0:
        return full
    return Share(*(max(MIN, min(each, file_limit // PART)) for each in full))
