"""slirp4netns makes a jail's network: a tap device with a TCP/IP stack of its own behind it.

The jail is 10.0.2.100 there, fd00::/64 where the host has IPv6. The host's loopback is shut, and
so is what the program itself could reach: its sandbox and its filter of system calls are on.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jail.errors import HostError
from jail.host import HELPER_PATH, open_runtime_dir
from jail.network.decide import require_program
from jail.network.driver import Link
from jail.network.helper_program import Helper, OnDeath, open_helper
from jail.network.precondition import (
    Features,
    check_ports,
    check_target,
    check_tun,
    read_features,
)
from jail.network.publish import Publish
from jail.network.slirpapi import forward_ports, make_socket_path
from jail.network.uplink import read_uplink6
from jail.place import find_helpers, read_text

NAME: Final = "slirp4netns"
INTERFACE: Final = "eth0"
MTU: Final = 65520
AGE: Final = "slirp4netns 1.1 or later"
NEEDED: Final = (
    "--api-socket", "--configure", "--disable-host-loopback", "--enable-ipv6", "--enable-sandbox",
    "--enable-seccomp", "--exit-fd", "--mtu", "--netns-type", "--ready-fd",
)  # fmt: skip
EXIT_FD: Final = 0
"""its stdin hangs up when we end"""


@dataclass(frozen=True)
class Way:
    """Into a jail's namespaces: words before the program, and what is told to it as the target."""

    before: tuple[str, ...]
    target: tuple[str, ...]


def make_command(
    program: str, way: Way, ready_fd: int, *, ipv6: bool = False, api: Path | None = None
) -> list[str]:
    """Attached to a jail; a ``1`` written to ``ready_fd`` when ready."""
    return [
        *way.before, program, "--configure", f"--mtu={MTU}", "--disable-host-loopback",
        "--enable-seccomp", "--enable-sandbox",
        *(["--enable-ipv6"] if ipv6 else []),
        *([f"--api-socket={api}"] if api else []),
        f"--ready-fd={ready_fd}", f"--exit-fd={EXIT_FD}", *way.target, INTERFACE,
    ]  # fmt: skip


def make_way(pid: int) -> Way:
    """By itself: it joins the jail's user namespace, and becomes its id 0 for the sandbox."""
    return Way((), (str(pid),))


def make_way_from(outer: int, pid: int, nsenter: str) -> Way:
    """From the user namespace around the jail's, that of process ``outer``. Its id 0 is the
    invoking user, who can make a socket in a directory of theirs; the jail's is a stranger there,
    or there is none. (slirp4netns 1.2's own option for this, --userns-path, ends in its sandbox's
    setegid(2) failing.)
    """
    before = (nsenter, f"--user=/proc/{outer}/ns/user", "--preserve-credentials")
    return Way(before, ("--netns-type=path", f"/proc/{pid}/ns/net"))


def is_ready(said: bytes) -> bool:
    return said == b"1"


def read_way(pid: int, needs_files: bool) -> Way:
    """The shorter one, where the jail has an id 0, and files have to be made by nobody else."""
    status = read_text(f"/proc/{pid}/status")
    outer = next((int(line[5:]) for line in status.splitlines() if line.startswith("PPid:")), 0)
    is_around = _read_user(outer) not in ("", _read_user(os.getpid()))
    if has_root(read_text(f"/proc/{pid}/uid_map")) and not (needs_files and is_around):
        return make_way(pid)
    nsenter = find_helpers(("nsenter",), HELPER_PATH).get("nsenter")
    return make_way_from(outer, pid, require_program("nsenter", nsenter))


def _read_user(pid: int) -> str:
    """Which user namespace it is in; "" for what we can't look at."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def has_root(uid_map: str) -> bool:
    return any(line.split()[0] == "0" for line in uid_map.splitlines())


def refuse_ipv6(publishes: tuple[Publish, ...]) -> None:
    """It listens on IPv4 alone: a port of every address is one of every IPv4 address here."""
    for each in publishes:
        if ":" in each.ip:
            raise HostError(
                f"publish {each}: slirp4netns publishes IPv4 addresses only",
                step="publish",
                remedy="Publish an IPv4 address, or use --network pasta.",
            )


async def probe(program: str) -> Features:
    """What the installed slirp4netns can do; HostError where it is broken or too old."""
    return await read_features(NAME, program, NEEDED, AGE)


@asynccontextmanager
async def open_slirp4netns(
    program: str | None,
    pid: int,
    publishes: tuple[Publish, ...],
    on_death: OnDeath,
    runtime_dir: Path,
) -> AsyncGenerator[Helper, None]:
    """The network of the jail whose init is ``pid``, for the length of the block.

    Init must not have changed its ids yet: from then on its namespaces are closed to us.
    ``runtime_dir`` is ours alone: a socket by which it can be told things lies there while ports
    are published. What is wrong comes as HostError or HelperError; a death in the block goes to
    ``on_death``.
    """
    path = require_program(NAME, program)
    check_tun()
    refuse_ipv6(publishes)
    check_ports(publishes)
    await probe(path)
    check_target(pid)
    api = make_socket_path(runtime_dir, pid) if publishes else None
    ipv6 = read_uplink6()
    way = read_way(pid, needs_files=api is not None)

    def make_argv(ready_fd: int) -> list[str]:
        return make_command(path, way, ready_fd, ipv6=ipv6, api=api)

    try:
        async with open_helper(NAME, make_argv, is_ready, on_death) as helper:
            if api is not None:
                await forward_ports(api, publishes)
                api.unlink(missing_ok=True)  # or it would lie there after a SIGKILL for us
            yield helper
    finally:
        if api is not None:
            api.unlink(missing_ok=True)


@asynccontextmanager
async def open_network(link: Link) -> AsyncGenerator[None, None]:
    """The driver of a jail's network: see :class:`jail.network.driver.Driver`."""
    program, runtime_dir = link.facts.helpers.get(NAME), open_runtime_dir(link.facts)
    async with open_slirp4netns(program, link.pid, link.spec.publish, link.fail, runtime_dir):
        yield None
