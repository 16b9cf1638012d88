"""``filtered``: nothing but us is at the other end, and we reach what the allow-list names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from jail.background import open_background
from jail.egress.egress import Egress
from jail.egress.share import make_share
from jail.egress.upstream import read_upstreams
from jail.network.driver import Link
from jail.network.rule import DNS_PORT, AllowList


@asynccontextmanager
async def open_network(link: Link) -> AsyncGenerator[Egress, None]:
    """The supervisor's side of it; init's is in the plan."""
    spec = link.spec
    allowed = AllowList(spec.allow, spec.deny, spec.observe)
    upstreams = tuple((each, DNS_PORT) for each in spec.dns) or read_upstreams()
    share = make_share(link.facts.file_limit)
    async with open_background() as background:
        egress = Egress(allowed, upstreams, spec.add_hosts, spec.hostname, background, share)
        try:
            link.session.gate.attach(egress.attach)
            yield egress
        finally:
            await egress.drain()
            background.end()
            egress.close()
