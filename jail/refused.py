"""What the agent says that its programs were refused, where it traces them. Pure."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from jail.agent.filter import MAX_ERRNO
from jail.agent.tracer import MAX_CALLS
from jail.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jail.denied import Ledger
    from jail.policy.judge import Judge

MAX_NUMBER: Final = 2**31 - 1
ARGS: Final = 6


def note_refused(calls: Sequence[Sequence[int]], judge: Judge, ledger: Ledger) -> None:
    """Into the ledger, with the reasons. ProtocolError for what no honest agent says.

    What the policy would not have refused in this way was another filter's doing: the program's
    own. It isn't noted.
    """
    from jail.policy.describe import describe_call

    check_refused(calls)
    for nr, code, count, *signed in calls:
        args = tuple(each % 2**64 for each in signed)
        ruling = judge.rule(nr, args)
        if ruling.errno == code:
            describe = partial(describe_call, ruling.call, args, {})
            ledger.note(ruling.key, args, describe, count)


def check_refused(calls: Sequence[Sequence[int]]) -> None:
    """Some calls, not too many, none of them twice."""
    if not 0 < len(calls) <= MAX_CALLS or not all(map(_is_call, calls)):
        raise ProtocolError("from inside the jail: refusals that can't be")
    if len({tuple(each[:2]) for each in calls}) < len(calls):
        raise ProtocolError("from inside the jail: the same refusal twice")


def _is_call(numbers: Sequence[int]) -> bool:
    if len(numbers) != 3 + ARGS:
        return False
    nr, code, count, *_ = numbers
    return 0 <= nr <= MAX_NUMBER and 0 < code <= MAX_ERRNO and count > 0
