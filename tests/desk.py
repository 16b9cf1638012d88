"""A resolver with all that comes of it: what it opened, what it told, and a clock to turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
from dns.message import Message

from jail.egress.opened import Opened
from jail.egress.resolver import Query, Resolver
from jail.egress.upstream import Upstream
from jail.network.rule import AllowList, parse_rule
from tests.name_server import NameServer, Said, open_name_server


@dataclass
class Desk:
    """A resolver, with all that comes of it."""

    resolver: Resolver
    opened: Opened
    told: list[Query] = field(default_factory=list)
    now_s: float = 1000.0

    async def ask(self, name: str, kind: str = "A", **options: Any) -> Message:
        return await self.send(dns.message.make_query(name, kind, **options))

    async def send(self, query: Message, over_tcp: bool = False) -> Message:
        reply = await self.resolver.answer(query.to_wire(), over_tcp)
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        assert message.flags & dns.flags.RA
        return message

    def is_open(self, address: object) -> tuple[str, ...]:
        return self.opened.find(ip_address(str(address)), self.now_s)


def open_desk(
    *upstreams: Upstream,
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    observe: bool = False,
    hosts: Iterable[tuple[str, str]] = (),
) -> Desk:
    allowed = AllowList(
        tuple(parse_rule(each, "allow") for each in allow),
        tuple(parse_rule(each, "deny") for each in deny),
        observe,
    )
    opened, told = Opened(), list[Query]()
    desk: Desk
    resolver = Resolver(allowed, upstreams, opened, told.append, hosts, clock=lambda: desk.now_s)
    desk = Desk(resolver, opened, told)
    return desk


@asynccontextmanager
async def open_world(
    say: Callable[[Message, str], list[Said]], **rules: Any
) -> AsyncGenerator[tuple[Desk, NameServer], None]:
    async with open_name_server(say) as server:
        yield open_desk(server.address, **rules), server


def texts(message: Message) -> list[str]:
    return [rdata.to_text() for rrset in message.answer for rdata in rrset]
