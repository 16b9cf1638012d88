"""The map of the tests' internet: who lives where, and what each name says. Data alone.

``uplink`` is the network of the host that runs jails, ``hosts`` the one of everybody else.
"""

from __future__ import annotations

from typing import Any, Final

# The ends of the cable between the two.
GATEWAY4: Final = "198.51.101.1"
GATEWAY6: Final = "2001:db8::1"
HOST4: Final = "198.51.101.2"
HOST6: Final = "2001:db8::2"

DNS: Final = "203.0.113.53"
DNS6: Final = "2001:db8:1::53"
PUBLIC_DNS: Final = "8.8.8.8"
"""one that a program may know by heart"""

SITE: Final = "203.0.113.10"
SITE6: Final = "2001:db8:1::10"
SHARED: Final = "203.0.113.20"
"""one address, several names"""
SHARED6: Final = "2001:db8:1::20"
OTHER: Final = "198.51.100.7"
OTHER6: Final = "2001:db8:2::7"
METADATA: Final = "169.254.169.254"
METADATA6: Final = "fd00:ec2::254"
PRIVATE: Final = ("10.1.2.3", "172.16.9.9", "192.168.7.7", "100.64.1.1", METADATA, METADATA6)
"""all of them answer, to whoever may ask"""
MANY_ALIVE: Final = tuple(f"203.0.113.{n}" for n in range(115, 120))
MANY_REFUSE: Final = tuple(f"203.0.113.{n}" for n in range(100, 115))

UNREACHABLE: Final = "203.0.113.240"
UNREACHABLE6: Final = "2001:db8:dead::1"
PROHIBITED: Final = "203.0.113.230"
SILENT: Final = "203.0.113.225"
SILENT6: Final = "2001:db8:5ee::1"
ROUTES: Final = {
    "203.0.113.240/28": "unreachable",
    "203.0.113.228/30": "prohibit",
    "203.0.113.224/30": "blackhole",
    "2001:db8:dead::/48": "unreachable",
    "2001:db8:5ee::/48": "blackhole",
}

DNS_SERVERS: Final = (DNS, DNS6, PUBLIC_DNS)
SERVERS: Final = (SITE, SITE6, SHARED, SHARED6, OTHER, OTHER6, *PRIVATE, *MANY_ALIVE, PUBLIC_DNS)
"""all services of :data:`PORTS` are at each of them"""
ADDRESSES: Final = (*dict.fromkeys((*SERVERS, *DNS_SERVERS, *MANY_REFUSE)),)

HTTP: Final = 80
HTTPS: Final = 443
BANNER: Final = 22
"""says something first, then returns each line"""
ECHO: Final = 7
DIGEST: Final = 9
"""reads to the end, then tells the length and the SHA-256 of what it read"""
SOURCE: Final = 19
"""sends as many bytes as its client's first line says"""
RESET: Final = 5001
"""resets the connection when it has read something"""
QUIC: Final = 443
CLOSED: Final = 81
SENTINEL: Final = 7777
"""on the loopback of the host that runs jails, and at its own addresses"""

SITE_NAMES: Final = ("site.test", "www.site.test")
SHARED_NAMES: Final = ("one.shared.test", "two.shared.test")
DEFAULT_NAME: Final = "default.shared.test"
"""whose certificate those get who name nobody"""
CERTIFIED: Final = (
    *SITE_NAMES,
    *SHARED_NAMES,
    DEFAULT_NAME,
    "other.test",
    "many.test",
    "dual.test",
)

TTL_S: Final = 300
Record = tuple[str, int, str]
"""type, lifetime in seconds, data"""


def a(*addresses: str, ttl_s: int = TTL_S) -> list[Record]:
    """A and AAAA records."""
    return [("AAAA" if ":" in each else "A", ttl_s, each) for each in addresses]


def cname(name: str) -> list[Record]:
    return [("CNAME", TTL_S, name)]


ZONE: Final[dict[str, list[Record]]] = {
    "site.test": [*a(SITE, SITE6), ("TXT", TTL_S, '"hello"'), ("MX", TTL_S, "5 site.test.")],
    "www.site.test": cname("site.test"),
    "only4.site.test": a(SITE),
    "only6.site.test": a(SITE6),
    "deep.er.site.test": a(SITE),
    "one.shared.test": a(SHARED, SHARED6),
    "two.shared.test": a(SHARED, SHARED6),
    "other.test": a(OTHER, OTHER6),
    "many.test": a(*MANY_REFUSE, *MANY_ALIVE),
    "dual.test": a(SITE, SILENT6),
    "dead.test": a(UNREACHABLE),
    "silent.test": a(SILENT),
    "chain.test": cname("chain1.cdn.test"),
    "chain1.cdn.test": cname("chain2.cdn.test"),
    "chain2.cdn.test": cname("site.test"),
    "loop.test": cname("pool.test"),
    "pool.test": cname("loop.test"),
    "brief.test": a(SITE, ttl_s=1),
    "inward.test": a("10.1.2.3"),
    "metadata.test": a(METADATA, METADATA6),
    "loopback.test": a("127.0.0.1", "::1"),
    "mapped.test": a("::ffff:10.1.2.3"),
}

Reply = dict[str, Any]
"""what the server shall do about one query; see ``zone.py``"""
