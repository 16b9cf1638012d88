"""Which resolver a jail behind a helper program can ask. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

NAMESERVERS: Final = {
    "pasta": ("169.254.1.1", "fd00:6a::53"),
    "slirp4netns": ("10.0.2.3", "fd00::3"),
}
"""inside, who is asked by IPv4 and by IPv6"""


def choose_nameservers(resolv_conf: str, ipv4: str, ipv6: str) -> tuple[str, ...]:
    """The addresses inside, in the order to ask them, by the host's resolv.conf(5).

    A helper passes what is asked at ``ipv4`` on to the host's first resolver of that family, and
    so for ``ipv6``; where the host names none of a family nobody answers there.
    """
    found = [_parse(line) for line in resolv_conf.splitlines()]
    families = {IPv4Address: ipv4, IPv6Address: ipv6}
    chosen = dict.fromkeys(families[type(each)] for each in found if each is not None)
    return tuple(chosen) or (ipv4,)


def find_direct(resolv_conf: str) -> tuple[str, ...]:
    """The host's resolvers that a jail behind pasta can ask itself, by TCP too: until late in 2023
    ``--dns-forward`` was about datagrams alone, and an answer that is cut wants TCP.

    One at an address of the host's own refuses at once, and the next is asked.
    """
    found = (_parse(line) for line in resolv_conf.splitlines())
    return tuple(
        dict.fromkeys(
            str(each)
            for each in found
            if each and not (each.is_loopback or each.is_link_local or each.is_unspecified)
        )
    )


def _parse(line: str) -> IPv4Address | IPv6Address | None:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return None
    try:
        return ip_address(words[1])
    except ValueError:
        return None
