"""What is compiled of a policy against a naive reading of it: the shipped ones, and random ones.

Catalogue: SC-01, SC-03, SC-11.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.policy import action
from jail.policy.action import REPORTS, Report, decide_return, silence_return
from jail.policy.compile import compile_policy, compile_ruleset, read_target
from jail.policy.load import Policy, list_policies, load_policy
from jail.policy.rule import Condition, Rule, Ruleset, Target
from jail.policy.shadow import implies
from tests import bpf
from tests.policy_reading import (
    KILL_DATA,
    LOG,
    MACHINES,
    USER_NOTIF,
    Document,
    compiled,
    make_policy,
    names,
    number,
    read_chain,
    read_default,
    read_naively,
    rules_of,
    spread_groups,
    telling_arguments,
)

pytestmark = pytest.mark.beside

SHIPPED: Final = list_policies()
EVERY_NUMBER: Final = (
    *range(1024),
    *range(1024, 1 << 16, 997),
    0x3FFFFFFF,
    1 << 31,
    bpf.M32 - 1,
    bpf.M32,
)

# --- The shipped ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_no_call_is_decided_by_accident(name: str, machine: str, report: Report) -> None:
    chain = spread_groups(read_chain(name))
    program = compiled(load_policy(name), machine, report)
    target = machine, read_target(machine).kernel
    for nr, call in names(machine).items():
        for args in telling_arguments(chain, call):
            expected = read_naively(chain, target, call, args, report)
            found = bpf.run_filter(program, MACHINES[machine], nr, args)
            assert found == expected, (call, [hex(each) for each in args])


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_that_are_no_call_s_have_the_default(
    name: str, machine: str, report: Report
) -> None:
    program = compiled(load_policy(name), machine, report)
    default = read_default(read_chain(name), report)
    unasked = read_default(read_chain(name), "none")
    for nr in set(EVERY_NUMBER) - set(names(machine)):
        for args in ([0] * 6, [bpf.M64] * 6):
            # A tracer's -1 is no call, and nobody is asked what to say to it.
            expected = unasked if nr >> 31 else default
            assert bpf.run_filter(program, MACHINES[machine], nr, args) == expected, hex(nr)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_model_decides_as_the_filter_does(name: str, machine: str) -> None:
    chain = spread_groups(read_chain(name))
    policy, target = load_policy(name), read_target(machine)
    ruleset = policy.read_rules(target)
    program = compiled(policy, machine)
    for nr, call in names(machine).items():
        for args in itertools.islice(telling_arguments(chain, call), 2000):
            decision = ruleset.decide(target, call, args)
            found = bpf.run_filter(program, MACHINES[machine], nr, args)
            assert decide_return(decision.action, False, "none") == found, call
            assert decision.passes == (found in (bpf.ALLOW, LOG)), call


FOREIGN: Final = [
    ("x86_64", bpf.I386),
    ("x86_64", bpf.AARCH64),
    ("x86_64", 0),
    ("aarch64", bpf.ARM),
    ("aarch64", bpf.X86_64),
]


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize(("machine", "foreign"), FOREIGN)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_call_of_a_foreign_abi_ends_the_program(
    name: str, machine: str, foreign: int, report: Report
) -> None:
    program = compiled(load_policy(name), machine, report)
    for nr in (*range(1024), -1, 1 << 31, *range(bpf.X32_BIT, bpf.X32_BIT + 600)):
        assert bpf.run_filter(program, foreign, nr) == bpf.KILL_PROCESS


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_every_x32_call_ends_the_program(name: str, report: Report) -> None:
    program = compiled(load_policy(name), "x86_64", report)
    for nr in (*range(1024), 0x3FFFFFFF):
        assert bpf.run_filter(program, bpf.X86_64, bpf.X32_BIT | nr) == bpf.KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_filter_decides_nothing_before_the_architecture_is_known(
    name: str, machine: str
) -> None:
    """The call's number is only meaningful once the architecture has been compared."""
    first = bpf.parse_program(compiled(load_policy(name), machine))[0]
    assert first == (0x20, 0, 0, 4)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_always_allowed_costs_no_run_of_the_filter(
    name: str, machine: str, report: Report
) -> None:
    """The kernel keeps a bitmap of the calls that it need not ask about."""
    chain = spread_groups(read_chain(name))
    target = machine, read_target(machine).kernel
    program = compiled(load_policy(name), machine, report)
    free = 0
    for nr, call in names(machine).items():
        conditional = any(
            call in rule["calls"] and ("when" in rule or "any" in rule)
            for document in chain
            for rule in rules_of(document)
        )
        allowed = read_naively(chain, target, call, [0] * 6, report) == bpf.ALLOW
        if allowed and not conditional:
            assert bpf.is_always_allowed(program, MACHINES[machine], nr), call
            free += 1
        elif not allowed:
            assert not bpf.is_always_allowed(program, MACHINES[machine], nr), call
    assert free > 40


# --- Random ones --------------------------------------------------------------------------------

CALLS: Final = ["read", "ioctl", "socket", "futex", "personality"]
GROUPS: Final = {"files": ["read", "ioctl"], "talk": ["socket", "futex"]}
KERNEL: Final = (6, 1)
NUMBERS: Final = st.one_of(
    st.sampled_from([0, 1, 2, 3, 8, 0x5412, 0xFFFFFFFF, 1 << 31, 1 << 32, 1 << 63, bpf.M64]),
    st.integers(0, 15),
    st.integers(0, bpf.M64),
)
ACTIONS: Final = st.sampled_from(
    [
        "allow",
        "kill",
        "log",
        "notify",
        {"errno": "EPERM"},
        {"errno": "ENOSYS"},
        {"errno": "EACCES"},
    ]
)


@st.composite
def conditions(draw: st.DrawFn) -> list[dict[str, Any]]:
    args = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
    return [draw(one_condition(arg)) for arg in args]


@st.composite
def one_condition(draw: st.DrawFn, arg: int) -> dict[str, Any]:
    op = draw(st.sampled_from(["masked_eq", "masked_eq", "eq", "ne", "lt", "le", "gt", "ge"]))
    if op not in ("eq", "masked_eq"):
        return {"arg": arg, "op": op, "value": draw(NUMBERS)}
    values = draw(st.lists(NUMBERS, min_size=1, max_size=3))
    if op == "eq":
        return {"arg": arg, "op": op, "values": list(dict.fromkeys(values))}
    mask = draw(NUMBERS.filter(bool))
    kept = list(dict.fromkeys(each & mask for each in values))
    return {"arg": arg, "op": op, "mask": mask, "values": kept}


@st.composite
def documents(draw: st.DrawFn, *, with_groups: bool = True) -> Document:
    rules: list[dict[str, Any]] = []
    decided: set[str] = set()
    for _ in range(draw(st.integers(1, 7))):
        free = [each for each in CALLS if each not in decided]
        if not free:
            break
        calls = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))
        rule = draw(rules_for(calls))
        if "when" not in rule and "any" not in rule and not rule.keys() & GUARDS:
            decided |= set(calls)
        rules.append(rule)
    groups = {"groups": GROUPS} if with_groups else {}
    return {"default": draw(ACTIONS), **groups, "rule": rules}


GUARDS: Final = {"machines", "min_kernel"}


@st.composite
def rules_for(draw: st.DrawFn, calls: list[str]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "calls": draw(st.permutations(name_groups(calls))),
        "action": draw(ACTIONS),
        "why": "because",
    }
    shape = draw(st.sampled_from(["always", "when", "any"]))
    if shape == "when":
        rule["when"] = draw(conditions())
    elif shape == "any":
        rule["any"] = draw(st.lists(conditions(), min_size=1, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        rule["quiet"] = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        rule["machines"] = draw(st.sampled_from([["x86_64"], ["aarch64"], list(MACHINES)]))
    if draw(st.integers(0, 3)) == 0:
        rule["min_kernel"] = draw(st.sampled_from(["5.19", "6.1", "6.2", "10.0"]))
    return rule


def name_groups(calls: Sequence[str]) -> list[str]:
    """The same calls, whole groups by their names."""
    found = list(calls)
    for name, members in GROUPS.items():
        if set(members) <= set(found):
            found = [f"@{name}", *(each for each in found if each not in members)]
    return found


def compile_for(policy: Policy, machine: str, report: Report) -> bytes:
    return compile_ruleset(policy.ruleset, Target(machine, KERNEL), report)


def load_or_reject(*chain: Document) -> Policy:
    """Another example, please, where there are rules that can't decide anything."""
    made = make_policy(*chain)
    try:
        assert made.default
    except SpecError as error:
        said = str(error)
        assert any(each in said for each in ("already", "came before")), said
        assume(False)
    return made


def assert_read_naively(made: Policy, chain: list[Document], data: st.DataObject) -> None:
    spread = spread_groups(chain)
    report = data.draw(st.sampled_from(REPORTS))
    for machine, arch in MACHINES.items():
        program = compile_for(made, machine, report)
        for call in (*CALLS, "write"):
            nr = number(call, machine)
            vectors = list(itertools.islice(telling_arguments(spread, call), 300))
            vectors.append(data.draw(st.lists(NUMBERS, min_size=6, max_size=6)))
            for args in vectors:
                expected = read_naively(spread, (machine, KERNEL), call, args, report)
                found = bpf.run_filter(program, arch, nr, args)
                assert found == expected, (machine, call, [hex(each) for each in args])


RANDOM: Final = settings(
    max_examples=120,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@RANDOM
@given(documents(), st.data())
def test_a_random_policy_compiles_to_what_a_naive_reader_expects(
    document: Document, data: st.DataObject
) -> None:
    assert_read_naively(load_or_reject(document), [document], data)


@RANDOM
@given(documents(with_groups=False), documents(), st.booleans(), st.data())
def test_a_policy_that_extends_another_is_read_before_it(
    own: Document, base: Document, has_default: bool, data: st.DataObject
) -> None:
    if not has_default:
        del own["default"]
    assert_read_naively(load_or_reject(own, base), [own, base], data)


@settings(max_examples=50, deadline=None, database=None)
@given(documents(), st.sampled_from(REPORTS))
@example({"default": "allow", "rule": []}, "none")
def test_whatever_the_policy_foreign_abis_end_the_program(
    document: Document, report: Report
) -> None:
    program = compile_for(load_or_reject(document), "x86_64", report)
    for nr in (0, 1, 16, 135, 600, bpf.M32):
        assert bpf.run_filter(program, bpf.I386, nr) == bpf.KILL_PROCESS
        assert bpf.run_filter(program, bpf.AARCH64, nr) == bpf.KILL_PROCESS


NEAR: Final = (0, 1, 2, 3, 4, 7, 8, 9, (1 << 32) - 1, 1 << 32, 1 << 63, bpf.M64 - 1, bpf.M64)
ONES: Final = [
    *(Condition(0, op, (value,)) for op in ("ne", "lt", "le", "gt", "ge") for value in NEAR),
    *(Condition(0, "eq", values) for values in itertools.combinations(NEAR, 2)),
    *(Condition(0, "eq", (value,)) for value in NEAR),
    *(
        Condition(0, "masked_eq", tuple({value & mask, other & mask}), mask)
        for mask in (1, 3, 8, 0xFFFFFFFF, bpf.M64)
        for value, other in itertools.product((0, 1, 8, 9), repeat=2)
    ),
]


def test_a_condition_that_is_said_to_imply_another_never_holds_without_it() -> None:
    where = {each: {value for value in NEAR if each.holds([value])} for each in ONES}
    found = 0
    for later, earlier in itertools.permutations(where, 2):
        if implies((later,), (earlier,)):
            assert where[later] <= where[earlier], (later, earlier)
            found += 1
    assert found > 1000


def test_lists_of_conditions_imply_shorter_ones_and_never_those_on_other_arguments() -> None:
    one, other = Condition(0, "eq", (1,)), Condition(1, "eq", (1,))
    assert implies((one, other), (one,))
    assert implies((one, other), (other, one))
    assert implies((one,), ())
    assert not implies((one,), (one, other))
    assert not implies((one,), (other,))
    assert not implies((), (one,))


# --- Actions ------------------------------------------------------------------------------------


def test_actions_have_the_kernel_s_numbers() -> None:
    assert (action.ALLOW, action.ERRNO, action.KILL_PROCESS) == (
        bpf.ALLOW,
        bpf.ERRNO,
        bpf.KILL_PROCESS,
    )
    assert (action.USER_NOTIF, action.LOG, action.KILL_DATA) == (USER_NOTIF, LOG, KILL_DATA)
    assert (action.TRAP, action.TRACE) == (0x00030000, 0x7FF00000)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("word", ["allow", "kill", "log", "notify", "trap", "trace", "EPERM"])
def test_every_action_is_an_answer_and_a_default(word: str, quiet: bool, report: Report) -> None:
    """Those that no file can ask for among them."""
    expected = decide_return(word, quiet, report)
    rule = Rule(("read",), word, ((),), "because", quiet=quiet)
    for machine, arch in MACHINES.items():
        target = Target(machine, KERNEL)
        program = compile_ruleset(Ruleset(word, (rule,)), target, report)
        assert bpf.run_filter(program, arch, number("read", machine)) == expected
        default = bpf.run_filter(program, arch, number("write", machine))
        assert default == decide_return(word, False, report)


@pytest.mark.parametrize("word", ["allow", "kill", "log", "notify", "trap", "trace", "EPERM"])
def test_a_report_without_a_listener_is_the_plain_answer(word: str) -> None:
    plain = decide_return(word, False, "none")
    assert {silence_return(decide_return(word, False, each)) for each in REPORTS} == {plain}


def test_quiet_rules_are_heard_of_only_by_who_wants_to_hear_all() -> None:
    enosys = decide_return("ENOSYS", False, "none")
    assert [decide_return("ENOSYS", True, each) for each in REPORTS] == [
        enosys,
        enosys,
        USER_NOTIF | (enosys & 0xFFFF),
        enosys,
        action.TRAP | action.TRAP_MARK | (enosys & 0xFFFF),
    ]


def test_what_is_decided_on_this_machine_costs_nothing_further() -> None:
    here = {"calls": ["read"], "action": "allow", "why": "because", "machines": ["x86_64"]}
    one = {"arg": 0, "op": "eq", "value": 1}
    behind = [
        {**here, "machines": ["x86_64", "aarch64"], "when": [{**one, "value": value}]}
        for value in range(5)
    ]
    short, long = (
        make_policy({"default": "kill", "rule": rules}) for rules in ([here], [here, *behind])
    )
    assert compile_policy(long, "x86_64") == compile_policy(short, "x86_64")
    assert len(compile_policy(long, "aarch64")) > len(compile_policy(short, "aarch64"))


def test_a_call_that_libseccomp_does_not_know_is_named_with_its_policy() -> None:
    made = make_policy({"default": "kill", "rule": [NEWER]})
    with pytest.raises(
        SpecError, match=r"seccomp policy made0: rule 1 \(.*\): libseccomp knows no call frobnicate"
    ):
        compile_policy(made)
    assert compile_policy(make_policy({"default": "kill", "rule": [{**NEWER, "optional": True}]}))


NEWER: Final = {"calls": ["frobnicate"], "action": "allow", "why": "because"}
