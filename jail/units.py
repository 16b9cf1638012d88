"""Sizes and times the way docker's users write them."""

from __future__ import annotations

import re

from jail.check import MAX_NUMBER, show
from jail.errors import SpecError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|)", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
_EXPONENT = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

UNLIMITED_WORDS = frozenset({"unlimited", "none", "-1"})


def parse_size(text: str | int, what: str = "size") -> int:
    """Bytes in ``"256m"``, ``"1.5g"``, ``"4096"`` (powers of 1024); an int is taken as bytes."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _positive(text, what, text)
    match = _match(_SIZE, text)
    if match is None:
        raise SpecError(
            f"{what}: {show(text)} is not a size; write bytes or a number with k, m, g or t"
        )
    size = float(match[1]) * 1024 ** _EXPONENT[match[2].lower()]
    return _positive(int(min(size, 2.0**63)), what, text)


def parse_time(text: str | float, what: str = "time") -> float:
    """Seconds in ``"1.5s"``, ``"200ms"``, ``"2m"``, ``"1h"``; a number is taken as seconds."""
    seconds: float
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = text
    else:
        match = _match(_TIME, text)
        if match is None:
            raise SpecError(
                f"{what}: {show(text)} is not a time; write seconds or a number with ms, s, m or h"
            )
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds < 1e9:
        raise SpecError(f"{what}: {show(text)} must be more than 0 and finite")
    return float(seconds)


def parse_count(text: str | int, what: str = "count") -> int:
    """A whole number above 0."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _positive(text, what, text)
    match = _match(_COUNT, text)
    if match is None:
        raise SpecError(f"{what}: {show(text)} is not a whole number")
    return _positive(int(match[0]), what, text)


def format_size(size_bytes: int) -> str:
    """``268435456`` → ``"256.0 MiB"``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _match(pattern: re.Pattern[str], text: object) -> re.Match[str] | None:
    """A number that is no int (a float as a size) is read as it is written."""
    readable = isinstance(text, str | float)
    return pattern.fullmatch(str(text).strip()) if readable else None


def _positive(number: int, what: str, text: object) -> int:
    if number <= 0:
        raise SpecError(f"{what}: {show(text)} must be more than 0")
    if number > MAX_NUMBER:
        raise SpecError(f"{what}: {show(text)} is more than any kernel counts")
    return number
