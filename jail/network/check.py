"""What is asked of a jail's network: each word, and which of them mean something together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from jail.check import check_bool, check_choice, check_list, check_text, show
from jail.errors import SpecError
from jail.network.publish import Publish, parse_publish, refuse_overlaps
from jail.network.rule import MAX_RULES, Rule, parse_name, parse_rule

if TYPE_CHECKING:
    from typing import Literal

    from jail.network.special import Address
    from jail.spec import JailSpec

NETWORKS: Final = ("none", "host", "slirp", "pasta", "slirp4netns", "filtered")
WITH_PORTS: Final = ("slirp", "pasta", "slirp4netns")
"""those with a way in"""
MAX_HOSTS: Final = 256
MAX_NAMESERVERS: Final = 3  # MAXNS, resolv.conf(5): no program asks more

Pair = tuple[str, str]


def choose_network(network: Any, filters: bool) -> Any:
    """The one that was asked for; rules alone ask for ``filtered``."""
    if network is not None:
        return check_choice(network, NETWORKS, "network")
    return "filtered" if filters else "none"


def make_rules(rules: Any, option: Literal["allow", "deny"]) -> tuple[Rule, ...]:
    """Of texts; what is said twice is said once."""
    found = check_list(rules, option)
    made = (each if isinstance(each, Rule) else parse_rule(each, option) for each in found)
    return tuple(dict.fromkeys(made))


def make_hosts(hosts: Any) -> tuple[Pair, ...]:
    """Of docker's ``NAME:IP``, or a mapping of names to addresses."""
    if isinstance(hosts, Mapping):
        pairs: Iterable[Pair] = [_check_pair(name, address) for name, address in hosts.items()]
    else:
        pairs = map(parse_host, check_list(hosts, "add_host"))
    return tuple(dict.fromkeys(pairs))


def parse_host(text: object) -> Pair:
    """``NAME:IP``; also docker's newer ``NAME=IP``, and brackets around IPv6."""
    given = check_text(text, "add_host")
    name, colon, address = given.partition("=" if "=" in given else ":")
    if not colon:
        raise SpecError(f"add_host {show(text)}: write NAME:IP, such as db.example.org:10.1.2.3")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return _check_pair(name, address)


def make_nameservers(addresses: Any) -> tuple[str, ...]:
    """Addresses, as docker's ``--dns``."""
    found = (str(_parse_address(each, "dns")) for each in check_list(addresses, "dns"))
    return tuple(dict.fromkeys(found))


def make_publishes(ports: Any) -> tuple[Publish, ...]:
    """Of docker's ``[IP:]HOST:JAIL[/udp]``; a range is one for each port of it."""
    found: list[Publish] = []
    for each in check_list(ports, "publish"):
        found += (each,) if isinstance(each, Publish) else parse_publish(each)
    return tuple(found)


def check_network(spec: JailSpec) -> None:
    """SpecError for what can't be meant, or not together."""
    network = check_choice(spec.network, NETWORKS, "network")
    check_bool(spec.observe, "observe")
    _check_rules(spec.allow, "allow")
    _check_rules(spec.deny, "deny")
    _check_hosts(spec.add_hosts)
    _check_nameservers(spec.dns)
    _check_publishes(spec.publish)
    if spec.publish and network not in WITH_PORTS:
        raise SpecError(
            f"publish: network {network} has no way in; that is {', '.join(WITH_PORTS)}"
        )
    for word in ("allow", "deny", "observe"):
        if getattr(spec, word) and network != "filtered":
            raise SpecError(f"{word}: network {network} has no rules; that is network filtered")
    if spec.dns and network == "none":
        raise SpecError("dns: there is nobody to ask with network none")
    if spec.dns and network in WITH_PORTS:
        _refuse_inside(spec.dns)
    _refuse_contradictions(spec)


def _check_rules(rules: object, option: Literal["allow", "deny"]) -> None:
    """Each is what its own text means."""
    if not isinstance(rules, tuple):
        raise SpecError(f"{option}: {show(rules)} is no tuple; make_spec takes lists")
    if len(rules) > MAX_RULES:
        raise SpecError(f"{option}: {len(rules)} rules are more than {MAX_RULES}")
    for rule in rules:
        if not isinstance(rule, Rule):
            raise SpecError(f"{option}: {show(rule)} is no Rule; make_spec takes texts")
        if parse_rule(rule.text, option) != rule:
            raise SpecError(f"{option} {show(rule.text)}: this Rule is another than its text says")


def _check_hosts(hosts: object) -> None:
    if not isinstance(hosts, tuple):
        raise SpecError(f"add_hosts: {show(hosts)} is no tuple; make_spec takes lists")
    if len(hosts) > MAX_HOSTS:
        raise SpecError(f"add_host: {len(hosts)} names are more than {MAX_HOSTS}")
    for pair in hosts:
        if not isinstance(pair, tuple) or len(pair) != 2 or _check_pair(*pair) != pair:
            raise SpecError(f"add_hosts: {show(pair)} is no (name, address)")


def _check_nameservers(addresses: object) -> None:
    if not isinstance(addresses, tuple):
        raise SpecError(f"dns: {show(addresses)} is no tuple; make_spec takes lists")
    if len(addresses) > MAX_NAMESERVERS:
        raise SpecError(f"dns: programs ask {MAX_NAMESERVERS} servers at most: resolv.conf(5)")
    for each in addresses:
        if str(_parse_address(each, "dns")) != each:
            raise SpecError(f"dns: {show(each)} is not how this address is written")


def _check_publishes(publishes: object) -> None:
    if not isinstance(publishes, tuple):
        raise SpecError(f"publish: {show(publishes)} is no tuple; make_spec takes lists")
    for each in publishes:
        if not isinstance(each, Publish):
            raise SpecError(f"publish: {show(each)} is no Publish; make_spec takes texts")
        if parse_publish(str(each)) != (each,):
            raise SpecError(f"publish: {show(each)} can't be meant")
    refuse_overlaps(publishes)


def _check_pair(name: object, address: object) -> Pair:
    what = f"add_host {show(name)}"
    plain = parse_name(check_text(name, "add_host"), what)
    if plain == "localhost":
        raise SpecError("add_host localhost: inside, that is the jail itself")
    if address == "host-gateway":
        raise SpecError(f"{what}: there is no host-gateway; no way leads from a jail to its host")
    return plain, str(_parse_address(address, what))


def _parse_address(value: object, what: str) -> Address:
    text = check_text(value, what)
    try:
        address = ip_address(text)
    except ValueError:
        raise SpecError(f"{what}: {show(value)} is no IP address") from None
    if "%" in str(address):
        raise SpecError(f"{what}: {show(value)} names a link, and those are the host's")
    if address.is_unspecified or address.is_multicast:
        raise SpecError(f"{what}: {show(value)} is nobody's address")
    return address


def _refuse_inside(addresses: tuple[str, ...]) -> None:
    for each in addresses:
        if ip_address(each).is_loopback:
            raise SpecError(f"dns {each}: inside, that is the jail itself")


def _refuse_contradictions(spec: JailSpec) -> None:
    """A rule that another takes back whole."""
    for allow in spec.allow:
        for deny in spec.deny:
            same = (allow.pattern, allow.network) == (deny.pattern, deny.network)
            within = deny.ports[0] <= allow.ports[0] and allow.ports[1] <= deny.ports[1]
            if same and within and deny.transport in (None, allow.transport):
                raise SpecError(f"allow {allow.text}: nothing is left of it by deny {deny.text}")
