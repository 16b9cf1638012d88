"""Seccomp profiles of Docker and the OCI: how to write one, and what it says, naively read."""

from __future__ import annotations

import errno
import itertools
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jail.policy.number import read_names
from jail.policy.oci import parse_profile
from jail.policy.rule import Ruleset, Target
from tests import bpf

DEBIANS: Final = Path("/usr/share/containers/seccomp.json")
X86: Final = Target("x86_64", (6, 1))
ARM: Final = Target("aarch64", (6, 1))
TARGETS: Final = (X86, ARM)
ALLOW: Final = "SCMP_ACT_ALLOW"
ERRNO: Final = "SCMP_ACT_ERRNO"


def parse(profile: Any, target: Target = X86) -> Ruleset:
    text = profile if isinstance(profile, bytes) else json.dumps(profile).encode()
    return parse_profile(text, "a.json", target)


def make_profile(*syscalls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": ERRNO, "defaultErrnoRet": 38, "syscalls": list(syscalls), **more}


def make_entry(*names: str, action: str = ALLOW, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def make_arg(index: int, op: str, value: int, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": value_two}


def decide(profile: Any, call: str, *args: int, target: Target = X86) -> str:
    return parse(profile, target).decide(target, call, args).action


COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "SCMP_CMP_NE": operator.ne,
    "SCMP_CMP_LT": operator.lt,
    "SCMP_CMP_LE": operator.le,
    "SCMP_CMP_EQ": operator.eq,
    "SCMP_CMP_GE": operator.ge,
    "SCMP_CMP_GT": operator.gt,
}
GO: Final = {"x86_64": "amd64", "aarch64": "arm64"}
STRICTEST: Final = ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG", "ALLOW")


def read_naively(profile: dict[str, Any], call: str, args: Sequence[int], target: Target) -> str:
    """As runc tells libseccomp, and as that answers; the strictest where it leaves it open."""
    there = [each for each in profile["syscalls"] if is_there(each, target)]
    default = name_action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    own = [
        each
        for each in there
        if call in each["names"]
        and written(each["action"], each.get("errnoRet"))
        != written(profile["defaultAction"], profile.get("defaultErrnoRet"))
    ]
    always = [each for each in own if any(holds_always(one) for one in split(each))]
    if always:
        return name_action(always[0]["action"], always[0].get("errnoRet"))
    holding = [each for each in own if any(all_hold(one, args) for one in split(each))]
    if holding:
        first = min(holding, key=lambda each: severity(each["action"]))
        return name_action(first["action"], first.get("errnoRet"))
    return default if default in ("allow", "log") or is_old(there, call, target) else "ENOSYS"


def is_there(entry: dict[str, Any], target: Target) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    return not (
        includes.get("caps")
        or (includes.get("arches") and GO[target.machine] not in includes["arches"])
        or (includes.get("minKernel") and not is_new_enough(includes["minKernel"], target))
        or GO[target.machine] in (excludes.get("arches") or [])
        or (excludes.get("minKernel") and is_new_enough(excludes["minKernel"], target))
    )


def is_new_enough(version: str, target: Target) -> bool:
    major, minor = map(int, version.split("."))
    return target.kernel >= (major, minor)


def is_old(there: list[dict[str, Any]], call: str, target: Target) -> bool:
    """Whether the kernel had the call when the profile was written."""
    numbers = {name: number for number, name in read_names(target.machine).items()}
    named = [numbers[name] for each in there for name in each["names"] if name in numbers]
    return not named or numbers.get(call, 10**6) <= max(named)


def split(entry: dict[str, Any]) -> list[list[dict[str, Any]]]:
    args = entry.get("args") or []
    indices = [each["index"] for each in args]
    return [[each] for each in args] if len(set(indices)) < len(indices) else [args]


def holds_always(args: list[dict[str, Any]]) -> bool:
    return all(each["op"] == "SCMP_CMP_MASKED_EQ" and each["value"] == 0 for each in args)


def all_hold(args: list[dict[str, Any]], given_args: Sequence[int]) -> bool:
    return all(holds(each, given_args[each["index"]]) for each in args)


def holds(arg: dict[str, Any], value: int) -> bool:
    if arg["op"] == "SCMP_CMP_MASKED_EQ":
        return bool(value & arg["value"] == arg["valueTwo"] & arg["value"])
    return COMPARE[arg["op"]](value, arg["value"])


def written(action: str, number: int | None) -> tuple[str, int]:
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return action, errno.EPERM if number is None else number
    return ("SCMP_ACT_KILL" if action == "SCMP_ACT_KILL_THREAD" else action), 0


def name_action(action: str, number: int | None) -> str:
    short = action.removeprefix("SCMP_ACT_")
    if short == "ERRNO":
        return errno.errorcode[errno.EPERM if number is None else number]
    if short == "TRACE":
        return "ENOSYS"
    return "kill" if short.startswith("KILL") else short.lower()


def severity(action: str) -> int:
    short = action.removeprefix("SCMP_ACT_").split("_")[0].replace("TRACE", "ERRNO")
    return STRICTEST.index(short)


def telling_arguments(profile: dict[str, Any], call: str) -> Iterator[list[int]]:
    """Every combination of what the comparisons look for, and of what is near it."""
    interesting: list[set[int]] = [{0} for _ in range(6)]
    for entry in profile["syscalls"]:
        for arg in (entry.get("args") or []) if call in entry["names"] else []:
            for value in (arg["value"], arg["valueTwo"], 0, bpf.M64):
                near = {value - 1, value, value + 1, value ^ 1 << 32}
                interesting[arg["index"]] |= {each & bpf.M64 for each in near}
    yield from map(list, itertools.product(*interesting))


CALLS: Final = ("read", "socket", "statx", "no_such_call")
ACTIONS: Final = tuple(f"SCMP_ACT_{each}" for each in STRICTEST)
values = st.sampled_from([0, 1, 2, 3, 5, 2**31, 2**32, 2**32 + 1, 2**63, bpf.M64])
arguments = st.fixed_dictionaries(
    {
        "index": st.integers(0, 1),
        "value": values,
        "valueTwo": values,
        "op": st.sampled_from([*COMPARE, "SCMP_CMP_MASKED_EQ"]),
    }
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "caps": st.lists(st.sampled_from(["CAP_SYS_ADMIN", "CAP_CHOWN"]), max_size=2),
        "arches": st.lists(st.sampled_from(["amd64", "arm64", "x32", "s390x"]), max_size=2),
        "minKernel": st.sampled_from(["", "4.8", "6.1", "6.2", "7.0"]),
    },
)
entries = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from(CALLS), min_size=1, max_size=3),
        "action": st.sampled_from(ACTIONS),
        "args": st.none() | st.lists(arguments, max_size=3),
    },
    optional={
        "errnoRet": st.sampled_from([1, 13, 38]),
        "comment": st.text(max_size=8),
        "includes": filters,
        "excludes": filters,
    },
)
profiles = st.fixed_dictionaries(
    {"defaultAction": st.sampled_from(ACTIONS), "syscalls": st.lists(entries, max_size=6)},
    optional={"defaultErrnoRet": st.sampled_from([1, 13, 38])},
)
patience = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
