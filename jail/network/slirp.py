"""``--network slirp``: the best of the helper programs that are there."""

from __future__ import annotations

import errno as codes
from collections.abc import Mapping

from jail.errors import HelperError, HostError
from jail.network import pasta, slirp4netns
from jail.network.uplink import read_uplink


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


async def find_slirp(helpers: Mapping[str, str]) -> str:
    """The name of the driver to use here. A pasta that is broken or too old is passed over."""
    works = True
    if slirp4netns.NAME in helpers and pasta.NAME in helpers:
        try:
            await pasta.probe(helpers[pasta.NAME])
        except (HostError, HelperError):
            works = False
    return decide_slirp(helpers, read_uplink(), works)
