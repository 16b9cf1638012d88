"""``jail stats``: a look every so often, until it is interrupted or nobody reads."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from jail.stats.freeze import read_own_jails
from jail.stats.look import Lookout
from jail.stats.sample import make_rows
from jail.stats.show import choose_output

LONGEST_POLL_S: Final = 3600.0
"""poll(2) takes an int of milliseconds"""


@dataclass(frozen=True)
class Request:
    """What the command line asks. Without ``pids`` it is every jail of ours."""

    pids: Sequence[int] = ()
    as_json: bool = False
    once: bool = False
    interval_s: float = 1.0


def follow_jails(request: Request) -> None:
    """Returns when those that were named have ended; without names it goes on without jails, too.

    SpecError for a pid that is no jail's. What is said of a jail is said of the time between two
    looks; a terminal is given something to show at once.
    """
    read_own_jails(request.pids)
    with closing(Lookout(os.getuid(), request.pids)) as lookout:
        output = choose_output(request.as_json, request.once)
        before = lookout.look()
        if output.is_live or not before:
            output.show(make_rows(before, []))
        due = time.monotonic()
        while before or not (request.once or request.pids):
            due = max(due + request.interval_s, time.monotonic())
            rest_until(due)
            now = lookout.look()
            if now or before:
                output.show(make_rows(now, before))
            if request.once:
                return
            before = now


def rest_until(due: float) -> None:
    """BrokenPipeError as soon as nobody reads what we print: poll(2), POLLERR."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    while (left := due - time.monotonic()) > 0:
        if poll.poll(min(left, LONGEST_POLL_S) * 1000):
            raise BrokenPipeError
