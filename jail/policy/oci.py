"""Profiles of Docker, podman and the OCI, as rules of ours.

They are read as runc and libseccomp apply them to a container without capabilities, save that

* the i386, x32 and 32-bit arm ABIs stay closed, whatever ``subArchitectures`` says;
* ``SCMP_ACT_KILL`` and ``SCMP_ACT_KILL_THREAD`` end the process, not one thread of it;
* ``SCMP_ACT_TRACE`` answers ENOSYS, which is what the kernel does where nobody traces;
* what is newer than the newest call that the profile names is answered ENOSYS, as runc does, but
  by name: so is what libseccomp has no name for;
* where two conditional rules with different actions hold, the stricter one decides; libseccomp's
  answer depends on their order and shape, and some it does not take at all;
* no flag changes anything (see ``FLAGS``).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from jail.errors import SpecError
from jail.policy.number import read_names
from jail.policy.profile import Argument, Entry, Filter, Profile, parse_json
from jail.policy.rule import Condition, Rule, Ruleset, Target

ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""how ``arches`` calls them: libseccomp's binding for Go does"""
OTHER_GO_NAMES: Final = (
    "x86", "x32", "arm", "mips", "mips64", "mips64n32", "mipsel", "mipsel64", "mipsel64n32",
    "ppc", "ppc64", "ppc64le", "s390", "s390x", "parisc", "parisc64", "riscv64", "loong64",
    "loongarch64", "m68k", "sh", "sheb", "mipsle", "mips3l64n32",
)  # fmt: skip
FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": "a jail's programs start with the filter, all threads have it",
    "SECCOMP_FILTER_FLAG_LOG": "what is refused is in the result, not in the kernel's log",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": "speculation stays mitigated as the kernel has it",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": "is for a listener, which a profile can't have here",
}
"""those that are taken, and why none of them does anything"""
ACTIONS: Final = {
    "SCMP_ACT_ALLOW": "allow",
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_KILL": "kill",
    "SCMP_ACT_KILL_THREAD": "kill",
    "SCMP_ACT_KILL_PROCESS": "kill",
    "SCMP_ACT_TRAP": "trap",
    "SCMP_ACT_TRACE": "ENOSYS",
}
"""and ``SCMP_ACT_ERRNO``"""
SEVERITY: Final = ("kill", "trap", "an errno", "log", "allow")
"""the kernel's order among filters, strictest first: seccomp(2)"""
OPS: Final = {
    "SCMP_CMP_NE": "ne",
    "SCMP_CMP_LT": "lt",
    "SCMP_CMP_LE": "le",
    "SCMP_CMP_EQ": "eq",
    "SCMP_CMP_GE": "ge",
    "SCMP_CMP_GT": "gt",
    "SCMP_CMP_MASKED_EQ": "masked_eq",
}
WHY: Final = {
    "allow": "the profile allows it",
    "log": "the profile allows it, and has it logged",
    "kill": "the profile ends who asks for it",
    "trap": "the profile answers it with a signal",
}
WHY_REFUSED: Final = "the profile refuses it"
WHY_NOT_NAMED: Final = "the profile's default: it is no newer than what the profile names"

Alternative = tuple[Condition, ...]


def parse_profile(text: bytes, name: str, target: Target) -> Ruleset:
    """What a profile says for that machine and kernel; SpecError says what is wrong, and where."""
    try:
        profile = parse_json(text)
        _check_target(profile, target)
        default = _parse_action(profile.default_action, profile.default_errno, "defaultAction")
        entries = [each for each in profile.entries if _is_there(each, target)]
        rules = [_parse_entry(each, name) for each in entries if not _repeats(each, profile)]
    except SpecError as error:
        raise SpecError(f"seccomp policy {name}: {error}") from None
    ruleset = Ruleset(default, tuple(_put_in_order(rules)))
    if default in ("allow", "log", "ENOSYS"):
        return ruleset
    named = {call for each in entries for call in each.names}
    return _answer_newer(ruleset, named, read_names(target.machine), name)


def _check_target(profile: Profile, target: Target) -> None:
    own = ARCHITECTURES.get(target.machine)
    for each in profile.architectures:
        if not each.startswith("SCMP_ARCH_"):
            raise SpecError(f"{each!r} is not an architecture (SCMP_ARCH_…)")
    if profile.architectures and not {own, "SCMP_ARCH_NATIVE"} & set(profile.architectures):
        there = ", ".join(profile.architectures[:5])
        raise SpecError(f"is for {there}, not for this machine ({own or target.machine})")
    for flag in profile.flags:
        if flag not in FLAGS:
            raise SpecError(f"flags: unknown flag {flag!r} (there are {', '.join(FLAGS)})")


def _is_there(entry: Entry, target: Target) -> bool:
    included = _is_included(entry.includes, target)
    return not _is_excluded(entry.excludes, target) and included


def _repeats(entry: Entry, profile: Profile) -> bool:
    """Whether it says what the default says.

    runc leaves such a one out, so that even without a condition it hides none of the others.
    """
    default = _identify(profile.default_action, profile.default_errno)
    return _identify(entry.action, entry.errno) == default


def _identify(action: str, number: int | str | None) -> tuple[str, int]:
    """What runc compares; an errno means something to two of the actions."""
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return action, _parse_errno(number, action)
    return action.removesuffix("_THREAD"), 0


def _is_included(filter_: Filter, target: Target) -> bool:
    """Whether all that it asks for is here; a capability never is."""
    if filter_.arches and not _names_machine(filter_, target):
        return False
    return not filter_.caps and (filter_.min_kernel is None or target.kernel >= filter_.min_kernel)


def _is_excluded(filter_: Filter, target: Target) -> bool:
    """Whether anything that it names is here."""
    if filter_.min_kernel is not None and target.kernel >= filter_.min_kernel:
        return True
    return _names_machine(filter_, target)


def _names_machine(filter_: Filter, target: Target) -> bool:
    for each in filter_.arches:
        if each not in OTHER_GO_NAMES and each not in GO_NAMES.values():
            raise SpecError(f"{filter_.where}.arches: no architecture {each!r} (amd64, arm64, …)")
    return GO_NAMES.get(target.machine) in filter_.arches


def _parse_entry(entry: Entry, name: str) -> Rule:
    action = _parse_action(entry.action, entry.errno, entry.where)
    why = " ".join(entry.comment.split()) or WHY.get(action, WHY_REFUSED)
    return Rule(
        entry.names,
        action,
        tuple(_parse_args(entry)),
        why,
        optional=True,
        quiet=action == "ENOSYS",
        policy=name,
    )


def _parse_action(action: str, number: int | str | None, where: str) -> str:
    value = _parse_errno(number, where)
    if action == "SCMP_ACT_ERRNO":
        if value == 0:
            raise SpecError(
                f"{where}: errno 0 would make a call that is not made look like one that succeeded"
            )
        if value not in errno.errorcode:
            raise SpecError(f"{where}: no errno {value}")
        return errno.errorcode[value]
    if action == "SCMP_ACT_NOTIFY":
        raise SpecError(f"{where}: SCMP_ACT_NOTIFY needs a program that answers: a jail has none")
    if action not in ACTIONS:
        raise SpecError(f"{where}: no action {action!r}")
    return ACTIONS[action]


def _parse_errno(number: int | str | None, where: str) -> int:
    """EPERM unless said otherwise, as runc has it."""
    if number is None:
        return errno.EPERM
    if isinstance(number, int):
        return number
    value = getattr(errno, number, None) if number.startswith("E") else None
    if not isinstance(value, int):
        raise SpecError(f"{where}: no errno {number!r}")
    return value


def _parse_args(entry: Entry) -> Iterator[Alternative]:
    """One alternative of all conditions, or one of each where an argument is compared twice.

    That is how runc reads it, and before it Docker did.
    """
    conditions = [_parse_condition(each) for each in entry.args]
    indices = [each.index for each in entry.args]
    if len(set(indices)) < len(indices):
        yield from ((each,) if each else () for each in conditions)
    else:
        yield tuple(each for each in conditions if each)


def _parse_condition(argument: Argument) -> Condition | None:
    """None: holds always. libseccomp looks at the masked bits of both sides."""
    op = OPS.get(argument.op)
    if op is None:
        raise SpecError(f"{argument.where}.op: no operator {argument.op!r}")
    if op != "masked_eq":
        return Condition(argument.index, op, (argument.value,))
    mask = argument.value
    return Condition(argument.index, op, (argument.value_two & mask,), mask) if mask else None


def _put_in_order(rules: Iterable[Rule]) -> Iterator[Rule]:
    """libseccomp's unordered rules as ours, of which the first decides.

    Of a call's unconditional rules the first decides, and no condition counts beside it.
    """
    rules = list(rules)
    always: set[str] = set()
    for rule in rules:
        if rule.is_always():
            yield from _regroup(rule, {call: ((),) for call in rule.calls if call not in always})
            always.update(rule.calls)
    seen: set[tuple[str, Alternative]] = set()
    for rule in sorted(rules, key=_severity):
        kept = {}
        for call in rule.calls:
            new = tuple(each for each in rule.alternatives if (call, each) not in seen)
            seen.update((call, each) for each in new)
            if call not in always and new:
                kept[call] = tuple(dict.fromkeys(new))
        yield from _regroup(rule, kept)


def _severity(rule: Rule) -> int:
    return SEVERITY.index(rule.action if rule.action in SEVERITY else "an errno")


def _regroup(rule: Rule, kept: dict[str, tuple[Alternative, ...]]) -> Iterator[Rule]:
    """The rule again, with what is left of it: calls with the same alternatives together."""
    groups: dict[tuple[Alternative, ...], list[str]] = {}
    for call, alternatives in kept.items():
        groups.setdefault(alternatives, []).append(call)
    for alternatives, calls in groups.items():
        yield replace(rule, calls=tuple(calls), alternatives=alternatives)


def _answer_newer(
    ruleset: Ruleset, named: set[str], names: Mapping[int, str], policy: str
) -> Ruleset:
    """The default for what was there when the profile was written, ENOSYS for what came since.

    Libraries try new calls first, and do without them where the kernel has none.
    """
    newest = max((number for number, call in names.items() if call in named), default=None)
    if newest is None:
        return ruleset
    always = {call for rule in ruleset.rules if rule.is_always() for call in rule.calls}
    older = tuple(names[number] for number in sorted(names) if number <= newest)
    calls = tuple(call for call in older if call not in always)
    if not calls:
        return Ruleset("ENOSYS", ruleset.rules)
    last = Rule(calls, ruleset.default, ((),), WHY_NOT_NAMED, optional=True, policy=policy)
    return Ruleset("ENOSYS", (*ruleset.rules, last))
