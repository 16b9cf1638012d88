"""What to say beside a policy: the command that fits it, and what was refused or missing. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from jail.policy.learn.note import EVERYTHING, Learned
from jail.policy.learn.path import find_mount
from jail.policy.learn.text import name_conditions
from jail.policy.learn.use import join_values

if TYPE_CHECKING:
    from jail.spec import JailSpec

MAX_NAMED: Final = 12
CHANGES: Final = ("written", "created")


def list_mounts(spec: JailSpec, learned: Learned) -> list[str]:
    """Options of ``jail run`` for those of the spec's mounts that something was used of."""
    options = []
    for each in spec.volumes:
        uses = find_uses(each.target, spec.targets, learned)
        if uses:
            reads = each.read_only or not uses.intersection(CHANGES)
            options.append(f"-v {each.source}:{each.target}:{'ro' if reads else 'rw'}")
    for small in spec.tmpfs:
        if find_uses(small.target, spec.targets, learned):
            size = f":{small.size_bytes}" if small.size_bytes else ""
            options.append(f"--tmpfs {small.target}{size}")
    return options


def find_uses(target: str, targets: Sequence[str], learned: Learned) -> set[str]:
    """What was done with what lies in this mount, and in none below it."""
    return {
        use
        for use, paths in learned.paths.items()
        if use != "missing"
        and any(find_mount(each.removesuffix(EVERYTHING), targets) == target for each in paths)
    }


def needs_network(learned: Learned) -> bool:
    """It spoke to an address that isn't within the jail."""
    inner = ("unix ", "bind ")
    return any(not each.startswith(inner) and not _is_loopback(each) for each in learned.network)


def _is_loopback(text: str) -> bool:
    _, _, address = text.partition(" ")
    return address.startswith(("127.", "[::1]"))


def make_command(options: Iterable[str], policy: str, argv: Sequence[str]) -> str:
    """One line for a shell. ``options``: words, or a flag and its value with one space between."""
    words = ["jail", "run", "--seccomp", policy]
    for each in options:
        words += each.split(" ", 1)
    return shlex.join([*words, "--", *argv])


def list_refused(learned: Learned) -> list[str]:
    """Each with its answer."""
    told = []
    for (call, values), action in sorted(learned.refused.items()):
        shown = name_conditions(call, join_values(call, [values])[0]) if values else ""
        told.append(f"{call}({shown}) {action}" if shown else f"{call} {action}")
    return told


def join_some(texts: Sequence[str]) -> str:
    """Of a long list the beginning."""
    if len(texts) <= MAX_NAMED:
        return ", ".join(texts)
    return f"{', '.join(texts[:MAX_NAMED])} and {len(texts) - MAX_NAMED} more"
