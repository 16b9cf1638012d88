"""What every kind of network is made of: one module for each, with one function."""

from __future__ import annotations

import importlib
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from jail.errors import HelperError
from jail.host import HostFacts
from jail.network.decide import NetworkPlan
from jail.session import Session
from jail.spec import JailSpec

if TYPE_CHECKING:
    from jail.egress.book import Log  # only who keeps one loads it

MODULES: Final = {
    "none": "jail.network.none",
    "host": "jail.network.none",
    "pasta": "jail.network.pasta",
    "slirp4netns": "jail.network.slirp4netns",
    "filtered": "jail.network.filtered",
}


@dataclass(frozen=True)
class Link:
    """What a driver is given of a jail whose namespaces are there, and in which nothing runs yet.

    ``pid`` is its init's, which waits for its plan where a helper program has to come first.
    """

    spec: JailSpec
    plan: NetworkPlan
    facts: HostFacts
    pid: int
    session: Session

    def fail(self, message: str) -> None:
        """The network is no more: that ends the jail, as a failure of the sandbox."""
        self.session.give_up(HelperError(message))


class Network(Protocol):
    """A jail's network while it lives, as its runs see it."""

    def follow(self, log: Log) -> AbstractContextManager[None]:
        """What is tried meanwhile is written to ``log``."""

    async def settle(self, log: Log) -> None:
        """Until what has been tried so far is written to it."""


class Driver(Protocol):
    """Opens a jail's network: when it has, programs may start. Closed after the jail's end.

    HostError or HelperError where it can't be had; None where there is nothing to be told of it.
    """

    def __call__(self, link: Link) -> AbstractAsyncContextManager[Network | None]: ...


def find_driver(name: str) -> Driver:
    """The one of that name; only what is used is loaded."""
    module: Any = importlib.import_module(MODULES[name])
    return cast(Driver, module.open_network)
