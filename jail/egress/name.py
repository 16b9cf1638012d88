"""The names of servers as the wire carries them. Pure.

What is taken is narrower than what servers take, so that no server reads another name out of it.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

MAX_NAME_BYTES: Final = 253

_LABEL: Final = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rb"%b(?:\.%b)*" % (_LABEL, _LABEL))
_NUMBER: Final = re.compile(rb"[0-9]+|0[xX][0-9A-Fa-f]*")
_AUTHORITY: Final = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[^:\[\]]+)(?::([0-9]{1,5}))?")


class Unclear(ValueError):
    """Which server is meant can't be told, or there are two ways to read it."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.name = name


class Cut(Unclear):
    """It has ended in the middle."""


def parse_name(text: bytes) -> str:
    """A name, in lower case; an address is none, however it is written."""
    if len(text) > MAX_NAME_BYTES or not _NAME.fullmatch(text):
        raise Unclear("the server's name is malformed")
    if _is_number(text):
        raise Unclear("an address stands where a name has to")
    return text.decode("ascii").lower()


def parse_authority(text: bytes) -> str:
    """Of ``HOST[:PORT]``, the host: a name without its last dot, or an address as Python writes it.

    The port is not what servers choose by; whatever else could stand there (a user, a list, a
    scope) is refused.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match[2] or 0) > 65535:
        raise Unclear("the host is malformed")
    host = match[1]
    try:
        if host.startswith(b"["):
            return str(IPv6Address(host[1:-1].decode("ascii")))
        if _is_number(host):
            return str(IPv4Address(host.decode("ascii")))
    except (AddressValueError, UnicodeDecodeError):
        raise Unclear("the host is malformed") from None
    return parse_name(host.removesuffix(b"."))


def _is_number(name: bytes) -> bool:
    """Whether resolvers take it for an address: inet_aton(3) does 127.1, 0x7f000001 and 017.1."""
    return _NUMBER.fullmatch(name.rpartition(b".")[2]) is not None
