"""What must hold before a helper program is started, so that each failure has a name of its own."""

from __future__ import annotations

import errno as codes
import os
import re
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from jail.errors import HostError, blame_host
from jail.network.helper_program import read_help
from jail.network.publish import Publish
from jail.place import read_text

TUN: Final = "/dev/net/tun"
FIRST_PORT: Final = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_OPTION: Final = re.compile(r"(?<![\w-])--[a-z0-9][a-z0-9-]*")
_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_FAMILIES: Final = {4: (socket.AF_INET, "0.0.0.0"), 6: (socket.AF_INET6, "::")}
_read: dict[tuple[object, ...], Features] = {}


@dataclass(frozen=True)
class Features:
    """What an installed version can do: the long options that its ``--help`` tells of."""

    options: frozenset[str]

    def has(self, option: str) -> bool:
        return option in self.options


def parse_help(text: str) -> Features:
    return Features(frozenset(_OPTION.findall(text)))


async def read_features(name: str, program: str, needed: Iterable[str], age: str) -> Features:
    """Those of the program as it is now; asked once for each that was installed.

    HostError for one without the ``needed`` options; ``age`` says which has them.
    """
    with blame_host(name):
        found = os.stat(program)
    key = (program, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    if key not in _read:
        _read[key] = parse_help(await read_help(name, program))
    features = _read[key]
    missing = sorted(set(needed) - features.options)
    if missing:
        has = f"has no {missing[0]}" if features.options else "tells no options"
        raise HostError(
            f"{program} {has}: {age} is needed; install a newer {name}", step=f"{name} version"
        )
    return features


def check_tun() -> None:
    """Everybody may open it: it is of no use but in a network namespace of one's own."""
    with blame_host(TUN):
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))


def check_target(pid: int) -> None:
    """Its network namespace is not ours, and we may join it: ptrace(2), PTRACE_MODE_READ."""
    with blame_host("network namespace"):
        theirs = os.readlink(f"/proc/{pid}/ns/net")
        os.readlink(f"/proc/{pid}/ns/user")
        if theirs == os.readlink("/proc/self/ns/net"):
            raise OSError(codes.EINVAL, os.strerror(codes.EINVAL))


def check_ports(publishes: Iterable[Publish]) -> None:
    """Each can be had now, by us and so by a helper; HostError names the first that can't."""
    with ExitStack() as stack:
        for each in publishes:
            for version in each.families:
                _check_port(each, version, stack)


def _check_port(publish: Publish, version: int, stack: ExitStack) -> None:
    family, every = _FAMILIES[version]
    try:
        sock = stack.enter_context(socket.socket(family, _KINDS[publish.protocol]))
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if publish.protocol == "tcp":  # connections that have ended may still have the number
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((publish.ip or every, publish.host_port))
    except OSError as error:
        if not publish.ip and version == 6 and error.errno in _NO_IPV6:
            return
        raise _explain(publish, error) from error


_NO_IPV6 = (codes.EAFNOSUPPORT, codes.EADDRNOTAVAIL)


def _explain(publish: Publish, error: OSError) -> HostError:
    port = f"{publish.host_port}/{publish.protocol}"
    where = f" of {publish.ip}" if publish.ip else ""
    text, remedy = error.strerror or str(error), None
    if error.errno == codes.EADDRINUSE:
        text = "it is taken"
        remedy = f"See who has it (ss -lnp sport = :{publish.host_port}), or publish another port."
    elif error.errno == codes.EACCES:
        first = read_text(FIRST_PORT).strip() or "1024"
        text = f"ports below {first} are not yours to take"
        sysctl = f"net.ipv4.ip_unprivileged_port_start={publish.host_port}"
        remedy = f"Publish another port, or allow it: sudo sysctl -w {sysctl}"
    elif error.errno == codes.EADDRNOTAVAIL:
        text = "this host has no such address"
        remedy = "See which it has (ip address), or leave the address away."
    message = f"publish {publish}: port {port}{where}: {text}"
    return HostError(message, step="publish", errno=error.errno, remedy=remedy)
