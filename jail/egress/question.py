"""What a program asks a name server, out of the bytes it sends: hostile ones. Pure.

Nothing of them goes any further than this: whoever asks on makes a question of his own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from dns.message import Message
from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType

HEAD: Final = struct.Struct("!HHHHHH")
MAX_QUERY_BYTES: Final = 512
"""a name has 255; options that nobody needs take their time to be read"""
MAX_ADDITIONAL: Final = 2
"""EDNS's options, and a signature"""
MIN_REPLY_BYTES: Final = 512
MAX_REPLY_BYTES: Final = 4096
"""over UDP, whatever the client says it takes"""
MAX_SHOWN: Final = 255
_PLAIN_LABEL: Final = re.compile(rb"[a-z0-9_-]{1,63}")

ASKED: Final = frozenset(
    RdataType.make(each)
    for each in ("A", "AAAA", "CNAME", "MX", "TXT", "SRV", "NS", "SOA", "CAA", "PTR")
)
"""what is asked on for; there is no data of any other kind. HTTPS and SVCB lead to other names,
and hand out keys that hide the name which is spoken (ECH)."""


@dataclass(frozen=True)
class Question:
    """A name and a kind of record."""

    message: Message
    name: str
    """lower case, without the last dot"""
    is_plain: bool
    """made of letters, digits, ``-`` and ``_``: elsewise its text is none that a rule means. (A dot
    *in* a label is written like one between two.)"""
    type: RdataType

    @property
    def limit_bytes(self) -> int:
        """What the client takes in a datagram: RFC 6891, 6.2.3."""
        size = self.message.payload if self.message.edns >= 0 else 0
        return min(max(size, MIN_REPLY_BYTES), MAX_REPLY_BYTES)


def parse_question(packet: bytes) -> Question | bytes | None:
    """The question; or what to answer to what can't be one; None where nothing should be."""
    if len(packet) < HEAD.size:
        return None
    _, flags, *counts, additional = HEAD.unpack_from(packet)
    if flags & dns.flags.QR:
        return None
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return make_bare(packet, dns.rcode.NOTIMP)
    if len(packet) > MAX_QUERY_BYTES or counts != [1, 0, 0] or additional > MAX_ADDITIONAL:
        return make_bare(packet, dns.rcode.FORMERR)
    message = parse_message(packet)
    if message is None or len(message.question) != 1:
        return make_bare(packet, dns.rcode.FORMERR)
    return _read(message)


def _read(message: Message) -> Question | bytes:
    if message.edns > 0:
        return make_refusal(message, dns.rcode.BADVERS)
    asked = message.question[0]
    kind = RdataType(asked.rdtype)
    if asked.rdclass != dns.rdataclass.IN or kind in (RdataType.AXFR, RdataType.IXFR):
        return make_refusal(message, dns.rcode.REFUSED)
    if dns.rdatatype.is_metatype(kind):
        return make_refusal(message, dns.rcode.NOTIMP)
    name = asked.name.canonicalize()
    return Question(message, show_name(name), is_plain(name), kind)


def parse_message(packet: bytes) -> Message | None:
    """None for whatever isn't one. The parser isn't ours, and its input is a stranger's: however
    it fails, that is all it has said.
    """
    try:
        return dns.message.from_wire(packet)
    except Exception:
        return None


def is_plain(name: Name) -> bool:
    """Whether it is made of letters, digits, ``-`` and ``_``, and isn't the root."""
    labels = name.labels[:-1]
    return bool(labels) and all(map(_PLAIN_LABEL.fullmatch, labels))


def show_name(name: Name) -> str:
    """As rules are written, and bounded: a byte that is escaped becomes four."""
    return name.canonicalize().to_text(omit_final_dot=True)[:MAX_SHOWN]


def make_refusal(message: Message, rcode: Rcode) -> bytes:
    """To a question that could be read."""
    reply = dns.message.make_response(message, recursion_available=True)
    if message.edns >= 0:
        reply.use_edns(0, payload=MAX_REPLY_BYTES)
    reply.set_rcode(rcode)
    return reply.to_wire(max_size=MIN_REPLY_BYTES)


def make_bare(packet: bytes, rcode: Rcode) -> bytes:
    """A head and nothing else, to what could not be read."""
    return HEAD.pack(*_make_head(packet, rcode), 0, 0, 0, 0)


def make_echo(packet: bytes, rcode: Rcode) -> bytes | None:
    """What came, with another head: costs next to nothing, and the C library believes no answer
    without the question.
    """
    if len(packet) < HEAD.size or HEAD.unpack_from(packet)[1] & dns.flags.QR:
        return None
    if len(packet) > MIN_REPLY_BYTES:
        return make_bare(packet, rcode)
    return struct.pack("!HH", *_make_head(packet, rcode)) + packet[4:]


def _make_head(packet: bytes, rcode: Rcode) -> tuple[int, int]:
    number, flags, *_ = HEAD.unpack_from(packet)
    kept = flags & (dns.flags.RD | 0x7800)  # the opcode: RFC 1035, 4.1.1
    return number, kept | dns.flags.QR | dns.flags.RA | rcode
