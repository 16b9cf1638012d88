"""Policies as profiles for Docker: never more is allowed, and what is less is said."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jail.policy import libseccomp
from jail.policy.compile import compile_ruleset
from jail.policy.export import MOST_INSTRUCTIONS, Export, export_profile
from jail.policy.load import list_policies, load_policy
from jail.policy.number import read_names
from jail.policy.oci import OPS, parse_profile
from jail.policy.rule import Condition, Rule, Ruleset, Target
from tests import bpf
from tests.command import run_jail
from tests.oci import is_there, patience

pytestmark = pytest.mark.beside

MACHINES: Final = {"x86_64": bpf.X86_64, "aarch64": bpf.AARCH64}
KERNELS: Final = ((4, 0), (6, 1), (7, 0))
KERNEL_LIMIT: Final = 4096
MOST_TRIED: Final = 400
PLAIN: Final = {"allow": bpf.ALLOW, "kill": bpf.KILL_PROCESS, "notify": bpf.ALLOW}


@functools.cache
def export(name: str) -> Export:
    names = {each for machine in MACHINES for each in read_names(machine).values()}
    return export_profile(load_policy(name).ruleset, names)


# --- As Docker and runc read it ------------------------------------------------------------------

PROFILE: Final = {"defaultAction": str, "defaultErrnoRet": int, "archMap": list, "syscalls": list}
SYSCALL: Final = {
    "names": list,
    "action": str,
    "errnoRet": int,
    "args": list,
    "comment": str,
    "includes": dict,
    "excludes": dict,
}
ARGUMENT: Final = {"index": int, "value": int, "valueTwo": int, "op": str}
FILTER: Final = {"caps": list, "arches": list, "minKernel": str}


def check_fields(table: dict[str, Any], known: Mapping[str, type], *needed: str) -> None:
    assert set(needed) <= set(table) <= set(known)
    for key, value in table.items():
        assert type(value) is known[key], key


def read_as_docker(text: str) -> dict[str, Any]:
    """The fields of moby's structs and nothing else, each of its type."""
    profile: dict[str, Any] = json.loads(text)
    check_fields(profile, PROFILE, "defaultAction", "archMap", "syscalls")
    for syscall in profile["syscalls"]:
        check_fields(syscall, SYSCALL, "names", "action")
        assert syscall["names"] and all(type(name) is str for name in syscall["names"])
        assert syscall["action"].startswith("SCMP_ACT_")
        assert ("errnoRet" in syscall) == (syscall["action"] == "SCMP_ACT_ERRNO")
        for arg in syscall["args"]:
            check_fields(arg, ARGUMENT, *ARGUMENT)
            assert 0 <= arg["index"] < 6 and arg["op"] in OPS
            assert 0 <= arg["value"] < 2**64 and 0 <= arg["valueTwo"] < 2**64
        indices = [arg["index"] for arg in syscall["args"]]
        assert len(set(indices)) == len(indices)
        for key in ("includes", "excludes"):
            check_fields(syscall[key], FILTER)
    return profile


def compile_as_runc(profile: dict[str, Any], target: Target) -> bytes:
    """With libseccomp, every rule as it stands; it refuses those that contradict each other."""
    library = libseccomp.read_binding()
    arch = {"x86_64": library.Arch.X86_64, "aarch64": library.Arch.AARCH64}[target.machine]
    default = make_action(library, profile["defaultAction"], profile.get("defaultErrnoRet", 1))
    filter_ = library.SyscallFilter(default)
    if int(arch) != int(library.system_arch()):
        filter_.add_arch(arch)
        filter_.remove_arch(library.system_arch())
    filter_.set_attr(8, 2)  # SCMP_FLTATR_CTL_OPTIMIZE, the binary tree
    for entry in profile["syscalls"]:
        action = make_action(library, entry["action"], entry.get("errnoRet", 1))
        if not is_there(entry, target) or action == default:
            continue
        for name in entry["names"]:
            if library.resolve_syscall(arch, name) >= 0:
                filter_.add_rule(action, name, *[make_arg(library, each) for each in entry["args"]])
    with os.fdopen(os.memfd_create("bpf"), "w+b") as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


def make_action(library: Any, action: str, number: int) -> Any:
    if action == "SCMP_ACT_ERRNO":
        return library.ERRNO(number)
    return getattr(library, action.removeprefix("SCMP_ACT_"))


def make_arg(library: Any, arg: dict[str, Any]) -> Any:
    op = getattr(library, arg["op"].removeprefix("SCMP_CMP_"))
    values = (
        (arg["value"], arg["valueTwo"]) if arg["op"] == "SCMP_CMP_MASKED_EQ" else (arg["value"],)
    )
    return library.Arg(arg["index"], op, *values)


# --- Arguments that tell -------------------------------------------------------------------------


def telling_arguments(ruleset: Ruleset, call: str) -> Iterator[list[int]]:
    """What the conditions on this call look for, and what is a bit or a step away from it."""
    interesting: list[set[int]] = [{0} for _ in range(6)]
    dice = random.Random(call)
    for rule in ruleset.rules:
        for condition in itertools.chain(*rule.alternatives) if call in rule.calls else ():
            for value in condition.values:
                flipped = {value ^ 1 << dice.randrange(32), value ^ 1 << dice.randrange(64)}
                near = {value, value - 1, value + 1, value | 0xDEADBEEF << 32, 2**64 - 1, *flipped}
                interesting[condition.arg] |= {each & bpf.M64 for each in near}
    choices = [sorted(each) for each in interesting]
    count = 1
    for each in choices:
        count *= len(each)
    if count <= MOST_TRIED:
        yield from map(list, itertools.product(*choices))
    else:
        for _ in range(MOST_TRIED):
            yield [dice.choice(each) for each in choices]


def find_kernels(ruleset: Ruleset) -> tuple[tuple[int, int], ...]:
    """Those for which it may say different things."""
    return KERNELS if any(rule.min_kernel for rule in ruleset.rules) else KERNELS[:1]


def to_return(action: str) -> int:
    return PLAIN.get(action) or bpf.ERRNO | int(getattr(errno, action))


# --- The shipped ones ----------------------------------------------------------------------------

POLICIES: Final = list_policies()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", POLICIES)
def test_docker_would_decide_as_the_policy_or_refuse_where_a_note_says_so(
    name: str, machine: str
) -> None:
    ruleset, exported = load_policy(name).ruleset, export(name)
    profile = read_as_docker(exported.to_json())
    for kernel in find_kernels(ruleset):
        target = Target(machine, kernel)
        program = compile_as_runc(profile, target)
        assert len(program) // 8 <= KERNEL_LIMIT
        for number, call in read_names(machine).items():
            for args in telling_arguments(ruleset, call):
                expected = ruleset.decide(target, call, args)
                answer = bpf.run_filter(program, MACHINES[machine], number, args)
                if answer != to_return(expected.action):
                    assert answer != bpf.ALLOW, (call, args)
                    assert call in exported.notes, (call, args, hex(answer), expected.action)


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_read_back_is_the_policy_or_stricter_where_a_note_says_so(name: str) -> None:
    ruleset, exported = load_policy(name).ruleset, export(name)
    for machine, kernel in itertools.product(MACHINES, find_kernels(ruleset)):
        target = Target(machine, kernel)
        back = parse_profile(exported.to_json().encode(), f"{name}.json", target)
        for call in [*read_names(machine).values(), "no_such_call"]:
            for args in itertools.islice(telling_arguments(ruleset, call), 100):
                wanted, found = ruleset.decide(target, call, args), back.decide(target, call, args)
                if found.action != wanted.action.replace("notify", "allow"):
                    assert not found.passes, (call, args)
                    assert call in exported.notes, (call, args)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_read_back_is_compiled_as_it_says(name: str, machine: str) -> None:
    target = Target(machine, (6, 1))
    back = parse_profile(export(name).to_json().encode(), f"{name}.json", target)
    program = compile_ruleset(back, target)
    for number, call in read_names(machine).items():
        for args in itertools.islice(telling_arguments(back, call), 60):
            expected = to_return(back.decide(target, call, args).action)
            assert bpf.run_filter(program, MACHINES[machine], number, args) == expected, call


@pytest.mark.parametrize("name", POLICIES)
def test_little_is_lost(name: str) -> None:
    """Some errnos, and ids of processes that no process can have."""
    for call, notes in export(name).notes.items():
        for note in notes:
            assert note.startswith("answers ") or "above bit 21 only" in note, (call, note)
    assert len(export(name).notes) <= 6


@pytest.mark.parametrize("name", POLICIES)
def test_no_foreign_abi_is_opened(name: str) -> None:
    profile = read_as_docker(export(name).to_json())
    assert profile["archMap"] == [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]
    program = compile_as_runc(profile, Target("x86_64", (6, 1)))
    for arch, number in ((bpf.I386, 4), (bpf.X86_64, 1 | bpf.X32_BIT)):
        assert bpf.run_filter(program, arch, number) == 0  # SECCOMP_RET_KILL_THREAD


def test_every_note_is_a_comment_too() -> None:
    exported = export("default")
    comments = [each["comment"] for each in exported.profile["syscalls"]]
    for call in exported.notes:
        assert any(each.startswith(f"less than the policy: {call} ") for each in comments)


# --- Any policy ----------------------------------------------------------------------------------

CALLS: Final = ("read", "write", "socket")
VALUES: Final = st.sampled_from([0, 1, 2, 3, 6, 2**31, 2**32, 2**63, bpf.M64])
conditions = st.one_of(
    st.builds(
        lambda arg, op, value: Condition(arg, op, (value,)),
        st.integers(0, 2),
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]),
        VALUES,
    ),
    st.builds(
        lambda arg, mask, value: Condition(arg, "masked_eq", (value & mask,), mask),
        st.integers(0, 2),
        VALUES.filter(bool),
        VALUES,
    ),
)
conjunctions = st.lists(conditions, max_size=2, unique_by=lambda each: each.arg).map(tuple)
rules = st.builds(
    lambda calls, action, alternatives, machines, kernel: Rule(
        tuple(calls), action, tuple(alternatives), "why", machines=machines, min_kernel=kernel
    ),
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=2, unique=True),
    st.sampled_from(["allow", "log", "notify", "kill", "trap", "EPERM", "ENOSYS"]),
    st.lists(conjunctions, min_size=1, max_size=2),
    st.sampled_from([(), (), ("x86_64",), ("aarch64",)]),
    st.sampled_from([None, None, (5, 0), (6, 2)]),
)
rulesets = st.builds(
    lambda default, each: Ruleset(default, tuple(each)),
    st.sampled_from(["allow", "log", "kill", "EPERM", "ENOSYS"]),
    st.lists(rules, max_size=4),
)
TANGLED: Final = Rule(
    ("read",), "allow", (tuple(Condition(arg, "ne", (5,)) for arg in range(3)),), "why"
)
NOT_ONE: Final = Rule(("read",), "EPERM", ((Condition(0, "eq", (1,)),),), "why")


@given(rulesets)
@example(Ruleset("ENOSYS", (NOT_ONE, Rule(("read",), "allow", ((),), "why"))))
@example(Ruleset("allow", (NOT_ONE, Rule(("read",), "kill", ((),), "why"))))
@example(Ruleset("kill", (Rule(("socket",), "kill", ((),), "why"),)))
@example(Ruleset("allow", (TANGLED, Rule(("read",), "log", ((),), "why"))))
@settings(patience, max_examples=80)
def test_any_policy_is_read_back_as_it_was_or_stricter_where_a_note_says_so(
    ruleset: Ruleset,
) -> None:
    exported = export_profile(ruleset, CALLS)
    text = json.dumps(read_as_docker(exported.to_json())).encode()
    for machine, kernel in itertools.product(MACHINES, find_kernels(ruleset)):
        target = Target(machine, kernel)
        back = parse_profile(text, "a.json", target)
        for call in CALLS:
            for args in itertools.islice(telling_arguments(ruleset, call), 60):
                wanted, found = ruleset.decide(target, call, args), back.decide(target, call, args)
                if found.action != wanted.action.replace("notify", "allow"):
                    assert not found.passes and call in exported.notes, (call, args)


masked = st.builds(
    lambda arg, mask, value: Condition(arg, "masked_eq", (value & mask,), mask),
    st.integers(0, 2),
    st.sampled_from([1, 3, 0xFF, 0xFFFFFFFF, bpf.M64]),
    st.integers(0, 4),
)
masked_rules = st.builds(
    lambda action, alternatives: Rule(("read",), action, tuple(alternatives), "why"),
    st.sampled_from(["allow", "EPERM", "kill"]),
    st.lists(
        st.lists(masked, max_size=2, unique_by=lambda each: each.arg).map(tuple),
        min_size=1,
        max_size=2,
    ),
)


@given(st.lists(masked_rules, max_size=3))
@settings(patience, max_examples=60)
def test_libseccomp_reads_it_so_where_flags_and_numbers_are_compared(own: list[Rule]) -> None:
    ruleset, target = Ruleset("ENOSYS", tuple(own)), Target("x86_64", (6, 1))
    exported = export_profile(ruleset)
    program = compile_as_runc(exported.profile, target)
    for args in itertools.islice(telling_arguments(ruleset, "read"), 200):
        expected = ruleset.decide(target, "read", args)
        answer = bpf.run_filter(program, bpf.X86_64, 0, args)
        if answer != to_return(expected.action):
            assert answer != bpf.ALLOW and "read" in exported.notes, args


def test_what_would_be_too_long_is_cut_until_the_kernel_takes_it() -> None:
    """Calls of which two arguments must not be some number, another one for each."""
    calls = list(read_names("x86_64").values())[:8]
    own = []
    for index, call in enumerate(calls, 2):
        for arg in (0, 1):
            condition = Condition(arg, "masked_eq", (index,), 0xFFFFFFFF)
            own.append(Rule((call,), "EPERM", ((condition,),), "why"))
        own.append(Rule((call,), "allow", ((),), "why"))
    exported = export_profile(Ruleset("ENOSYS", tuple(own)))
    program = compile_as_runc(exported.profile, Target("x86_64", (6, 1)))
    assert len(program) // 8 <= KERNEL_LIMIT
    assert len(program) // 8 <= MOST_INSTRUCTIONS
    assert set(exported.notes) == set(calls)


# --- The command ---------------------------------------------------------------------------------


def test_the_command_writes_a_profile_and_says_what_is_less(tmp_path: Path) -> None:
    path = tmp_path / "default.json"
    done = run_jail("export", "-o", str(path), "default", command="policy")
    assert done.status == 0 and done.stdout == b""
    assert "note: default: prlimit64 answers ENOSYS instead of EPERM" in done.stderr
    assert path.read_text() == export("default").to_json()
    shown = run_jail("export", "default", command="policy")
    assert shown.stdout == path.read_bytes()


def test_the_command_says_why_it_could_not_write(tmp_path: Path) -> None:
    done = run_jail("export", "-o", str(tmp_path / "no/such"), "default", command="policy")
    assert done.status == 125
    assert "No such file or directory" in done.stderr
