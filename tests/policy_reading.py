"""A second, naive reading of policies, to hold the product's against: dictionaries, as TOML says.

Documents come as a chain: a policy, then the one that it extends, then that one's base.
"""

from __future__ import annotations

import errno
import itertools
import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from jail.policy import libseccomp
from jail.policy.compile import compile_policy
from jail.policy.load import POLICIES, Policy, Text
from tests import bpf

MACHINES: Final = {"x86_64": bpf.X86_64, "aarch64": bpf.AARCH64}
GARBAGE: Final = 0xDEADBEEF << 32
MOST_VECTORS: Final = 20_000
USER_NOTIF: Final = 0x7FC00000
LOG: Final = 0x7FFC0000
TRAP: Final = 0x00030000
KILL_DATA: Final = 0xFFF

Document = dict[str, Any]


def number(call: str, machine: str = "x86_64") -> int:
    return libseccomp.read_number(libseccomp.read_binding(), call, machine)


_compiled: dict[tuple[Policy, str, str], bytes] = {}


def compiled(of: Policy, machine: str, report: Any = "none") -> bytes:
    key = of, machine, report
    if key not in _compiled:
        _compiled[key] = compile_policy(of, machine, report)
    return _compiled[key]


def names(machine: str) -> dict[int, str]:
    """Every call that libseccomp can name on that machine."""
    library = libseccomp.read_binding()
    arch = {"x86_64": library.Arch.X86_64, "aarch64": library.Arch.AARCH64}[machine]
    found = {}
    for nr in range(1024):
        try:
            name = library.resolve_syscall(arch, nr)
        except ValueError:
            continue
        found[nr] = name.decode() if isinstance(name, bytes) else name
    return found


# --- Documents ----------------------------------------------------------------------------------


def read_chain(name: str) -> list[Document]:
    """A shipped policy and what it extends."""
    with open(f"{POLICIES}/{name}.toml", "rb") as file:
        document = tomllib.load(file)
    return [document, *(read_chain(document["extends"]) if "extends" in document else [])]


def spread_groups(chain: Sequence[Document]) -> list[Document]:
    """The same with the calls that the groups stand for."""
    groups = {key: calls for each in chain for key, calls in each.get("groups", {}).items()}
    return [
        {**each, "rule": [{**rule, "calls": _spread(rule, groups)} for rule in rules_of(each)]}
        for each in chain
    ]


def _spread(rule: dict[str, Any], groups: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for word in rule["calls"]:
        found += groups[word[1:]] if word.startswith("@") else [word]
    return found


def rules_of(document: Document) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = document.get("rule", [])
    return rules


# --- Decisions ----------------------------------------------------------------------------------


def read_naively(
    chain: Sequence[Document],
    target: tuple[str, tuple[int, int]],
    call: str,
    args: Sequence[int],
    report: str = "none",
) -> int:
    """What the filter has to answer; groups have been spread."""
    for document in chain:
        for rule in rules_of(document):
            if call in rule["calls"] and is_there(rule, target) and matches(rule, args):
                return answer(rule["action"], rule.get("quiet", False), report)
    return read_default(chain, report)


def read_default(chain: Sequence[Document], report: str = "none") -> int:
    return answer(next(each["default"] for each in chain if "default" in each), False, report)


def is_there(rule: dict[str, Any], target: tuple[str, tuple[int, int]]) -> bool:
    machine, kernel = target
    if machine not in rule.get("machines", [machine]):
        return False
    major, minor = rule.get("min_kernel", "0.0").split(".")
    return kernel >= (int(major), int(minor))


def matches(rule: dict[str, Any], args: Sequence[int]) -> bool:
    if "any" in rule:
        return any(all(holds(each, args) for each in one) for one in rule["any"])
    return all(holds(each, args) for each in rule.get("when", []))


COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "eq": lambda left, right: left == right,
    "masked_eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "lt": lambda left, right: left < right,
    "le": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "ge": lambda left, right: left >= right,
}


def holds(condition: dict[str, Any], args: Sequence[int]) -> bool:
    given_value = args[condition["arg"]] & condition.get("mask", bpf.M64)
    values = condition.get("values", [condition.get("value")])
    return any(COMPARE[condition["op"]](given_value, each) for each in values)


def answer(action: Any, quiet: bool, report: str) -> int:
    if report.startswith("traced"):
        told = report == "traced-all" or not quiet
        if isinstance(action, dict) and told:
            return TRAP | 0x7000 | int(getattr(errno, action["errno"]))
        report = "none"
    heard = report == "all" or (report == "denied" and not quiet)
    if isinstance(action, dict):
        return (USER_NOTIF if heard else bpf.ERRNO) | int(getattr(errno, action["errno"]))
    return {
        "allow": bpf.ALLOW,
        "log": LOG,
        "kill": USER_NOTIF | KILL_DATA if heard else bpf.KILL_PROCESS,
        "notify": bpf.ALLOW if report == "none" else USER_NOTIF,
    }[action]


# --- Arguments that tell ------------------------------------------------------------------------


def telling_arguments(chain: Sequence[Document], call: str) -> Iterator[list[int]]:
    """Combinations of what the conditions on this call look for, and of what is near it: all of
    them, or so many, always the same.
    """
    interesting: list[set[int]] = [{0} for _ in range(6)]
    for rule in itertools.chain.from_iterable(map(rules_of, chain)):
        if call in rule["calls"]:
            for condition in itertools.chain(rule.get("when", []), *rule.get("any", [])):
                interesting[condition["arg"]] |= near(condition)
    unused = [1 if each == {0} else 0 for each in interesting]
    for args in _combine([sorted(each) for each in interesting]):
        yield [bpf.M64 if idle else each for idle, each in zip(unused, args, strict=True)]


def _combine(choices: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    count = 1
    for each in choices:
        count *= len(each)
    if count <= MOST_VECTORS:
        yield from itertools.product(*choices)
        return
    dice = random.Random(count)
    for _ in range(MOST_VECTORS):
        yield [dice.choice(each) for each in choices]


def near(condition: dict[str, Any]) -> set[int]:
    found = {0, bpf.M64}
    for value in condition.get("values", [condition.get("value")]):
        found |= {value, value | GARBAGE}
        if condition["op"] != "masked_eq":
            found |= {(value + 1) & bpf.M64, (value - 1) & bpf.M64}
    return found


# --- Text ---------------------------------------------------------------------------------------


def write_toml(value: Any) -> str:
    """Just enough TOML for a document."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {write_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(write_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def write_document(document: Document) -> str:
    """The file."""
    lines = [f"{key} = {write_toml(document[key])}" for key in document if key not in TABLES]
    if document.get("groups"):
        lines += ["[groups]", *(f"{k} = {write_toml(v)}" for k, v in document["groups"].items())]
    for rule in rules_of(document):
        lines += ["[[rule]]", *(f"{key} = {write_toml(each)}" for key, each in rule.items())]
    return "\n".join(lines)


TABLES: Final = ("groups", "rule")


def make_policy(*chain: Document) -> Policy:
    """The policies "made0", "made1", …, each extending the next."""
    texts = []
    for index, document in enumerate(chain):
        base = {"extends": f"made{index + 1}"} if index + 1 < len(chain) else {}
        texts.append(Text(f"made{index}", write_document({**base, **document}).encode()))
    return Policy(texts[0].name, texts[0].text, tuple(texts[1:]))
