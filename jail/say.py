"""What the command says on stderr: one line each, beginning with its name."""

from __future__ import annotations

import sys
from contextlib import suppress

from jail.errors import HostError, JailError
from jail.result import Result, Verdict


def tell_end(result: Result) -> None:
    """One line where it wasn't the program's own doing."""
    if result.verdict is Verdict.IE:
        complain(result.message)
    elif result.limit is not None:
        complain(f"{result.verdict}: {result.message}")


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
