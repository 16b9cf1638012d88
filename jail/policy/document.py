"""The language of seccomp policies: what a TOML file says, as rules.

It is described at the head of ``policies/default.toml``. Pure: which calls there are is not
known here.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final

from jail.errors import SpecError
from jail.policy.rule import Condition, Rule, Ruleset

OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq")
FILE_KEYS: Final = ("default", "rule")
RULE_KEYS: Final = ("calls", "action", "when", "any", "why", "optional")
CONDITION_KEYS: Final = ("arg", "op", "mask", "value", "values")


def parse_document(document: dict[str, Any]) -> Ruleset:
    """What a TOML file says."""
    _refuse_unknown(document, FILE_KEYS, "the file")
    if "default" not in document:
        raise SpecError("no default")
    default = parse_action(document["default"], "default")
    tables = document.get("rule", [])
    if not isinstance(tables, list):
        raise SpecError("rule: write [[rule]]")
    rules = tuple(_parse_rule(index, each) for index, each in enumerate(tables, 1))
    _refuse_unreachable(rules)
    return Ruleset(default, rules)


def _parse_rule(index: int, table: Any) -> Rule:
    if not isinstance(table, dict):
        raise SpecError(f"rule {index}: not a table")
    calls = _parse_calls(f"rule {index}", table.get("calls"))
    where = f"rule {index} ({', '.join(calls[:3])}{', …' if len(calls) > 3 else ''})"
    _refuse_unknown(table, RULE_KEYS, where)
    why = table.get("why")
    if not isinstance(why, str) or not why.strip():
        raise SpecError(f"{where}: no why")
    if "action" not in table:
        raise SpecError(f"{where}: no action")
    optional = table.get("optional", False)
    if not isinstance(optional, bool):
        raise SpecError(f"{where}: optional must be true or false")
    action = parse_action(table["action"], where)
    return Rule(calls, action, _parse_alternatives(table, where), why, optional)


def _parse_calls(where: str, calls: Any) -> tuple[str, ...]:
    if not isinstance(calls, list) or not calls:
        raise SpecError(f"{where}: calls must be a list of names")
    for each in calls:
        if not isinstance(each, str) or not each.isidentifier() or not each.isascii():
            raise SpecError(f"{where}: {each!r} is not the name of a system call")
        if calls.count(each) > 1:
            raise SpecError(f"{where}: {each} is named twice")
    return tuple(calls)


def parse_action(value: Any, where: str) -> str:
    """``"allow"``, ``"kill"``, or the name in ``{errno = "EPERM"}``."""
    if value in ("allow", "kill"):
        return str(value)
    if isinstance(value, dict) and list(value) == ["errno"]:
        name = value["errno"]
        if isinstance(name, str) and name in errno.errorcode.values():
            return name
        raise SpecError(f"{where}: no errno {name!r}")
    raise SpecError(
        f'{where}: an action is "allow", "kill" or {{ errno = "EPERM" }}, not {value!r}'
    )


def _parse_alternatives(table: dict[str, Any], where: str) -> tuple[tuple[Condition, ...], ...]:
    if "when" in table and "any" in table:
        raise SpecError(f"{where}: when or any, not both")
    if "any" in table:
        lists = table["any"]
        if not isinstance(lists, list) or not lists:
            raise SpecError(f"{where}: any must be a list of lists of conditions")
        return tuple(_parse_conditions(each, where) for each in lists)
    return (_parse_conditions(table["when"], where),) if "when" in table else ((),)


def _parse_conditions(conditions: Any, where: str) -> tuple[Condition, ...]:
    if not isinstance(conditions, list) or not conditions:
        raise SpecError(f"{where}: a condition list is missing or empty")
    parsed = tuple(_parse_condition(each, where) for each in conditions)
    args = [each.arg for each in parsed]
    for arg in args:
        if args.count(arg) > 1:
            raise SpecError(
                f"{where}: two conditions on argument {arg} in one list, which libseccomp can't do;"
                " use a mask, values, or alternatives in any"
            )
    return parsed


def _parse_condition(table: Any, where: str) -> Condition:
    if not isinstance(table, dict):
        raise SpecError(f"{where}: a condition is {{ arg = 0, op = …, value = … }}")
    _refuse_unknown(table, CONDITION_KEYS, where)
    arg = _parse_number(table.get("arg"), 5, f"{where}: arg")
    op = table.get("op")
    if op not in OPS:
        raise SpecError(f"{where}: op must be one of {', '.join(OPS)}, not {op!r}")
    if (op == "masked_eq") != ("mask" in table):
        raise SpecError(f"{where}: a mask belongs to masked_eq, and only there")
    mask = _parse_number(table.get("mask", 0), 2**64 - 1, f"{where}: mask")
    values = _parse_values(table, op, where)
    if op == "masked_eq" and (mask == 0 or any(each & ~mask for each in values)):
        raise SpecError(f"{where}: a value outside the mask {mask:#x} never matches")
    return Condition(arg, op, values, mask)


def _parse_values(table: dict[str, Any], op: str, where: str) -> tuple[int, ...]:
    if ("value" in table) == ("values" in table):
        raise SpecError(f"{where}: a condition has value or values")
    values = table["values"] if "values" in table else [table["value"]]
    if not isinstance(values, list) or not values:
        raise SpecError(f"{where}: values must be a list of numbers")
    if len(values) > 1 and op not in ("eq", "masked_eq"):
        raise SpecError(f"{where}: several values only with eq and masked_eq")
    numbers = tuple(_parse_number(each, 2**64 - 1, f"{where}: value") for each in values)
    if len(set(numbers)) < len(numbers):
        raise SpecError(f"{where}: a value is there twice")
    return numbers


def _parse_number(value: Any, most: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise SpecError(f"{where} must be a number from 0 to {most}, not {value!r}")
    return value


def _refuse_unknown(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r} (there are {', '.join(known)})")


def _refuse_unreachable(rules: Sequence[Rule]) -> None:
    decided: dict[str, int] = {}
    seen: set[tuple[str, tuple[Condition, ...]]] = set()
    for index, rule in enumerate(rules, 1):
        for call in rule.calls:
            if call in decided:
                raise SpecError(f"rule {index}: {call} is already decided by rule {decided[call]}")
            for each in rule.alternatives:
                if (call, each) in seen:
                    raise SpecError(f"rule {index}: {call} with this very condition came before")
                seen.add((call, each))
            if rule.is_always():
                decided[call] = index
