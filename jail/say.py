"""What the command says on stderr: one line each, beginning with its name."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final

from jail.denied import Denied
from jail.errors import HostError, JailError
from jail.result import Result, Verdict

MAX_REFUSALS: Final = 20


def tell_end(result: Result) -> None:
    """One line where it wasn't the program's own doing."""
    if result.verdict is Verdict.IE:
        complain(result.message)
    elif result.limit is not None:
        complain(f"{result.verdict}: {result.message}")


def tell_denied(result: Result) -> None:
    """What the policy refused: the call, how often, by which reason, and what would allow it."""
    for each in result.denied:
        answer = "ended the program" if each.action == "kill" else each.action
        _tell_calls("denied", each, f"{answer}, {_count(each.count)}")
        _go_into(f"allowed by: {each.remedy}")
    for each in result.noted:
        _tell_calls("noted", each, _count(each.count))
    if result.denied_partial:
        complain("denied: perhaps more than that; the kernel has given its listener to another")
    elif not result.denied:
        complain("denied: nothing")


def tell_needed(result: Result) -> None:
    """The allow-list under which the program would have reached what it did, for a shell."""
    from jail.network.advice import find_rules, format_options

    advice = find_rules(result.network)
    complain(f"needed: {format_options(advice.needed) or 'no rule'}")
    if advice.looked_up:
        complain(f"only looked up: {format_options(advice.looked_up)}")
    if result.network.partial:
        complain("needed: perhaps more than that; there was more than the log holds")


def tell_unreached(result: Result) -> None:
    """What its network refused the program: what, how often, why, and what would allow it."""
    from jail.network.advice import list_refusals

    refusals = list_refusals(result.network)
    for each in refusals[:MAX_REFUSALS]:
        complain(f"refused: {each.what}")
        _go_into(each.why)
        if each.remedy:
            _go_into(f"allowed by: {each.remedy}")
    if len(refusals) > MAX_REFUSALS:
        complain(f"refused: {len(refusals) - MAX_REFUSALS} more; --json has them all")


def _tell_calls(word: str, each: Denied, answer: str) -> None:
    first, *others = each.examples or (each.call,)
    complain(f"{word}: {first}: {answer}")
    for text in others:
        _go_into(f"also {text}")
    _go_into(f"{each.policy or 'jail'}: {each.why}")


def _go_into(text: str) -> None:
    with suppress(OSError):
        print(f"  {make_printable(text)}", file=sys.stderr, flush=True)


def _count(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def complain_of(error: JailError, quiet: bool = False) -> None:
    """The error's sentence and, where a host is to blame, the lines that mend it."""
    if quiet:
        return
    complain(str(error))
    if isinstance(error, HostError):
        for line in find_remedy(error).splitlines():
            print(f"  {make_printable(line)}".rstrip(), file=sys.stderr)


def find_remedy(error: HostError) -> str:
    """The doctor's words for it, "" where there are none."""
    from jail.doctor import find_cause
    from jail.host import read_facts

    cause = find_cause(error.step, error.errno, read_facts())
    if cause is not None:
        return f"{cause.title}\n{cause.remedy}"
    return error.remedy or "jail doctor tries everything that a jail needs here"


def complain(text: str) -> None:
    """One line on stderr; if nobody reads it, nobody misses it."""
    with suppress(OSError):
        print(f"jail: {make_printable(' '.join(text.splitlines()))}", file=sys.stderr, flush=True)


def make_printable(text: str) -> str:
    """Without control characters: part of it may be a stranger's, and this is a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
