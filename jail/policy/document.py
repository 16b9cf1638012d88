"""The language of seccomp policies: what a TOML file says, as rules.

It is described in ``docs/policies.md``. Pure: which calls there are is not known here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from jail.errors import SpecError
from jail.policy.condition import parse_action, parse_alternatives, refuse_unknown
from jail.policy.rule import MACHINES, Rule, Ruleset
from jail.policy.shadow import override, refuse_repeated, refuse_shadowed, sort_by_call

FILE_KEYS: Final = ("extends", "default", "groups", "rule", "learned")
RULE_KEYS: Final = (
    "calls",
    "action",
    "when",
    "any",
    "why",
    "optional",
    "quiet",
    "machines",
    "min_kernel",
)
GROUP_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")
KERNEL: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")

Groups = dict[str, tuple[str, ...]]


def parse_document(
    document: dict[str, Any], name: str = "", base: tuple[str, Ruleset] | None = None
) -> Ruleset:
    """What the TOML file of that name says, before what the base says that it extends."""
    refuse_unknown(document, FILE_KEYS, "the file")
    if not isinstance(document.get("learned", {}), dict):
        raise SpecError("learned: write [learned]")
    base_name, under = base or ("", Ruleset("", ()))
    default = _parse_default(document, under)
    groups = _parse_groups(document.get("groups", {}), under, base_name)
    own = _parse_rules(document.get("rule", []), name, groups)
    calls = sort_by_call((f"rule {index}", rule) for index, rule in enumerate(own, 1))
    refuse_shadowed(calls)
    if base is not None:
        refuse_repeated(calls, under.rules, base_name)
    return Ruleset(default, (*own, *override(calls, under.rules)), tuple(groups.items()))


def _parse_default(document: dict[str, Any], base: Ruleset) -> str:
    if "default" in document:
        return parse_action(document["default"], "default")
    if not base.default:
        raise SpecError('no default: write default = { errno = "ENOSYS" }, or extend a policy')
    return base.default


def _parse_groups(table: Any, base: Ruleset, base_name: str) -> Groups:
    groups: Groups = dict(base.groups)
    if not isinstance(table, dict):
        raise SpecError("groups: write [groups]")
    for name, calls in table.items():
        if name in groups:
            raise SpecError(f"group {name}: is a group of {base_name} already")
        if not GROUP_NAME.fullmatch(name):
            raise SpecError(f"group {name!r}: a name is small letters, digits, - and _")
        groups[name] = _parse_names(f"group {name}", calls)
    return groups


def _parse_rules(tables: Any, name: str, groups: Groups) -> tuple[Rule, ...]:
    if not isinstance(tables, list):
        raise SpecError("rule: write [[rule]]")
    return tuple(_parse_rule(index, each, name, groups) for index, each in enumerate(tables, 1))


def _parse_rule(index: int, table: Any, name: str, groups: Groups) -> Rule:
    if not isinstance(table, dict):
        raise SpecError(f"rule {index}: not a table")
    if "calls" not in table:
        refuse_unknown(table, RULE_KEYS, f"rule {index}")
    calls, used = _parse_calls(f"rule {index}", table.get("calls"), groups)
    where = f"rule {index} ({', '.join(calls[:3])}{', …' if len(calls) > 3 else ''})"
    refuse_unknown(table, RULE_KEYS, where)
    why = table.get("why")
    if not isinstance(why, str) or not why.strip():
        raise SpecError(f"{where}: no why: each rule gives its reason")
    if "action" not in table:
        raise SpecError(f"{where}: no action")
    return Rule(
        calls=calls,
        action=parse_action(table["action"], where),
        alternatives=parse_alternatives(table, where),
        why=why,
        optional=_parse_flag(table, "optional", where),
        quiet=_parse_flag(table, "quiet", where),
        machines=_parse_machines(table, where),
        min_kernel=_parse_kernel(table, where),
        policy=name,
        groups=used,
    )


def _parse_calls(where: str, words: Any, groups: Groups) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The calls, and the groups among which they were named."""
    if not isinstance(words, list) or not words:
        raise SpecError(f"{where}: calls must be a list of names")
    calls: list[Any] = []
    used: list[str] = []
    for each in words:
        if not isinstance(each, str) or not each.startswith("@"):
            calls.append(each)
            continue
        if each[1:] not in groups:
            raise SpecError(f"{where}: no group {each}")
        used.append(each[1:])
        calls += groups[each[1:]]
    return _parse_names(where, calls), tuple(used)


def _parse_names(where: str, calls: Any) -> tuple[str, ...]:
    if not isinstance(calls, list) or not calls:
        raise SpecError(f"{where}: calls must be a list of names")
    for each in calls:
        if not isinstance(each, str) or not each.isidentifier() or not each.isascii():
            raise SpecError(f"{where}: {each!r} is not the name of a system call")
    if len(set(calls)) < len(calls):
        twice = next(each for each in calls if calls.count(each) > 1)
        raise SpecError(f"{where}: {twice} is named twice")
    return tuple(calls)


def _parse_flag(table: dict[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise SpecError(f"{where}: {key} must be true or false")
    return value


def _parse_machines(table: dict[str, Any], where: str) -> tuple[str, ...]:
    if "machines" not in table:
        return ()
    machines = table["machines"]
    if not isinstance(machines, list) or not machines:
        raise SpecError(f"{where}: machines must be a list of names")
    for each in machines:
        if each not in MACHINES:
            raise SpecError(f"{where}: no machine {each!r} (there are {', '.join(MACHINES)})")
        if machines.count(each) > 1:
            raise SpecError(f"{where}: {each} is named twice")
    return tuple(machines)


def _parse_kernel(table: dict[str, Any], where: str) -> tuple[int, int] | None:
    if "min_kernel" not in table:
        return None
    value = table["min_kernel"]
    found = KERNEL.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise SpecError(f'{where}: min_kernel is a string as "5.9", not {value!r}')
    return int(found[1]), int(found[2])
