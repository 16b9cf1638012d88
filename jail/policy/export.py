"""A policy as a profile that Docker accepts."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from jail.policy.measure import is_short_enough
from jail.policy.rule import MACHINES, PASSING, Rule, Ruleset, Target
from jail.policy.translate import Budget, Comparison, Part, Translation, translate

ACTIONS: Final = {
    "allow": "SCMP_ACT_ALLOW",
    "notify": "SCMP_ACT_ALLOW",
    "log": "SCMP_ACT_LOG",
    "kill": "SCMP_ACT_KILL_PROCESS",
    "trap": "SCMP_ACT_TRAP",
    "trace": "SCMP_ACT_TRACE",
}
"""and SCMP_ACT_ERRNO"""
ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
BUDGETS: Final = (Budget(512, 512), Budget(512, 64), Budget(512, 8), Budget(64, 8), Budget(8, 0))
"""from what is exact to what is short; the first that the kernel takes is used"""
MOST_INSTRUCTIONS: Final = 4060
"""of the kernel's 4096 (BPF_MAXINSNS)"""


class Guard(NamedTuple):
    """Where a part is: machines (all, if none), and kernels from … until …"""

    machines: tuple[str, ...] = ()
    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None


@dataclass(frozen=True)
class Export:
    """The profile, and what it refuses in excess: call → sentences."""

    profile: dict[str, Any]
    notes: Mapping[str, tuple[str, ...]]

    def to_json(self) -> str:
        """A rule to a line."""
        head = {key: value for key, value in self.profile.items() if key != "syscalls"}
        lines = ",\n".join(f"\t\t{json.dumps(each)}" for each in self.profile["syscalls"])
        start = json.dumps(head, indent="\t").removesuffix("\n}")
        return f'{start},\n\t"syscalls": [\n{lines}\n\t]\n}}\n'


def export_profile(
    ruleset: Ruleset, known: Iterable[str] = (), machines: Sequence[str] = MACHINES
) -> Export:
    """For several machines at once; ``known`` are the names of all calls that there are."""
    found = _translate_all(_sort_by_call(ruleset.rules), ruleset.default)
    notes = {call: _list_notes(there) for call, there in found.items() if _list_notes(there)}
    profile = {
        **_make_action(ruleset.default, "defaultAction", "defaultErrnoRet"),
        "archMap": [
            {"architecture": ARCHITECTURES[each], "subArchitectures": []} for each in machines
        ],
        "syscalls": [
            *_make_entries(found),
            *_make_notes(notes, ruleset.default),
            *_name_the_rest(found, ruleset.default, known),
        ],
    }
    return Export(profile, notes)


def _list_notes(there: Mapping[Guard, Translation]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for each in there.values() for note in each.notes))


def _translate_all(
    by_call: Mapping[str, Sequence[Rule]], default: str
) -> dict[str, dict[Guard, Translation]]:
    """Exactly, or as exactly as the kernel takes it."""
    found = {}
    for budget in BUDGETS:
        found = {
            call: dict(_translate_everywhere(rules, default, budget))
            for call, rules in by_call.items()
        }
        longest = [
            max((each.parts for each in there.values()), key=len) for there in found.values()
        ]
        if is_short_enough(longest, MOST_INSTRUCTIONS):
            break
    return found


def _sort_by_call(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        for call in rule.calls:
            found.setdefault(call, []).append(rule)
    return found


def _translate_everywhere(
    rules: Sequence[Rule], default: str, budget: Budget
) -> Iterator[tuple[Guard, Translation]]:
    """Once, or once for each machine and each span of kernels that the rules tell apart."""
    machines = MACHINES if any(rule.machines for rule in rules) else MACHINES[:1]
    starts = sorted({rule.min_kernel for rule in rules if rule.min_kernel})
    for machine in machines:
        for since, until in zip([None, *starts], [*starts, None], strict=True):
            there = [rule for rule in rules if rule.is_for(Target(machine, since or (0, 0)))]
            guard = Guard((machine,) if len(machines) > 1 else (), since, until)
            yield guard, translate(there, default, budget)


def _make_entries(found: Mapping[str, Mapping[Guard, Translation]]) -> Iterator[dict[str, Any]]:
    """Calls of which the same is said together."""
    calls: dict[tuple[Part, Guard], list[str]] = {}
    for call, there in found.items():
        for guard, translation in there.items():
            for part in translation.parts:
                calls.setdefault((part, guard), []).append(call)
    for (part, guard), names in calls.items():
        yield _make_entry(names, part, guard)


def _make_notes(notes: Mapping[str, Sequence[str]], default: str) -> Iterator[dict[str, Any]]:
    """Comments with nothing to do: rules that say what the default says are passed over."""
    for call, sentences in notes.items():
        part = Part(default, (), f"less than the policy: {call} {', '.join(sentences)}")
        yield _make_entry([call], part, Guard())


def _name_the_rest(
    found: Mapping[str, Mapping[Guard, Translation]], default: str, known: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """What the default refuses, by name: runc answers ENOSYS for whatever is newer than that."""
    named = {call for call, there in found.items() if Guard() in there and there[Guard()].parts}
    rest = sorted(set(known) - named)
    if rest and default not in (*PASSING, "ENOSYS"):
        part = Part(default, (), "the policy's default, for all that there was in its time")
        yield _make_entry(rest, part, Guard())


def _make_entry(calls: list[str], part: Part, guard: Guard) -> dict[str, Any]:
    includes: dict[str, Any] = {}
    if guard.machines:
        includes["arches"] = [GO_NAMES[each] for each in guard.machines]
    if guard.since:
        includes["minKernel"] = f"{guard.since[0]}.{guard.since[1]}"
    excludes = {"minKernel": f"{guard.until[0]}.{guard.until[1]}"} if guard.until else {}
    return {
        "names": calls,
        **_make_action(part.action, "action", "errnoRet"),
        "args": [_make_argument(each) for each in part.comparisons],
        "comment": part.why,
        "includes": includes,
        "excludes": excludes,
    }


def _make_action(action: str, key: str, errno_key: str) -> dict[str, Any]:
    if action in ACTIONS:
        return {key: ACTIONS[action]}
    return {key: "SCMP_ACT_ERRNO", errno_key: int(getattr(errno, action))}


def _make_argument(comparison: Comparison) -> dict[str, Any]:
    arg, op, value, value_two = comparison
    op = f"SCMP_CMP_{op.upper()}"
    return {"index": arg, "value": value, "valueTwo": value_two, "op": op}
