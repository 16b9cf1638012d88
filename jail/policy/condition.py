"""Conditions and actions of a rule, as a TOML file writes them. Pure."""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from typing import Any, Final

from jail.errors import SpecError
from jail.policy.rule import Condition

OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "masked_eq")
CONDITION_KEYS: Final = ("arg", "op", "mask", "value", "values")
MAX_CHOICES: Final = 2048
"""of values that one list of conditions may mean; a filter has room for 4096 instructions"""
WORDS: Final = ("allow", "kill", "log", "notify")


def parse_action(value: Any, where: str) -> str:
    """One of the words, or the name in ``{errno = "EPERM"}``."""
    if isinstance(value, str) and value in WORDS:
        return value
    if isinstance(value, dict) and list(value) == ["errno"]:
        name = value["errno"]
        if isinstance(name, str) and name in errno.errorcode.values():
            return name
        raise SpecError(f'{where}: no errno {name!r}; they have names such as "EPERM"')
    words = ", ".join(f'"{each}"' for each in WORDS)
    raise SpecError(f'{where}: an action is {words} or {{ errno = "EPERM" }}, not {value!r}')


def parse_alternatives(table: dict[str, Any], where: str) -> tuple[tuple[Condition, ...], ...]:
    """What ``when`` or ``any`` says; without either the rule always holds."""
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
    if math.prod(len(each.values) for each in parsed) > MAX_CHOICES:
        raise SpecError(f"{where}: more choices of values than a filter has room for")
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
    refuse_unknown(table, CONDITION_KEYS, where)
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


def refuse_unknown(table: dict[str, Any], known: Sequence[str], where: str) -> None:
    """SpecError for a key that means nothing."""
    for key in table:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r} (there are {', '.join(known)})")
