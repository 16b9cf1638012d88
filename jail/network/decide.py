"""Which driver, and what init and the files inside have to know of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jail.egress import netlink
from jail.host import HostFacts
from jail.launchplan import Gate
from jail.network.check import WITH_PORTS
from jail.network.hosts import OWN_ADDRESS
from jail.spec import JailSpec


class NetworkPlan(NamedTuple):
    """Decided before anything is started. ``nameservers`` are those that resolv.conf inside
    names.
    """

    driver: str
    nameservers: tuple[str, ...] = ()
    gate: Gate | None = None
    address: str = OWN_ADDRESS
    """the jail's own, by its name"""


def decide_network(spec: JailSpec, facts: HostFacts) -> NetworkPlan:
    """HostError where this host can't have it."""
    if spec.network == "filtered":
        return NetworkPlan(
            "filtered",
            nameservers=(str(netlink.RESOLVER4),),
            gate=make_gate(facts.ipv6),
            address=str(netlink.ADDRESS4),
        )
    return NetworkPlan(spec.network)


def describe_open_network(spec: JailSpec) -> Iterator[str]:
    """A sentence for each wall that was asked away."""
    if spec.network == "host":
        yield "network host: the host's loopback and LAN are open to the program"
    elif spec.network in WITH_PORTS:
        yield (
            f"network {spec.network}: all that this host can reach, the LAN too, is open to the "
            "program, but for the host's loopback"
        )
    if spec.observe:
        yield "observe: every name and every ordinary address is open to the program"


def make_gate(ipv6: bool) -> Gate:
    """The same for every jail, but for what the kernel has."""
    return Gate(
        routes=netlink.make_routes(ipv6),
        ruleset=netlink.make_ruleset(),
        log=netlink.make_log_settings(),
        port=netlink.GATE_PORT,
        mark=netlink.MARK,
        ipv6=ipv6,
    )
