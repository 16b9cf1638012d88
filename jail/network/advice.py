"""Which rules would have been needed, and what to do about what was refused. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from jail.errors import SpecError
from jail.network.rule import EVERY_PORT, Rule, Transport, parse_rule
from jail.network.use import Attempt, NetworkUse

ALLOWED_BY: Final = "--allow "
OBSERVED: Final = "observed"
MAX_RANGES: Final = 8
"""of the ports of one host; with more, every port"""


class Advice(NamedTuple):
    """Texts of rules, as ``--allow`` takes them."""

    needed: tuple[str, ...]
    """for the connections that were made"""
    looked_up: tuple[str, ...]
    """for names that were asked for, and answered, and connected to by nobody"""


@dataclass
class _Wanted:
    """Hosts and their ports, in the order of the first times."""

    ports: dict[tuple[str, Transport], set[int]] = field(default_factory=dict)

    def add(self, host: str, port: int, transport: Transport) -> None:
        self.ports.setdefault((host, transport), set()).add(port)

    def list_rules(self) -> Iterator[str]:
        for (host, transport), ports in self.ports.items():
            suffix = "/udp" if transport == "udp" else ""
            for low, high in merge_ports(ports):
                text = f"{low}" if low == high else f"{low}-{high}"
                every = (low, high) == EVERY_PORT
                yield (host.strip("[]") if every else f"{host}:{text}") + suffix


def find_rules(use: NetworkUse) -> Advice:
    """The smallest allow-list under which all that was allowed would be.

    Those rules that allowed something stay; what only ``--observe`` let pass gets one, of its name
    where it was reached by one.
    """
    allowed = [each for each in use.attempts if each.allowed]
    reached = [each for each in allowed if each.protocol != "dns"]
    rules = dict(_find_used(allowed))
    wanted = _Wanted()
    for each in reached:
        for host in _list_hosts(each, rules.values()):
            wanted.add(host, each.port, _get_transport(each))
    needed = (*rules, *wanted.list_rules())
    known = {each.name for each in reached if not is_address(each.spoken)}
    looked_up = (
        each.name
        for each in allowed
        if each.protocol == "dns" and each.reason == OBSERVED and each.name not in known
        if not any(rule.has_name(each.name) for rule in rules.values())
    )
    return Advice(*(tuple(dict.fromkeys(filter(is_rule, each))) for each in (needed, looked_up)))


def _find_used(allowed: Iterable[Attempt]) -> Iterator[tuple[str, Rule]]:
    for each in allowed:
        text = each.reason.removeprefix(ALLOWED_BY)
        if text != each.reason and is_rule(text):
            yield text, parse_rule(text, "allow")


def _list_hosts(attempt: Attempt, rules: Collection[Rule]) -> Iterator[str]:
    """What would have let it pass, beside the rules.

    A name that was only spoken opens nothing: it was reached by another name, or by the address
    itself, and then nobody asks what is spoken. Where that is an address no name allows it.
    """
    about = [each for each in rules if each.has_port(attempt.port, _get_transport(attempt))]
    if any(each.has_address(ip_address(attempt.address)) for each in about):
        return
    if not attempt.name or is_address(attempt.spoken):
        yield f"[{attempt.address}]" if ":" in attempt.address else attempt.address
        return
    for name in filter(None, (attempt.name, attempt.spoken)):
        if not any(each.has_name(name) for each in about):
            yield name


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _get_transport(attempt: Attempt) -> Transport:
    return "udp" if attempt.protocol == "udp" else "tcp"


def merge_ports(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbours in one; with too many of them, every port."""
    ranges: list[tuple[int, int]] = []
    for port in sorted(set(ports)):
        if ranges and ranges[-1][1] + 1 == port:
            ranges[-1] = (ranges[-1][0], port)
        else:
            ranges.append((port, port))
    return ranges if len(ranges) <= MAX_RANGES else [EVERY_PORT]


def is_rule(text: str) -> bool:
    """What a program asks for may be no name at all."""
    try:
        parse_rule(text, "allow")
    except SpecError:
        return False
    return True


def format_options(rules: Iterable[str]) -> str:
    """For a shell."""
    return shlex.join(word for rule in rules for word in ("--allow", rule))


class Refusal(NamedTuple):
    """One that was refused, in words: what, why, and the option that would allow it."""

    what: str
    why: str
    remedy: str


def list_refusals(use: NetworkUse) -> list[Refusal]:
    """In the order of the first times."""
    return [
        Refusal(describe_attempt(each), each.reason, _quote(each.remedy))
        for each in use.attempts
        if not each.allowed
    ]


def describe_attempt(attempt: Attempt) -> str:
    """What was tried, and how often."""
    times = "once" if attempt.count == 1 else f"{attempt.count} times"
    if attempt.protocol == "dns":
        return f"the name {attempt.name}: {times}"
    address = f"[{attempt.address}]" if ":" in attempt.address else attempt.address
    name = attempt.spoken or attempt.name
    whom = f"{name} at {address}" if name else address
    return f"{attempt.protocol.upper()} to {whom}, port {attempt.port}: {times}"


def _quote(remedy: str) -> str:
    """ "" for what no option would allow."""
    rule = remedy.removeprefix(ALLOWED_BY)
    return format_options([rule]) if rule != remedy and is_rule(rule) else ""
