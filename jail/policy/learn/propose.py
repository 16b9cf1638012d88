"""What to say beside a policy: the command that fits it, and what was refused or missing. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from jail.policy.learn.note import EVERYTHING, Learned, Values
from jail.policy.learn.path import find_mount
from jail.policy.learn.table import TELLING
from jail.policy.learn.text import name_conditions
from jail.policy.learn.use import join_values
from jail.policy.load import is_path

if TYPE_CHECKING:
    from jail.policy.rule import Ruleset, Target
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
    """It spoke to addresses, or waited at one; the host's loopback is not the jail's."""
    met = (each.removeprefix("bind ") for each in learned.network)
    return any(not each.startswith("unix ") for each in met)


def make_command(options: Iterable[str], policy: str, argv: Sequence[str]) -> str:
    """One line for a shell. Without a policy's file, FILE stands for it."""
    if policy and not is_path(policy):
        policy = f"./{policy}"
    return shlex.join(["jail", "run", "--seccomp", policy or "FILE", *split(options), "--", *argv])


def split(options: Iterable[str]) -> list[str]:
    """Words for a shell, of words, or of flags with their values behind one space."""
    return [word for each in options for word in each.split(" ", 1)]


def list_beyond(learned: Learned, base: Ruleset, target: Target) -> list[str]:
    """What the base would not have allowed: calls, or those uses of one that is many in one."""
    told = sorted(learned.beyond)
    for call, uses in sorted(learned.values.items()):
        told += [
            _name_use(call, values)
            for values in sorted(uses)
            if not base.decide(target, call, _place(call, values)).passes
        ]
    return told


def _place(call: str, values: Values) -> list[int]:
    """The arguments, as far as they were noted."""
    args = [0] * 6
    for (arg, _), value in zip(TELLING[call], values, strict=True):
        args[arg] = value
    return args


def list_refused(learned: Learned) -> list[str]:
    """Each with its answer."""
    return [
        f"{_name_use(call, values)} {action}"
        for (call, values), action in sorted(learned.refused.items())
    ]


def _name_use(call: str, values: Values) -> str:
    shown = name_conditions(call, join_values(call, [values])[0]) if values else ""
    return f"{call}({shown})" if shown else call


def join_some(texts: Sequence[str]) -> str:
    """Of a long list the beginning."""
    if len(texts) <= MAX_NAMED:
        return ", ".join(texts)
    return f"{', '.join(texts[:MAX_NAMED])} and {len(texts) - MAX_NAMED} more"
