"""Which driver, and what init and the files inside have to know of it. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from jail.errors import HostError
from jail.host import HostFacts
from jail.launchplan import Gate
from jail.network.check import MAX_NAMESERVERS, WITH_PORTS
from jail.network.hosts import OWN_ADDRESS
from jail.network.nameserver import NAMESERVERS, choose_nameservers, find_direct
from jail.spec import JailSpec

EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")


RESOLVER: Final = "10.0.2.3"
"""as slirp4netns has it; whoever is asked on port 53, we answer"""
ADDRESSES: Final = {"slirp4netns": "10.0.2.100", "filtered": "10.0.2.100"}
"""the jail's own; pasta gives it the host's"""


class NetworkPlan(NamedTuple):
    """Decided before anything is started. ``nameservers`` are those that resolv.conf inside
    names.
    """

    driver: str
    nameservers: tuple[str, ...] = ()
    gate: Gate | None = None
    address: str = OWN_ADDRESS
    """the jail's own, by its name"""

    @property
    def needs_helper(self) -> bool:
        """A program of the host's has to join the jail's namespaces."""
        return self.driver in NAMESERVERS


def decide_network(
    spec: JailSpec, facts: HostFacts, host_conf: str = "", has_uplink: bool = True
) -> NetworkPlan:
    """HostError where this host can't have it. ``host_conf`` is its resolv.conf, ``has_uplink``
    whether it has a default route.
    """
    if spec.network in WITH_PORTS:
        return _decide_helper(spec, facts, host_conf, has_uplink)
    if spec.network == "filtered":
        return NetworkPlan(
            "filtered",
            nameservers=(RESOLVER,),
            gate=make_gate(facts.ipv6),
            address=ADDRESSES["filtered"],
        )
    return NetworkPlan(spec.network)


def _decide_helper(
    spec: JailSpec, facts: HostFacts, host_conf: str, has_uplink: bool
) -> NetworkPlan:
    driver = choose_driver(spec, facts, has_uplink)
    require_program(driver, facts.helpers.get(driver))
    forwarding = choose_nameservers(host_conf, *NAMESERVERS[driver])
    direct = find_direct(host_conf) if driver == "pasta" else ()
    nameservers = spec.dns or (*direct[: MAX_NAMESERVERS - 1], *forwarding)[:MAX_NAMESERVERS]
    return NetworkPlan(driver, nameservers, address=ADDRESSES.get(driver, OWN_ADDRESS))


def choose_driver(spec: JailSpec, facts: HostFacts, has_uplink: bool = True) -> str:
    """What is asked for; of ``slirp`` the better one."""
    return choose_helper(facts.helpers, has_uplink) if spec.network == "slirp" else spec.network


def choose_helper(helpers: Mapping[str, str], has_uplink: bool) -> str:
    """``pasta`` before ``slirp4netns``; it wants an interface with a default route to copy."""
    if not helpers.keys() & set(NAMESERVERS):
        raise HostError(
            "neither pasta nor slirp4netns is installed", step="pasta", errno=errno.ENOENT
        )
    if "slirp4netns" not in helpers:
        return "pasta"
    return "pasta" if "pasta" in helpers and has_uplink else "slirp4netns"


def require_program(name: str, program: str | None) -> str:
    """HostError where it is missing."""
    if program is None:
        raise HostError(f"{name} is not installed", step=name, errno=errno.ENOENT)
    return program


def describe_open_network(spec: JailSpec) -> Iterator[str]:
    """A sentence for each wall that was asked away."""
    if spec.network == "host":
        yield "network host: the host's loopback and LAN are open to the program"
    elif spec.network in WITH_PORTS:
        yield (
            f"network {spec.network}: all that this host can reach, the LAN too, is open to the "
            "program, but for the host's loopback"
        )
    open_to_all = [str(each) for each in spec.publish if each.ip in EVERY_ADDRESS]
    if open_to_all:
        yield f"published to whoever reaches this host: {', '.join(open_to_all)}"
    if spec.observe:
        yield "observe: every name and every ordinary address is open to the program"


def make_gate(ipv6: bool) -> Gate:
    """The same for every jail, but for what the kernel has."""
    from jail.egress import netlink  # jails without it go without

    return Gate(
        routes=netlink.make_routes(ipv6),
        ruleset=netlink.make_ruleset(),
        log=netlink.make_log_settings(),
        port=netlink.GATE_PORT,
        mark=netlink.MARK,
        ipv6=ipv6,
    )
