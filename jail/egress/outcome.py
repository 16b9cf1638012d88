"""What a name server said, sifted; and what is said of it inside. Pure.

Of its message only the chain of aliases from the name that was asked for counts, and what lies at
the chain's end: everything else a name server may add is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rrset
from dns.edns import EDECode, EDEOption, Option
from dns.name import Name
from dns.rcode import Rcode
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from jail.egress.message import Answer, Records
from jail.egress.question import MAX_REPLY_BYTES, Question, show_name
from jail.network.special import Address, unmap

MAX_ALIASES: Final = 16
MAX_RECORDS: Final = 64
"""of one answer; what is more is left out"""
MIN_LIFETIME_S: Final = 5
MAX_LIFETIME_S: Final = 3600
ABSENCE_S: Final = 10
"""how long it is remembered that there is nothing"""
MAX_SHOWN: Final = 200
ADDRESSES: Final = frozenset((RdataType.A, RdataType.AAAA))


class Unusable(Exception):
    """No answer, whoever gave it."""


@dataclass(frozen=True)
class Outcome:
    """Of asking for a name."""

    rcode: Rcode
    records: tuple[Records, ...] = ()
    """the aliases, in their order, then what was asked for"""
    lifetime_s: float = 0
    addresses: tuple[Address, ...] = ()
    left_out: tuple[Address, ...] = ()
    """where no name leads"""
    filtered: str = ""
    """why less is answered than there is"""
    failure: str = ""
    """why nothing is known"""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names that the one asked for stands for."""
        found = [each.rdatas[0] for each in self.records if each.type == RdataType.CNAME]
        return tuple(show_name(_get_target(rdata)) for rdata in found)


def make_refused(reason: str) -> Outcome:
    """There is no such name, for whoever is inside: no program waits, or asks again."""
    return Outcome(dns.rcode.NXDOMAIN, filtered=reason)


def make_failed(reason: str) -> Outcome:
    """Nobody knows: whether it is worth another try is the program's business."""
    return Outcome(dns.rcode.SERVFAIL, failure=reason[:MAX_SHOWN])


def make_known(question: Question, addresses: Iterable[Address]) -> Outcome:
    """What we know ourselves."""
    kind = question.type
    version = {RdataType.A: 4, RdataType.AAAA: 6}.get(kind)
    found = tuple(each for each in addresses if each.version == version)
    rdatas = tuple(dns.rdata.from_text(dns.rdataclass.IN, kind, str(each)) for each in found)
    records = (Records(question.message.question[0].name, kind, rdatas),) if rdatas else ()
    return Outcome(dns.rcode.NOERROR, records, MAX_LIFETIME_S, found)


def read_outcome(answer: Answer, name: Name, kind: RdataType) -> Outcome:
    """Of a name server's answer to this question. Unusable if it is none."""
    if answer.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise Unusable(f"the name server answers {dns.rcode.to_text(answer.rcode)}")
    records = tuple(_walk(answer, name, kind))
    lifetime_s = min((each.ttl_s for each in records), default=ABSENCE_S)
    lifetime_s = min(max(lifetime_s, MIN_LIFETIME_S), MAX_LIFETIME_S)
    if not records or records[-1].type != kind:
        return Outcome(answer.rcode, records, min(lifetime_s, ABSENCE_S))
    *aliases, end = records
    end = end._replace(rdatas=end.rdatas[:MAX_RECORDS])
    addresses = tuple(_read_addresses(end))
    return Outcome(dns.rcode.NOERROR, (*aliases, end), lifetime_s, addresses)


def _walk(answer: Answer, name: Name, kind: RdataType) -> Iterable[Records]:
    """From the name along its aliases to the records."""
    seen: set[Name] = set()
    while len(seen) <= MAX_ALIASES:
        seen.add(name)
        if (found := answer.find(name, kind)) is not None:
            yield found
            return
        if (alias := answer.find(name, RdataType.CNAME)) is None:
            return
        yield alias._replace(rdatas=alias.rdatas[:1])
        name = _get_target(alias.rdatas[0])
        if name in seen:
            raise Unusable("the aliases of this name lead in a circle")
    raise Unusable(f"more than {MAX_ALIASES} aliases of this name")


def _get_target(alias: Rdata) -> Name:
    target = getattr(alias, "target", None)
    assert isinstance(target, Name), "a CNAME has one"
    return target


def _read_addresses(records: Records) -> Iterable[Address]:
    if records.type in ADDRESSES:
        yield from (ip_address(rdata.to_text()) for rdata in records.rdatas)


def sift(outcome: Outcome, allows_address: Callable[[Address], bool]) -> Outcome:
    """Without the addresses where no name may lead.

    The name exists, whatever is left: were it said not to, for the sake of one kind of address,
    musl would forget those of the other kind.
    """
    if not outcome.addresses:
        return outcome

    def is_open(address: Address) -> bool:
        return allows_address(address) and allows_address(unmap(address))

    left_out = tuple(each for each in outcome.addresses if not is_open(each))
    if not left_out:
        return outcome
    *aliases, last = outcome.records
    pairs = zip(last.rdatas, outcome.addresses, strict=True)
    kept = [(rdata, each) for rdata, each in pairs if each not in left_out]
    end = [last._replace(rdatas=tuple(rdata for rdata, _ in kept))] if kept else []
    return replace(
        outcome,
        records=(*aliases, *end),
        addresses=tuple(each for _, each in kept),
        left_out=left_out,
        filtered="answered with addresses that no name opens",
    )


def make_reply(question: Question, outcome: Outcome, limit_bytes: int) -> bytes:
    """The message that goes inside. What doesn't fit is asked for again, over TCP."""
    reply = dns.message.make_response(question.message, recursion_available=True)
    reply.set_rcode(outcome.rcode)
    if question.message.edns >= 0:
        reply.use_edns(0, payload=MAX_REPLY_BYTES, options=_make_options(outcome))
        reply.set_rcode(outcome.rcode)
    ttl_s = int(outcome.lifetime_s)
    reply.answer = [
        dns.rrset.from_rdata_list(each.owner, ttl_s, list(each.rdatas)) for each in outcome.records
    ]
    try:
        return reply.to_wire(max_size=limit_bytes)
    except dns.exception.TooBig:
        reply.answer = []
        reply.flags |= dns.flags.TC
        return reply.to_wire(max_size=limit_bytes)


def _make_options(outcome: Outcome) -> list[Option]:
    """Why, in words: RFC 8914."""
    if outcome.filtered:
        return [EDEOption(EDECode.FILTERED, outcome.filtered[:MAX_SHOWN])]
    if outcome.failure:
        return [EDEOption(EDECode.NETWORK_ERROR, outcome.failure)]
    return []
