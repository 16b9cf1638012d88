"""The words of ``jail stats``, ``jail pause`` and ``jail resume``. What does it comes later."""

from __future__ import annotations

import argparse
from typing import Any, Final

from jail.errors import JailError, SpecError
from jail.say import complain_of

FAILED: Final = 125
LEAST_INTERVAL_S: Final = 0.1


def add_commands(commands: Any) -> None:
    """Each parser names the function that runs it."""
    stats = commands.add_parser(
        "stats",
        help="follow the jails that you are running",
        description="Follow the jails that you are running, or those whose pids are given. "
        "A jail's pid is that of its first process.",
        allow_abbrev=False,
    )
    stats.add_argument("pids", metavar="PID", nargs="*", help="only these jails")
    stats.add_argument("--json", action="store_true", help="an object for each jail and look")
    stats.add_argument("--no-stream", action="store_true", help="once, over one interval")
    stats.add_argument("--interval", metavar="TIME", default="1s", help="default 1s")
    stats.set_defaults(run=run_stats)
    for word, frozen, text in (
        ("pause", True, "make living jails stand still, and their limits' clocks with them"),
        ("resume", False, "let paused jails go on where they stood"),
    ):
        parser = commands.add_parser(
            word,
            aliases=[] if frozen else ["unpause"],
            help=text,
            description=f"{text[0].upper()}{text[1:]}. It needs jails with cgroups of their own.",
            allow_abbrev=False,
        )
        parser.add_argument("pids", metavar="PID", nargs="+", help="as “jail stats” lists them")
        parser.set_defaults(run=run_freeze, frozen=frozen)


def run_on_living(args: argparse.Namespace, more: list[str]) -> int:
    """The exit status. ``more`` is what stood behind a ``--``."""
    try:
        args.run(args, [parse_pid(text) for text in (*args.pids, *more)])
    except JailError as error:
        complain_of(error)
        return FAILED
    return 0


def run_stats(args: argparse.Namespace, pids: list[int]) -> None:
    from jail.stats.follow import Request, follow_jails

    interval_s = parse_interval(args.interval)
    follow_jails(Request(pids, args.json, once=args.no_stream, interval_s=interval_s))


def run_freeze(args: argparse.Namespace, pids: list[int]) -> None:
    from jail.stats.freeze import freeze_jails

    freeze_jails(pids, args.frozen)


def parse_pid(text: str) -> int:
    from jail.units import parse_count

    return parse_count(text, "pid")


def parse_interval(text: str) -> float:
    """More often than that it would be we who use the processor."""
    from jail.units import parse_time

    seconds = parse_time(text, "interval")
    if seconds < LEAST_INTERVAL_S:
        raise SpecError(f"interval: {text} is too short; at least {LEAST_INTERVAL_S:g} s")
    return seconds
