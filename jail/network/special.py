"""Addresses that stay shut unless somebody names them. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

INSIDE: Final[tuple[Network, ...]] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""the jail's own loopback, seen from inside"""

_RANGES: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(text), what)
    for text, what in (
        ("169.254.169.254/32", "cloud metadata"),
        ("fd00:ec2::254/128", "cloud metadata"),
        ("168.63.129.16/32", "cloud metadata"),  # Azure's wire server, the one in a public range
        ("0.0.0.0/8", "this host"),
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("::/128", "this host"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("fc00::/7", "private"),
        ("fec0::/10", "private"),
        ("100.64.0.0/10", "shared (carrier NAT)"),
        ("192.0.0.0/24", "reserved"),
        ("198.18.0.0/15", "benchmark"),  # nobody's on the Internet: RFC 2544
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("240.0.0.0/4", "reserved"),
        # IPv4 in another dress: what it stands for would be reached.
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("2002::/16", "6to4"),
        ("2001::/32", "Teredo"),
    )
)


def find_special(address: Address) -> str | None:
    """What kind of address nobody reaches by accident it is, or None for an ordinary one."""
    return next((what for network, what in _RANGES if address in network), None)


def find_range(address: Address) -> Network | None:
    """The range that makes it special: whoever means the address names this, or less."""
    return next((network for network, _ in _RANGES if address in network), None)


def unmap(address: Address) -> Address:
    """The IPv4 address behind an IPv4-mapped one: RFC 4291, 2.5.5.2."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
