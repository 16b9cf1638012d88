"""What ``--publish`` says: which ports of the host lead into the jail. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Literal

from jail.check import check_text, show
from jail.errors import SpecError

Protocol = Literal["tcp", "udp"]

MAX_PORTS: Final = 1024
"""each is a socket of the helper's"""
FORM: Final = "[IP:]HOST:JAIL[/tcp|udp]"
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Publish:
    """One port of the host's, and the jail's behind it.

    ``ip`` is an address of the host's in its shortest form, ``0.0.0.0`` and ``::`` every one of
    that family, ``""`` (where none was given) every one there is.
    """

    ip: str
    host_port: int
    jail_port: int
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.ports}/{self.protocol}"

    @property
    def ports(self) -> str:
        """As it is written, without the protocol."""
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip}:{self.host_port}:{self.jail_port}".removeprefix(":")

    @property
    def families(self) -> tuple[int, ...]:
        """The versions of IP it is about."""
        return (ip_address(self.ip).version,) if self.ip else (4, 6)

    def overlaps(self, other: Publish) -> bool:
        """Whether the kernel could not give both their sockets."""
        if (self.protocol, self.host_port) != (other.protocol, other.host_port):
            return False
        if not set(self.families) & set(other.families):
            return False
        return self.ip == other.ip or any(
            each.ip in ("", "0.0.0.0", "::") for each in (self, other)
        )


def parse_publish(value: object) -> tuple[Publish, ...]:
    """``8080:80``, ``127.0.0.1:8080:80/udp``, ``[::1]:8080:80``, ``8000-8010:9000-9010``."""
    text = check_text(value, "publish")
    ports, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise SpecError(f"publish: {show(text)}: after / comes tcp or udp")
    ip, host, inside = _split(ports, text)
    if len(host) != len(inside):
        raise SpecError(f"publish: {show(text)}: {len(host)} ports lead to {len(inside)}")
    if len(host) > MAX_PORTS:
        raise SpecError(f"publish: {show(text)}: more than {MAX_PORTS} ports")
    kind: Protocol = "udp" if protocol == "udp" else "tcp"
    return tuple(Publish(ip, *pair, kind) for pair in zip(host, inside, strict=True))


def parse_publishes(values: Iterable[Any]) -> tuple[Publish, ...]:
    """All of them, none of which is in another's way."""
    found = tuple(each for value in values for each in parse_publish(value))
    refuse_overlaps(found)
    return found


def refuse_overlaps(publishes: Iterable[Publish]) -> None:
    """SpecError for two that want the same port of the same address, or for too many."""
    by_port: dict[tuple[str, int], list[Publish]] = {}
    for count, each in enumerate(publishes, 1):
        same = by_port.setdefault((each.protocol, each.host_port), [])
        other = next((before for before in same if before.overlaps(each)), None)
        if other is not None:
            raise SpecError(f"publish: {other} and {each} want the same port")
        if count > MAX_PORTS:
            raise SpecError(f"publish: more than {MAX_PORTS} ports")
        same.append(each)


def _split(ports: str, text: str) -> tuple[str, range, range]:
    address, _, inside = ports.rpartition(":")
    address, colon, host = address.rpartition(":")
    if not host or (colon and not address):
        raise SpecError(f"publish: {show(text)} is not of the form {FORM}")
    ip = _parse_ip(address, text) if colon else ""
    return ip, _parse_ports(host, text), _parse_ports(inside, text)


def _parse_ip(address: str, text: str) -> str:
    bracketed = address.startswith("[") and address.endswith("]")
    try:
        ip = ip_address(address[1:-1] if bracketed else address)
    except ValueError:
        raise SpecError(f"publish: {show(text)}: {show(address)} is no address") from None
    if isinstance(ip, IPv4Address) == bracketed:
        raise SpecError(f"publish: {show(text)}: IPv6 addresses, and no others, stand in [ ]")
    if isinstance(ip, IPv6Address) and (ip.scope_id or ip.ipv4_mapped):
        raise SpecError(f"publish: {show(text)}: an address without zone or mapping is needed")
    return str(ip)


def _parse_ports(word: str, text: str) -> range:
    match = _PORTS.fullmatch(word)
    if match is None:
        raise SpecError(f"publish: {show(text)}: {show(word)} is no port")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise SpecError(f"publish: {show(text)}: ports are 1 to 65535, the lower one first")
    return range(first, last + 1)
