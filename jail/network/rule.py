"""What ``--allow`` and ``--deny`` say, and what follows from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple

from jail.check import check_text, show
from jail.errors import SpecError
from jail.network.special import INSIDE, Address, Network, find_range, find_special

Transport = Literal["tcp", "udp"]

MAX_RULES: Final = 1024
EVERY_PORT: Final = (1, 65535)
DNS_PORT: Final = 53
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LIKE_ADDRESS: Final = re.compile(r"[0-9./]+|[0-9a-f:./]*:[0-9a-f:./]*")


@dataclass(frozen=True)
class Rule:
    """Of names (``pattern``) or of addresses (``network``), for ports and one transport or both."""

    text: str
    pattern: str = ""
    """a name, ``*.name`` for all below it, or ``*``; lower case, without the last dot"""
    network: Network | None = None
    ports: tuple[int, int] = EVERY_PORT
    transport: Transport | None = "tcp"

    def has_name(self, name: str) -> bool:
        """Whether ``name`` (lower case, without the last dot) is meant."""
        if self.pattern.startswith("*."):
            return name.endswith(self.pattern[1:]) and len(name) >= len(self.pattern)
        return bool(self.pattern) and self.pattern in (name, "*")

    def has_address(self, address: Address) -> bool:
        """Whether ``address`` is meant by itself."""
        return self.network is not None and address in self.network

    def lies_in(self, special: Network) -> bool:
        """Whether it names such addresses: all of the network 0.0.0.0/0 doesn't, by accident."""
        mine = self.network
        if isinstance(mine, IPv4Network) and isinstance(special, IPv4Network):
            return mine.subnet_of(special)
        if isinstance(mine, IPv6Network) and isinstance(special, IPv6Network):
            return mine.subnet_of(special)
        return False

    def has_port(self, port: int, transport: Transport) -> bool:
        """Whether it is about this port of this transport."""
        low, high = self.ports
        return low <= port <= high and self.transport in (transport, None)

    @property
    def is_whole(self) -> bool:
        """About every port of every transport: a name it denies needs no address either."""
        return self.ports == EVERY_PORT and self.transport is None


class Decision(NamedTuple):
    """``reason`` is the rule, or what is wrong; ``remedy`` the option that would allow it."""

    allowed: bool
    reason: str
    remedy: str = ""
    inspects: bool = False
    """the names that are spoken over it have to be allowed, too"""
    name: str = ""
    """by which name the address was opened"""


@dataclass(frozen=True)
class AllowList:
    """All that may be reached. What denies beats what allows.

    ``observe`` lets names and ordinary addresses pass that no rule allows.
    """

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    observe: bool = False

    def decide_name(self, name: str) -> Decision:
        """Whether its addresses may be asked for."""
        if (
            rule := find(self.deny, lambda each: each.is_whole and each.has_name(name))
        ) is not None:
            return Decision(False, f"--deny {rule.text}")
        if (rule := find(self.allow, lambda each: each.has_name(name))) is not None:
            return Decision(True, f"--allow {rule.text}")
        if self.observe:
            return Decision(True, "observed")
        return Decision(False, "no rule allows this name", f"--allow {name}")

    def decide_spoken(self, name: str, port: int) -> Decision:
        """Whether a TLS server name or HTTP host may be spoken to on this TCP port."""
        return self._decide_named(name, port, "tcp")

    def decide_address(
        self,
        address: Address,
        port: int,
        transport: Transport,
        names: Iterable[str] = (),
        is_own: bool = False,
    ) -> Decision:
        """Whether it may be reached. ``names`` were answered with it and their lifetime lasts;
        ``is_own`` is an address of this host.
        """

        def is_about(rule: Rule) -> bool:
            return rule.has_address(address) and rule.has_port(port, transport)

        if (rule := find(self.deny, is_about)) is not None:
            return Decision(False, f"--deny {rule.text}")
        special = ip_network(address) if is_own else find_range(address)
        for rule in filter(is_about, self.allow):
            if special is None or rule.lies_in(special):
                return Decision(True, f"--allow {rule.text}")
        remedy = f"--allow {format_place(str(address), port, transport)}"
        if special is not None:
            kind = find_special(address) or "own"
            what = f"this host's own address ({kind})" if is_own else f"{kind} address"
            return Decision(False, what, "" if kind == "loopback" else remedy)
        return self._decide_opened(names, port, transport, remedy)

    def allows_address(self, address: Address) -> bool:
        """Whether names may lead to it: it is an ordinary one, or a rule names it (for whatever
        port).
        """
        special = find_range(address)
        return special is None or any(
            rule.has_address(address) and rule.lies_in(special) for rule in self.allow
        )

    def _decide_opened(
        self, names: Iterable[str], port: int, transport: Transport, remedy: str
    ) -> Decision:
        refused: Decision | None = None
        for name in names:
            decision = self._decide_named(name, port, transport)
            if decision.allowed:
                return decision._replace(inspects=transport == "tcp")
            refused = refused or decision
        if refused is not None:
            return refused
        if self.observe:
            return Decision(True, "observed", inspects=transport == "tcp")
        return Decision(False, "no rule allows this address", remedy)

    def _decide_named(self, name: str, port: int, transport: Transport) -> Decision:
        def is_about(rule: Rule) -> bool:
            return rule.has_name(name) and rule.has_port(port, transport)

        if (rule := find(self.deny, is_about)) is not None:
            return Decision(False, f"--deny {rule.text}", name=name)
        if (rule := find(self.allow, is_about)) is not None:
            return Decision(True, f"--allow {rule.text}", name=name)
        if self.observe:
            return Decision(True, "observed", name=name)
        place = format_place(name, port, transport)
        has_other = find(self.allow, lambda each: each.has_name(name)) is not None
        what = f"this port ({port}/{transport}) of this name" if has_other else "this name"
        return Decision(False, f"no rule allows {what}", f"--allow {place}", name=name)


def find(rules: Iterable[Rule], is_meant: Callable[[Rule], bool]) -> Rule | None:
    """The first that is."""
    return next(filter(is_meant, rules), None)


def format_place(host: str, port: int, transport: Transport) -> str:
    """As a rule is written."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" + ("/udp" if transport == "udp" else "")


def parse_rule(text: str, option: Literal["allow", "deny"]) -> Rule:
    """``NAME[:PORT]``, ``*.NAME[:P1-P2]``, ``NETWORK[:PORT]``, each with ``/tcp`` or ``/udp``.

    Without one, allow means TCP and deny both. SpecError for what is neither name nor network.
    """
    given = check_text(text, option).strip().lower()
    if "://" in given:
        raise SpecError(f"{option} {show(text)}: a rule is no URL; write example.org:443")
    host, transport = _split_transport(given, "tcp" if option == "allow" else None)
    host, ports = _split_ports(host, f"{option} {show(text)}")
    if _LIKE_ADDRESS.fullmatch(host):
        network = _parse_network(host, f"{option} {show(text)}")
        rule = Rule(given, network=network, ports=ports, transport=transport)
        if option == "allow" and any(map(rule.lies_in, INSIDE)):
            raise SpecError(
                f"allow {show(text)}: inside, that is the jail's own loopback; nothing leads from "
                "a jail to the host's"
            )
        return rule
    pattern = _parse_pattern(host, f"{option} {show(text)}")
    if option == "allow" and pattern == "localhost":
        raise SpecError("allow localhost: inside, that is the jail itself, and open to it")
    return Rule(given, pattern, ports=ports, transport=transport)


def _split_transport(text: str, default: Transport | None) -> tuple[str, Transport | None]:
    if text.endswith("/tcp"):
        return text[:-4], "tcp"
    if text.endswith("/udp"):
        return text[:-4], "udp"
    return text, default


def _split_ports(text: str, what: str) -> tuple[str, tuple[int, int]]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host:
            raise SpecError(f"{what}: write [IPV6] or [IPV6]:PORT")
        if not rest:
            return host, EVERY_PORT
        if not rest.startswith(":"):
            raise SpecError(f"{what}: between ] and the port belongs a colon")
        return host, _parse_ports(rest[1:], what)
    if text.count(":") > 1:
        return text, EVERY_PORT
    host, colon, ports = text.partition(":")
    return host, _parse_ports(ports, what) if colon else EVERY_PORT


def _parse_ports(text: str, what: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    texts = (low, high) if dash else (low, low)
    if not all(each.isascii() and each.isdigit() and len(each) <= 5 for each in texts):
        raise SpecError(f"{what}: {show(text)} is no port; write 443 or 8000-8100")
    first, last = int(texts[0]), int(texts[1])
    if not 1 <= first <= last <= EVERY_PORT[1]:
        raise SpecError(f"{what}: ports go from 1 to 65535, the lower one first")
    return first, last


def _parse_network(text: str, what: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        rounded = ip_network(text, strict=False)
    except ValueError:
        raise SpecError(f"{what}: no address and no network; write 10.1.0.0/16") from None
    raise SpecError(f"{what}: an address and a network in one; did you mean {rounded}?")


def _parse_pattern(text: str, what: str) -> str:
    if text == "*":
        return text
    star = "*." if text.startswith("*.") else ""
    if "*" in text.removeprefix(star):
        raise SpecError(f"{what}: a * stands for whole labels at the front, as in *.example.org")
    name = find_name(text.removeprefix(star))
    if name is None:
        raise SpecError(
            f"{what}: neither a name nor a network; write example.org, *.example.org or 10.1.0.0/16"
        )
    return star + name


def parse_name(text: str, what: str) -> str:
    """A host's name as the DNS has it: lower case, without the last dot."""
    name = find_name(text.strip().lower())
    if name is None:
        raise SpecError(f"{what}: {show(text)} is no name of a host")
    return name


def find_name(text: str) -> str | None:
    """None for what is none; numbers at its end would make it an address: inet_aton(3)."""
    name = _encode(text.removesuffix("."))
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        return None
    return name


def _encode(name: str) -> str:
    """As it is asked for in the DNS: RFC 3490."""
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return "?"
