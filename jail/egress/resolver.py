"""The only name server a jail has: it asks on for what is allowed, and opens what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import dns.rcode
import trio
from dns.rdatatype import RdataType

from jail.egress.bucket import Bucket
from jail.egress.memory import Memory
from jail.egress.opened import Opened
from jail.egress.outcome import (
    Outcome,
    Unusable,
    make_failed,
    make_known,
    make_refused,
    make_reply,
    sift,
)
from jail.egress.question import ASKED, Question, make_echo, parse_question
from jail.egress.stream import serve_stream
from jail.egress.upstream import Upstream, ask_upstreams
from jail.network.rule import AllowList, Decision
from jail.network.special import Address, find_special, unmap

PER_SECOND: Final = 500
BURST: Final = 1000
ASKED_PER_SECOND: Final = 200
ASKED_BURST: Final = 500
"""of these, so many go on to a name server"""
MAX_ASKING: Final = 64
"""questions on their way to a name server at once"""
MAX_WAITING: Final = 512
"""questions that wait for one of them, too"""
WHOLE_S: Final = 4.5
"""the C library asks again after five seconds: resolv.conf(5), timeout"""
MAX_STREAM_BYTES: Final = 65535

Pair = tuple[str, str]
"""a name and an address"""

LOCALHOST: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@dataclass(frozen=True)
class Query:
    """Something that was asked, and what came of it."""

    name: str
    type: str
    allowed: bool
    reason: str
    remedy: str = ""
    addresses: tuple[Address, ...] = ()
    """what was answered; of a refusal, what was not"""
    failure: str = ""
    """why nobody knows, though it was allowed"""


class _Asking:
    """One question on its way, and all who want to know."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome = make_failed("given up")


class Resolver:
    """Of one jail. ``opened`` goes by trio's clock, as everything here does.

    ``extra_hosts`` are names and addresses that nobody has to be asked for; ``own`` the jail's own
    ones, which nobody has to allow.
    """

    def __init__(
        self,
        allowed: AllowList,
        upstreams: Sequence[Upstream],
        opened: Opened,
        note: Callable[[Query], None],
        extra_hosts: Iterable[Pair] = (),
        own: Iterable[Pair] = (),
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._allowed, self._upstreams, self._opened = allowed, tuple(upstreams), opened
        self._note, self._clock = note, clock
        self._extra = _make_hosts(extra_hosts)
        self._own = {"localhost": LOCALHOST, **_make_hosts(own)}
        self._bucket = Bucket(PER_SECOND, BURST)
        self._asked = Bucket(ASKED_PER_SECOND, ASKED_BURST)
        self._memory = Memory()
        self._asking: dict[tuple[str, RdataType], _Asking] = {}
        self._limit = trio.CapacityLimiter(MAX_ASKING)
        self._waiting = 0
        self._open_extra()

    def _open_extra(self) -> None:
        for name, addresses in self._extra.items():
            if self._allowed.decide_name(name).allowed:
                for address in addresses:
                    self._opened.open(name, unmap(address), math.inf)

    async def answer(self, packet: bytes, over_tcp: bool = False) -> bytes | None:
        """To what a program sent; None where it deserves none."""
        if not self._bucket.take(self._clock()):
            self._note(Query("", "", False, f"more than {PER_SECOND} questions a second"))
            return make_echo(packet, dns.rcode.SERVFAIL)
        question = parse_question(packet)
        if not isinstance(question, Question):
            return question
        outcome = await self._resolve(question)
        limit_bytes = MAX_STREAM_BYTES if over_tcp else question.limit_bytes
        return make_reply(question, outcome, limit_bytes)

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """All questions of a connection; closes it."""
        await serve_stream(partial(self.answer, over_tcp=True), stream)

    async def _resolve(self, question: Question) -> Outcome:
        if (own := self._find_own(question.name)) is not None:
            return make_known(question, own)
        decision = self._decide(question)
        if not decision.allowed:
            self._tell(question, decision)
            return make_refused(decision.reason)
        outcome = await self._find(question)
        if (denial := self._find_denied(outcome)) is not None:
            self._tell(question, denial)
            return make_refused(denial.reason)
        self._tell_left_out(question, outcome)
        if outcome.addresses or not outcome.left_out:
            self._tell(question, decision, outcome)
        return self._open(question, outcome)

    def _decide(self, question: Question) -> Decision:
        if not question.is_plain:
            return Decision(False, "no name of a host: letters, digits, - and _")
        return self._allowed.decide_name(question.name)

    def _find_own(self, name: str) -> Iterable[Address] | None:
        """RFC 6761, 6.3: localhost and all below it."""
        return LOCALHOST if name.endswith(".localhost") else self._own.get(name)

    async def _find(self, question: Question) -> Outcome:
        if (extra := self._extra.get(question.name)) is not None:
            return make_known(question, extra)
        if question.type not in ASKED:
            return Outcome(dns.rcode.NOERROR)
        key = (question.name, question.type)
        if (known := self._memory.find(key, self._clock())) is not None:
            return known
        if self._waiting >= MAX_WAITING:
            return make_failed("too many questions at once")
        self._waiting += 1
        try:
            return await self._ask_once(question, key)
        finally:
            self._waiting -= 1

    async def _ask_once(self, question: Question, key: tuple[str, RdataType]) -> Outcome:
        """Whoever asks what is on its way already waits for that answer."""
        if (other := self._asking.get(key)) is not None:
            await other.done.wait()
            return other.outcome
        if not self._asked.take(self._clock()):
            return make_failed("too many questions at once")
        self._asking[key] = asking = _Asking()
        try:
            asking.outcome = await self._ask(question)
            self._memory.put(key, asking.outcome, self._clock())
        finally:
            del self._asking[key]
            asking.done.set()
        return asking.outcome

    async def _ask(self, question: Question) -> Outcome:
        name = question.message.question[0].name.canonicalize()
        with trio.move_on_after(WHOLE_S):
            try:
                async with self._limit:
                    found = await ask_upstreams(self._upstreams, name, question.type)
            except Unusable as error:
                return make_failed(str(error))
            return sift(found, self._allowed.allows_address)
        return make_failed("no name server answers")

    def _find_denied(self, outcome: Outcome) -> Decision | None:
        """An alias of a name that is denied is denied."""
        for alias in outcome.aliases:
            for rule in self._allowed.deny:
                if rule.is_whole and rule.has_name(alias):
                    return Decision(False, f"it stands for {alias}: --deny {rule.text}")
        return None

    def _open(self, question: Question, outcome: Outcome) -> Outcome:
        """For as long as the program is told that the answer holds."""
        until_s = self._clock() + outcome.lifetime_s
        for address in outcome.addresses:
            self._opened.open(question.name, unmap(address), until_s)
        return outcome

    def _tell(self, question: Question, decision: Decision, outcome: Outcome | None = None) -> None:
        query = Query(
            question.name,
            question.type.to_text(question.type),
            decision.allowed,
            decision.reason,
            decision.remedy,
        )
        if outcome is not None:
            query = replace(query, addresses=outcome.addresses, failure=outcome.failure)
        self._note(query)

    def _tell_left_out(self, question: Question, outcome: Outcome) -> None:
        """A name that leads where it must not: a name server that lies, or DNS rebinding."""
        if not outcome.left_out:
            return
        first = outcome.left_out[0]
        kind = find_special(unmap(first)) or find_special(first) or "special"
        remedy = "" if kind == "loopback" else f"--allow {first}"
        decision = Decision(False, f"answered with a {kind} address, {first}", remedy)
        self._tell(question, decision, replace(outcome, addresses=outcome.left_out))


def _make_hosts(pairs: Iterable[Pair]) -> dict[str, tuple[Address, ...]]:
    """By names as they are asked for; a name may have several addresses."""
    hosts: dict[str, tuple[Address, ...]] = {}
    for name, address in pairs:
        plain = name.lower().removesuffix(".")
        hosts[plain] = (*hosts.get(plain, ()), ip_address(address))
    return hosts
