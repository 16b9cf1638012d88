"""``jail run --explain``: what a network will be, in words and as data. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from jail.network.hosts import find_nameservers

if TYPE_CHECKING:
    from jail.network.decide import NetworkPlan
    from jail.network.rule import Rule
    from jail.spec import JailSpec

KINDS: Final = {
    "none": "none: lo alone",
    "host": "host: the host's own, as it is",
    "filtered": "filtered: only our own process is reached, which reaches what is allowed",
}
TRANSPORTS: Final = {"tcp": "TCP", "udp": "UDP", None: "TCP and UDP"}


def describe_network(spec: JailSpec, network: NetworkPlan) -> Iterator[str]:
    """Who is reached, and who is asked for names."""
    driver = network.driver
    yield KINDS.get(driver, f"{driver}: all that the host reaches, but for its own loopback")
    if driver == "filtered":
        yield from _describe_rules(spec)
    yield from (f"the host's port {each} leads in" for each in spec.publish)
    yield from (f"{name} is {address}" for name, address in spec.add_hosts)
    if driver != "none":
        asked = ", ".join(find_nameservers(spec, network))
        yield f"names: asked of {asked or 'whom the host asks'}"
    if driver == "filtered":
        yield f"that is us, and we ask {', '.join(spec.dns) or 'whom the host asks'}"


def _describe_rules(spec: JailSpec) -> Iterator[str]:
    yield from (f"refuse {describe_rule(rule)}" for rule in spec.deny)
    yield from (f"allow {describe_rule(rule)}" for rule in spec.allow)
    if any(rule.pattern and rule.transport == "tcp" for rule in spec.allow):
        yield "what names itself inside a connection (TLS, HTTP) must be allowed as well"
    if spec.observe:
        yield "allow all else too, but for special addresses, and tell what was needed"
    else:
        yield "refuse all else at once"


def describe_rule(rule: Rule) -> str:
    """As it was written, and by which transport."""
    text = rule.text.removesuffix("/tcp").removesuffix("/udp")
    return f"{text} by {TRANSPORTS[rule.transport]}"


def list_network(spec: JailSpec, network: NetworkPlan) -> dict[str, Any]:
    """As data."""
    return {
        "driver": network.driver,
        "allow": [rule.text for rule in spec.allow],
        "deny": [rule.text for rule in spec.deny],
        "observe": spec.observe,
        "publish": [str(each) for each in spec.publish],
        "hosts": [list(pair) for pair in spec.add_hosts],
        "nameservers": list(find_nameservers(spec, network)),
    }
