"""The loop that answers a program's every call, and notes it: as fast as Python can.

A call is decided by its registers alone, as the filter of the ceiling would. What has been met
before, with the same arguments as far as anybody looks at them, takes one look into a table.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from jail.kernel import listener
from jail.kernel.listener import NOTIFICATION, RESPONSE, SECCOMP_USER_NOTIF_FLAG_CONTINUE
from jail.policy.learn.note import Learned
from jail.policy.learn.path import NAMES
from jail.policy.learn.rules import take_action
from jail.policy.learn.scout import ADDRESS_CALLS, Args, Scout
from jail.policy.learn.table import STARTING, TELLING, take_telling
from jail.policy.number import call_name
from jail.policy.rule import PASSING, Rule, Ruleset, Target

MAX_KNOWN: Final = 100_000
ARGS_OFFSET: Final = 32
"""of the arguments in a ``struct seccomp_notif``; the number of the call is at 16"""
GO_ON: Final = RESPONSE.pack(0, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)[8:]
"""a response without its first field, the id"""

End = Callable[[int], None]
"""ends the process of a thread"""


class Met(NamedTuple):
    """A call by its number: the part of its arguments that decides, and who looks at the rest."""

    start: int
    stop: int
    scout: Callable[[str, int, Args], None] | None
    call: str


class Watch:
    """Of one program and all that it starts."""

    def __init__(self, learned: Learned, base: Ruleset, ceiling: Ruleset, target: Target) -> None:
        self._learned = learned
        self._base, self._ceiling, self._target = base, ceiling, target
        self._looked_at = find_looked_at((*base.rules, *ceiling.rules))
        self._met: dict[bytes, Met] = {}
        self._known: dict[bytes, bytes] = {}
        self._scout = Scout(learned)

    def run(self, fd: int, end: End) -> None:
        """Blocks until nobody is left under the filter. Owns the listener's ``fd``."""
        try:
            listener.prefer_same_processor(fd)
            with suppress(BrokenPipeError):
                self._answer_all(fd, end)
        finally:
            os.close(fd)
            self._scout.close()

    def _answer_all(self, fd: int, end: End) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        wait, receive, send = poll.poll, listener.receive_raw, listener.send_raw
        met, known = self._met, self._known
        while wait()[0][1] & select.POLLIN:
            try:
                asked = receive(fd)
                number = asked[16:20]
                found = met.get(number) or self._meet(number)
                key = number + asked[found.start : found.stop]
                answer = known.get(key) or self._decide(key, found, asked, end)
                if found.scout is not None and answer is GO_ON:
                    self._look(found, asked)
                send(fd, asked[:8] + answer)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR, errno.EINPROGRESS):
                    raise  # else it was killed meanwhile, or a signal took it back

    def _meet(self, number: bytes) -> Met:
        """A number that comes for the first time."""
        nr = int.from_bytes(number, "little", signed=True)
        call = call_name(nr, self._target.machine) or f"syscall_{nr}"
        places = self._looked_at.get(call, set()) | {arg for arg, _ in TELLING.get(call, ())}
        start, stop = (min(places), max(places) + 1) if places else (0, 0)
        scout: Callable[[str, int, Args], None] | None = None
        if call in NAMES:
            scout = self._scout.look_at_names
        elif call in STARTING:
            scout = self._scout.look_at_program
        elif call in ADDRESS_CALLS:
            scout = self._scout.look_at_address
        self._met[number] = Met(ARGS_OFFSET + 8 * start, ARGS_OFFSET + 8 * stop, scout, call)
        return self._met[number]

    def _decide(self, key: bytes, met: Met, asked: bytes, end: End) -> bytes:
        """As the ceiling does, with all that it looks at; noted."""
        pid, args = unpack(asked)
        call = met.call
        action = take_action(self._ceiling.decide(self._target, call, args).action)
        beyond = take_action(self._base.decide(self._target, call, args).action) != action
        passes = action in PASSING
        values = take_telling(call, args)
        self._learned.note_call(call, values, None if passes else action, beyond=beyond)
        if action == "kill":
            end(pid)
            return respond(errno.ENOSYS)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        answer = GO_ON if passes else respond(int(getattr(errno, action)))
        self._known[key] = answer
        return answer

    def _look(self, met: Met, asked: bytes) -> None:
        assert met.scout is not None
        pid, args = unpack(asked)
        met.scout(met.call, pid, args)


def find_looked_at(rules: tuple[Rule, ...]) -> dict[str, set[int]]:
    """The arguments that some condition compares, of each call."""
    found: dict[str, set[int]] = {}
    for rule in rules:
        places = {each.arg for conditions in rule.alternatives for each in conditions}
        for call in rule.calls:
            found.setdefault(call, set()).update(places)
    return found


def unpack(asked: bytes) -> tuple[int, Args]:
    """(the thread's pid, the arguments)"""
    _, pid, _, _, _, _, *args = NOTIFICATION.unpack(asked)
    return pid, tuple(args)


def respond(code: int) -> bytes:
    """A response that makes the call fail, without its id."""
    return RESPONSE.pack(0, 0, -code, 0)[8:]
