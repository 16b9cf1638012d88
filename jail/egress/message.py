"""A name server's message: read no further than it answers what was asked. Pure.

The other sections may hold anything, and so may the rest of a long answer: whoever owns a zone
that is allowed can make a message whose reading takes seconds, and everybody waits meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import dns.flags
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.wire
from dns.message import Message
from dns.name import Name
from dns.rcode import Rcode
from dns.rdata import Rdata
from dns.rdatatype import RdataType

from jail.egress.question import HEAD

MAX_ANSWER_BYTES: Final = 16384
"""of a message"""
MAX_RECORDS_READ: Final = 128
MAX_LABELS_READ: Final = 640
"""of all names, written out"""
NAMED: Final = ("target", "exchange", "mname", "rname")
"""names in what is asked for: RFC 1035, 3.3"""
RECORD_HEAD: Final = "!HHIH"
MAX_TTL_S: Final = 2**31 - 1


class Records(NamedTuple):
    """Of one name and kind."""

    owner: Name
    type: RdataType
    rdatas: tuple[Rdata, ...]
    ttl_s: int = 0


@dataclass
class Answer:
    """What it says about names and their aliases."""

    rcode: Rcode
    is_truncated: bool
    _lifetimes_s: dict[tuple[Name, RdataType], dict[Rdata, int]] = field(default_factory=dict)

    def add(self, owner: Name, kind: RdataType, rdata: Rdata, ttl_s: int) -> None:
        """One more of these."""
        known = self._lifetimes_s.setdefault((owner, kind), {})
        known.setdefault(rdata, ttl_s if ttl_s <= MAX_TTL_S else 0)  # RFC 2181, 8

    def find(self, owner: Name, kind: RdataType) -> Records | None:
        """All of these; of their lifetimes the shortest holds: RFC 2181, 5.2."""
        known = self._lifetimes_s.get((owner, kind))
        return Records(owner, kind, tuple(known), min(known.values())) if known else None


def read_answer(query: Message, packet: bytes) -> Answer | None:
    """None for whatever is no answer to this question. The parser isn't ours, and its input is a
    stranger's: however it fails, that is all it has said.
    """
    if len(packet) > MAX_ANSWER_BYTES:
        return None
    try:
        return _read(query, packet)
    except Exception:
        return None


def _read(query: Message, packet: bytes) -> Answer | None:
    number, flags, questions, count, *_ = HEAD.unpack_from(packet)
    if number != query.id or not flags & dns.flags.QR or questions > 1:
        return None
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return None
    parser = dns.wire.Parser(packet, HEAD.size)
    answer = Answer(Rcode(flags & 0xF), bool(flags & dns.flags.TC))
    if not questions:  # of the few that say so little, some don't know EDNS: RFC 6891, 7
        return answer if answer.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) else None
    asked = query.question[0]
    name, kind = dns.name.from_wire_parser(parser), parser.get_struct("!HH")
    if name != asked.name or kind != (asked.rdtype, asked.rdclass):
        return None
    if not answer.is_truncated:
        _read_records(answer, parser, min(count, MAX_RECORDS_READ), RdataType(asked.rdtype))
    return answer


def _read_records(answer: Answer, parser: dns.wire.Parser, count: int, asked: RdataType) -> None:
    labels = 0
    for _ in range(count):
        if labels > MAX_LABELS_READ:
            return
        owner = dns.name.from_wire_parser(parser)
        labels += len(owner.labels)
        kind, class_, ttl_s, length = parser.get_struct(RECORD_HEAD)
        if class_ != dns.rdataclass.IN or kind not in (asked, RdataType.CNAME):
            parser.get_bytes(length)
            continue
        with parser.restrict_to(length):
            rdata = dns.rdata.from_wire_parser(class_, kind, parser)
        names = [getattr(rdata, each, None) for each in NAMED]
        labels += sum(len(each.labels) for each in names if isinstance(each, Name))
        answer.add(owner, RdataType(kind), rdata, ttl_s)
