"""What is said of the living jails: a table, or a JSON object a jail and line.

Ten short columns don't make a table library worth its four packages.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from jail.say import complain, make_printable
from jail.stats.sample import Row
from jail.terminal import read_terminal_size
from jail.units import format_size

UNKNOWN: Final = "-"
NO_JAILS: Final = "no jails are running"
HEADS: Final = (
    "JAIL",
    "COMMAND",
    "AGE",
    "CPU %",
    "MEM USAGE / LIMIT",
    "MEM %",
    "PIDS",
    "BLOCK I/O",
    "PRESSURE",
    "LIMITS BY",
)
LEAST_PERCENT: Final = 1.0
"""of pressure that is worth a word in the table"""
HOME, CLEAR_LINE, CLEAR_REST, CLEAR_ALL = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"


class JsonLines:
    """A time of its own on each line: they may be taken apart."""

    is_live = False

    def __init__(self) -> None:
        self._had_jails = True

    def show(self, rows: Sequence[Row]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        for row in rows:
            print(json.dumps(row.to_json(time)))
        sys.stdout.flush()
        self._had_jails = tell_none(rows, self._had_jails)


class Blocks:
    """A table for each look, with a blank line between two."""

    is_live = False

    def __init__(self) -> None:
        self._had_jails = True
        self._separator = ""

    def show(self, rows: Sequence[Row]) -> None:
        if rows:
            print(self._separator + "\n".join(format_table(rows)), flush=True)
            self._separator = "\n"
        self._had_jails = tell_none(rows, self._had_jails)


class Screen:
    """A table that is written over, on a terminal."""

    is_live = True

    def __init__(self) -> None:
        print(CLEAR_ALL, end="")

    def show(self, rows: Sequence[Row]) -> None:
        height, width = read_terminal_size(sys.stdout.fileno())
        lines = format_table(rows) + ([] if rows else [NO_JAILS])
        shown = [line[: width - 1] + CLEAR_LINE for line in lines[: height - 1]]
        print(HOME + "\r\n".join(shown) + "\r\n" + CLEAR_REST, end="", flush=True)


def choose_output(as_json: bool, once: bool) -> JsonLines | Blocks | Screen:
    if as_json:
        return JsonLines()
    if once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return Blocks()
    return Screen()


def tell_none(rows: Sequence[Row], had_jails: bool) -> bool:
    """Said when it begins, not at each look."""
    if had_jails and not rows:
        complain(NO_JAILS)
    return bool(rows)


# -- pure -----------------------------------------------------------------------------------------


def format_table(rows: Sequence[Row]) -> list[str]:
    table = [HEADS, *map(format_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]


def format_cells(row: Row) -> tuple[str, ...]:
    now = row.sample
    return (
        str(now.pid),
        format_command(now.command, now.paused),
        UNKNOWN if now.command_age_s is None else format_age(now.command_age_s),
        format_percent(row.cpu_percent),
        f"{format_bytes(now.memory_bytes)} / {format_bytes(now.memory_limit_bytes)}",
        format_percent(row.memory_percent),
        UNKNOWN if now.tasks is None else str(now.tasks),
        f"{format_bytes(now.io_read_bytes)} / {format_bytes(now.io_write_bytes)}",
        format_pressure(row),
        now.limits_by,
    )


def format_command(command: str | None, paused: bool) -> str:
    """A stranger chose its name."""
    name = UNKNOWN if command is None else make_printable(command)
    return f"{name} (paused)" if paused else name


def format_pressure(row: Row) -> str:
    """How much of the time somebody waited, where that is worth a word."""
    shares = {name: kinds.get("some", 0.0) for name, kinds in row.pressure.items()}
    high = [f"{name} {share:.0f}%" for name, share in shares.items() if share >= LEAST_PERCENT]
    return " ".join(high) or UNKNOWN


def format_percent(percent: float | None) -> str:
    return UNKNOWN if percent is None else f"{percent:.2f}%"


def format_bytes(size_bytes: int | None) -> str:
    return UNKNOWN if size_bytes is None else format_size(size_bytes)


def format_age(seconds: float) -> str:
    """``7s``, ``3m04s``, ``2h05m``, ``3d02h``."""
    whole = int(seconds)
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{smaller}"
    return f"{whole}s"
