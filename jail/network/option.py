"""The options of the command that are about the network."""

from __future__ import annotations

import argparse
from typing import Any, Final

from jail.network.check import NETWORKS

WORDS: Final = ("network", "allow", "deny", "observe", "publish", "add_host", "dns")
"""of ``make_spec``, by the same names"""
REPEATED: Final = (
    (("--allow",), "RULE", "open NAME[:PORT], *.NAME[:PORT] or NETWORK[:PORT]; implies filtered"),
    (("--deny",), "RULE", "shut it, whatever allows it; without /tcp or /udp both"),
    (
        ("-p", "--publish"),
        "[IP:]HOST:JAIL[/udp]",
        "a port of the host's leads to one of the jail's; with slirp, pasta or slirp4netns",
    ),
    (("--add-host",), "NAME:IP", "a line of /etc/hosts"),
    (("--dns",), "IP", "whom to ask for names (default: the host's own)"),
)


def add_network_options(group: Any) -> None:
    """What can be reached, and who may come in."""
    group.add_argument(
        "--network",
        metavar="|".join(NETWORKS),
        help="default: none; slirp is pasta or slirp4netns, filtered what --allow opens",
    )
    for names, metavar, text in REPEATED:
        group.add_argument(*names, action="append", default=[], metavar=metavar, help=text)
    group.add_argument(
        "--observe",
        action="store_true",
        help="with filtered: let every name pass, and print the rules that would be needed",
    )


def read_network_words(args: argparse.Namespace) -> dict[str, Any]:
    """For ``make_spec``."""
    return {word: getattr(args, word) for word in WORDS}
