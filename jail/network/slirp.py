"""``--network slirp``: the best of the helper programs that are there."""

from __future__ import annotations

import errno as codes
from collections.abc import Mapping

from jail.errors import HelperError, HostError
from jail.network import pasta, slirp4netns
from jail.place import read_text


def decide_slirp(helpers: Mapping[str, str], has_uplink: bool, pasta_works: bool = True) -> str:
    """``pasta`` before ``slirp4netns``; it wants an interface with a default route to copy.

    HostError where neither is installed.
    """
    if not helpers.keys() & {pasta.NAME, slirp4netns.NAME}:
        raise HostError(
            "neither pasta nor slirp4netns is installed", step=pasta.NAME, errno=codes.ENOENT
        )
    if slirp4netns.NAME not in helpers:
        return pasta.NAME
    usable = pasta.NAME in helpers and has_uplink and pasta_works
    return pasta.NAME if usable else slirp4netns.NAME


def has_uplink(routes: str, routes6: str) -> bool:
    """Whether there is a default route, by /proc/net/route (destination 0, mask 0) or ipv6_route."""
    rows = (line.split() for line in routes.splitlines()[1:])
    zero = "00000000"
    if any(len(row) > 7 and row[1] == zero and row[7] == zero for row in rows):
        return True
    return slirp4netns.has_default_route6(routes6)


async def find_slirp(helpers: Mapping[str, str]) -> str:
    """The name of the driver to use here. A pasta that is broken or too old is passed over."""
    works = True
    if slirp4netns.NAME in helpers and pasta.NAME in helpers:
        try:
            await pasta.probe(helpers[pasta.NAME])
        except (HostError, HelperError):
            works = False
    uplink = has_uplink(read_text("/proc/net/route"), read_text("/proc/net/ipv6_route"))
    return decide_slirp(helpers, uplink, works)
