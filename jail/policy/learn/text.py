"""A learned policy as a TOML file: rules that differ from the base's, and what they were made of.

Pure.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from jail.policy.describe import name_value
from jail.policy.learn.note import Learned
from jail.policy.learn.rules import Piece
from jail.policy.learn.use import join_values
from jail.policy.rule import Condition, Rule

BASE: Final = "strict"
WIDTH: Final = 98
WORDS: Final = ("allow", "kill", "log", "notify")
ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
HEAD: Final = """\
# Learned by watching what was run (below, in [learned]): all of it passes under this policy, and
# little else does. What is here differs from {base}: first what was needed beyond it, with
# {ceiling}'s reasons, then what {base} allows and was not needed.
#
# More of the same program: jail policy learn --append -o THIS-FILE -- PROGRAM…
"""


TAIL: Final = (
    "# --- What was seen: it decides nothing; --append adds to it and makes the rules anew.\n"
)


def make_rules(pieces: Iterable[Piece], base: str = BASE) -> tuple[Rule, ...]:
    """Neighbours that say the same of different calls are one rule."""
    grouped = itertools.groupby(pieces, key=lambda each: (each.effect, each.why, each.optional))
    return tuple(_make_rule(list(group), base) for _, group in grouped)


def _make_rule(pieces: list[Piece], base: str) -> Rule:
    first = pieces[0]
    return Rule(
        tuple(each.call for each in pieces),
        first.action,
        first.alternatives,
        f"{base} allows it; it was never used" if first.why == "never used" else first.why,
        first.optional,
        first.quiet,
        first.machines,
        first.min_kernel,
    )


def make_digest(rules: Iterable[Rule]) -> str:
    """By which a file is known that somebody has changed since."""
    text = "".join(map(format_rule, rules))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def format_policy(rules: tuple[Rule, ...], learned: Learned, base: str = BASE) -> str:
    """The whole file."""
    table = {"digest": make_digest(rules), **learned.to_table()}
    parts = [
        HEAD.format(base=base, ceiling=learned.ceiling),
        f"\nextends = {quote(base)}\n",
        *(f"\n{format_rule(each)}" for each in rules),
        f"\n{TAIL}\n",
        "\n".join(format_learned(table)),
        "\n",
    ]
    return "".join(parts)


def format_rule(rule: Rule) -> str:
    """As one writes it, with the names of its numbers beside it."""
    return "\n".join(_format_rule(rule)) + "\n"


def _format_rule(rule: Rule) -> Iterator[str]:
    yield "[[rule]]"
    yield from format_list("calls", list(rule.calls))
    if rule.optional:
        yield "optional = true"
    if rule.quiet:
        yield "quiet = true"
    if rule.machines:
        yield from format_list("machines", list(rule.machines))
    if rule.min_kernel is not None:
        yield f'min_kernel = "{rule.min_kernel[0]}.{rule.min_kernel[1]}"'
    yield f"action = {format_action(rule.action)}"
    yield from _format_alternatives(rule)
    yield f"why = {quote(rule.why)}"


def format_action(action: str) -> str:
    """A word, or an errno's name in a table."""
    return quote(action) if action in WORDS else f"{{ errno = {quote(action)} }}"


def _format_alternatives(rule: Rule) -> Iterator[str]:
    if rule.is_always():
        return
    if len(rule.alternatives) == 1:
        (only,) = rule.alternatives
        yield f"# {name_conditions(rule.calls[0], only)}"
        yield f"when = [{', '.join(map(_format_condition, only))}]"
        return
    yield "any = ["
    for each in rule.alternatives:
        inside = ", ".join(map(_format_condition, each))
        yield f"    [{inside}], # {name_conditions(rule.calls[0], each)}"
    yield "]"


def _format_condition(each: Condition) -> str:
    mask = f"mask = {each.mask:#x}, " if each.op == "masked_eq" else ""
    numbers = [f"{value:#x}" for value in each.values]
    said = f"value = {numbers[0]}" if len(numbers) == 1 else f"values = [{', '.join(numbers)}]"
    return f'{{ arg = {each.arg}, op = "{each.op}", {mask}{said} }}'


def name_conditions(call: str, conditions: Iterable[Condition]) -> str:
    """``AF_INET, SOCK_STREAM``: the numbers' names, for who reads the file."""
    named: list[str] = []
    known: dict[int, int] = {}
    for each in conditions:
        mask = each.mask if each.op == "masked_eq" else None
        before = [known.get(arg, 0) for arg in range(each.arg)]
        names = [name_value(call, each.arg, value, mask, before) for value in each.values]
        known[each.arg] = each.values[0]
        named.append(" or ".join(names))
    return ", ".join(named)


# -- [learned] ------------------------------------------------------------------------------------


def format_learned(table: dict[str, Any]) -> Iterator[str]:
    """The table, its plain values first, as TOML wants it."""
    yield "[learned]"
    for key, value in table.items():
        if isinstance(value, str):
            yield f"{key} = {quote(value)}"
        elif isinstance(value, list) and key != "refused":
            yield from format_list(key, value)
    for key in ("values", "paths"):
        if key in table:
            yield f"\n[learned.{key}]"
            for name, values in table[key].items():
                if key == "values":
                    yield f"# {_name_uses(name, values)}"
                yield from format_list(name, values)
    for each in table.get("refused", []):
        yield "\n[[learned.refused]]"
        yield f"call = {quote(each['call'])}"
        yield f"values = {_format_item(each['values'])}"
        yield f"action = {quote(each['action'])}"


def _name_uses(call: str, uses: list[list[int]]) -> str:
    joined = [join_values(call, [tuple(values)])[0] for values in uses]
    return "; ".join(name_conditions(call, each) for each in joined)


def format_list(key: str, values: list[Any]) -> Iterator[str]:
    """On one line if it fits, else filled."""
    items = [_format_item(each) for each in values]
    line = f"{key} = [{', '.join(items)}]"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{key} = ["
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH and line.strip():
            yield line
            line = "   "
        line += f" {item},"
    yield line
    yield "]"


def _format_item(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_format_item, value))}]"
    return quote(value) if isinstance(value, str) else f"{value:#x}"


def quote(text: str) -> str:
    """A TOML string of one line; what has no character of its own (surrogates) becomes one."""
    text = text.encode("utf-8", "replace").decode()
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
