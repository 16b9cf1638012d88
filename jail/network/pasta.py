"""pasta (of passt) makes a jail's network: a tap device with the host's own addresses and routes.

It sandboxes itself, and can't be told not to. What it would forward by itself is shut: ports
that somebody listens to (``-t auto`` …, the default), the host's loopback behind the gateway's
address (``--no-map-gw``) and spliced from the jail's (``-T``, ``-U``): pasta(1).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from jail.errors import HostError
from jail.network.decide import require_program
from jail.network.driver import Link
from jail.network.helper_program import STDOUT, Helper, OnDeath, open_helper
from jail.network.nameserver import NAMESERVERS
from jail.network.precondition import (
    Features,
    check_ports,
    check_target,
    check_tun,
    read_features,
)
from jail.network.publish import Publish
from jail.network.uplink import read_uplink

NAME: Final = "pasta"
INTERFACE: Final = "eth0"
MTU: Final = 65520
NAMESERVER, NAMESERVER6 = NAMESERVERS[NAME]
AGE: Final = "passt of March 2023 or later"
NEEDED: Final = (
    "--config-net", "--dns-forward", "--foreground", "--mtu", "--no-map-gw", "--ns-ifname", "--pid",
    "--tcp-ns", "--tcp-ports", "--udp-ns", "--udp-ports",
)  # fmt: skip


def make_command(
    program: str,
    pid: int,
    publishes: Iterable[Publish],
    ready_fd: int,
    *,
    forwards_dns: bool = True,
) -> list[str]:
    """Attached to the namespaces of ``pid``; its own number written to ``ready_fd`` when ready.

    While it ``forwards_dns`` what the host's resolver says comes from the address inside, also
    where that resolver itself was asked, and no program takes such an answer.
    """
    return [
        program, "--foreground", "--quiet", "--config-net", "--ns-ifname", INTERFACE,
        "--mtu", str(MTU), "--no-map-gw",
        *(["--dns-forward", NAMESERVER, "--dns-forward", NAMESERVER6] if forwards_dns else []),
        *make_forwards(tuple(publishes)), "--tcp-ns", "none", "--udp-ns", "none",
        "--pid", f"/proc/self/fd/{ready_fd}", str(pid),
    ]  # fmt: skip


def make_forwards(publishes: tuple[Publish, ...]) -> list[str]:
    """``none`` for a protocol of which no port is published: what is not named is ``auto``."""
    words = []
    for protocol in ("tcp", "udp"):
        ports = [format_forward(each) for each in publishes if each.protocol == protocol]
        for port in ports or ["none"]:
            words += [f"--{protocol}-ports", port]
    return words


def format_forward(publish: Publish) -> str:
    ports = f"{publish.host_port}:{publish.jail_port}"
    return f"{publish.ip}/{ports}" if publish.ip else ports


def is_ready(said: bytes) -> bool:
    """The number of the process, on a line."""
    return said.endswith(b"\n") and said.strip().isdigit()


async def probe(program: str) -> Features:
    """What the installed pasta can do; HostError where it is broken or too old."""
    return await read_features(NAME, program, NEEDED, AGE)


@asynccontextmanager
async def open_pasta(
    program: str | None,
    pid: int,
    publishes: tuple[Publish, ...],
    on_death: OnDeath,
    *,
    forwards_dns: bool = True,
) -> AsyncGenerator[Helper, None]:
    """The network of the jail whose init is ``pid``, for the length of the block.

    Init must not have changed its ids yet: from then on its namespaces are closed to us. What is
    wrong comes as HostError or HelperError; a death in the block goes to ``on_death``.
    """
    path = require_program(NAME, program)
    check_tun()
    check_ports(publishes)
    await probe(path)
    check_target(pid)
    assert program is not None

    def make_argv(ready_fd: int) -> list[str]:
        return make_command(path, pid, publishes, ready_fd, forwards_dns=forwards_dns)

    async with AsyncExitStack() as stack:
        helper = open_helper(NAME, make_argv, is_ready, on_death, STDOUT)
        try:
            opened = await stack.enter_async_context(helper)
        except HostError as error:
            raise error if read_uplink() else blame_uplink(error) from None
        yield opened


def blame_uplink(error: HostError) -> HostError:
    """A version that wants an interface to copy says little more than that it can't use it."""
    return HostError(f"no interface here has a default route: {error}", step=f"{NAME} uplink")


@asynccontextmanager
async def open_network(link: Link) -> AsyncGenerator[None, None]:
    """The driver of a jail's network: see :class:`jail.network.driver.Driver`."""
    program, spec = link.facts.helpers.get(NAME), link.spec
    forwards_dns = not spec.dns
    async with open_pasta(program, link.pid, spec.publish, link.fail, forwards_dns=forwards_dns):
        yield None
