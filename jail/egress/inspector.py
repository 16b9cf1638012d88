"""Reads along what a program says to a server, and lets only what is for allowed names go on. Pure.

The address was opened by an allowed name, but others may live there. A server goes by the name
that the client says: in TLS once, in HTTP with each request. Every byte is hostile; so what some
server could take for another name is refused, also where no standard lets it.

`opening` says what is looked into and what isn't, `hello` and `head` what has to be in it. What is
inside TLS isn't seen: there a server may be asked for another name than it was greeted with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jail.egress import head, hello
from jail.egress.head import Leaving
from jail.egress.held import MAX_HELD_BYTES, Held, Steps
from jail.egress.name import Unclear
from jail.egress.opening import Opening, find_opening

MAX_NAMES: Final = 100
MAX_TUNNELS: Final = 4


class Refused(Exception):
    """The connection has to be ended, with a reset towards the server.

    Some servers take what they have for a request when the stream just ends.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason if name is None else f"{reason}: {name}")
        self.reason = reason
        self.name = name


class Inspector:
    """Of one connection. `is_allowed` is asked for each name: lower case, without the last dot; an
    address as Python writes it, where HTTP has one for its host.

    The server's bytes are shown to `tell` before the client gets them, while `wants_answers`.
    """

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self.names: list[str] = []
        """those that were asked for, allowed or not: the first hundred"""
        self.wants_answers = False
        self._is_allowed = is_allowed
        self._client = Held()
        self._server = Held()
        self._refused: Refused | None = None
        self._is_over = False
        self._steps = self._inspect()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to see: the rest needn't be fed."""
        return self._is_over

    def feed(self, data: bytes) -> bytes:
        """The client says this; what of it, and of what was held, may be passed on now."""
        if self._is_over:
            return data
        self._client.add(data)
        return self._go_on()

    def tell(self, data: bytes) -> bytes:
        """The server says this; what was held for that, if any, and may be passed to it now."""
        if self._refused is None and (not self.wants_answers or self._is_over):
            return b""
        self._server.add(data[: max(0, MAX_HELD_BYTES - len(self._server))])
        passed = self._go_on()
        self._server.collect()
        return passed

    def end(self) -> bytes:
        """The client says no more; what was held and may be passed on."""
        self._client.is_ended = True
        return self._go_on()

    def _go_on(self) -> bytes:
        if self._refused is not None:
            raise self._refused
        try:
            self._step()
        except Unclear as error:
            self._refused = Refused(str(error), error.name)
        except Refused as error:
            self._refused = error
        if self._refused is not None:
            self._steps.close()
            self._client = self._server = Held()
            raise self._refused
        return self._client.collect()

    def _step(self) -> None:
        if not self._is_over:
            self._is_over = next(self._steps, True) is True
        if self._is_over:
            self._client.skip(len(self._client))
        elif len(self._client) > MAX_HELD_BYTES:
            raise Unclear(f"who is meant isn't said in {MAX_HELD_BYTES} bytes")

    def _inspect(self) -> Steps[None]:
        for _ in range(MAX_TUNNELS + 1):
            self._hear(False)
            opening, sent = yield from find_opening(self._client)
            if opening is Opening.TLS:
                yield from self._inspect_tls()
                return
            if opening is Opening.OTHER:
                return
            if (yield from self._inspect_http(sent)) is not Leaving.TUNNEL:
                return
        raise Unclear("too many tunnels within each other")

    def _inspect_tls(self) -> Steps[None]:
        name = yield from hello.read_hello(self._client)
        self._check(name)
        self._client.pass_read()
        self._hear(True)
        yield from hello.follow(self._client, self._server, name)

    def _inspect_http(self, sent: bytes) -> Steps[Leaving]:
        """All requests, until it leads out of them."""
        is_first = True
        while True:
            request = head.parse_head((yield from head.read_head(self._client, sent)))
            self._check(request.name)
            if request.leaving is not Leaving.NEVER and not is_first:
                raise Unclear("an upgrade or CONNECT that isn't the first request", request.name)
            self._client.pass_read()
            self._hear(request.leaving is not Leaving.NEVER)
            yield from head.skip_body(self._client, request.length)
            if (yield from self._is_agreed(request.leaving)):
                return request.leaving
            while not len(self._client):
                if self._client.is_ended:
                    return Leaving.NEVER
                yield
            is_first, sent = False, b""

    def _is_agreed(self, leaving: Leaving) -> Steps[bool]:
        """Whether the server lets it leave the stream of requests by this."""
        if leaving is Leaving.NEVER:
            return False
        status = yield from head.read_status(self._server)
        self._hear(False)
        return status == 101 if leaving is Leaving.SOCKET else 200 <= status < 300

    def _check(self, name: str) -> None:
        if name not in self.names and len(self.names) < MAX_NAMES:
            self.names.append(name)
        if not self._is_allowed(name):
            raise Refused("this name is not allowed", name)

    def _hear(self, wanted: bool) -> None:
        self._server = Held()
        self.wants_answers = wanted
