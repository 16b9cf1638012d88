"""Policies put to the test by calls that are really made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from jail.errors import HostError
from jail.policy import interpreter
from jail.policy.compile import compile_policy, compile_ruleset, read_target
from jail.policy.libseccomp import INSTRUCTION, RETURN
from jail.policy.load import Policy, list_policies, load_policy, make_policy
from jail.policy.number import read_names
from jail.policy.rule import Condition, Rule, Ruleset
from jail.trial.case import HARMLESS, NOBODY, Answer, Case, make_cases
from jail.trial.run import make_calls, shift_errnos, simulate_call, try_cases, try_policy
from tests.command import run_jail
from tests.part import require

pytestmark = pytest.mark.beside

TARGET: Final = read_target()
NUMBERS: Final = {name: number for number, name in read_names(TARGET.machine).items()}
ALLOW_ALL: Final = INSTRUCTION.pack(RETURN, 0, 0, interpreter.ALLOW)
LOW: Final = 0xFFFFFFFF


def make_rule(
    *calls: str, action: str = "allow", when: tuple[tuple[Condition, ...], ...] = ((),)
) -> Rule:
    return Rule(calls, action, when, "to be tried")


def compare(arg: int, op: str, *values: int, mask: int = 0) -> Condition:
    return Condition(arg, op, values, mask)


def make(default: str, *rules: Rule) -> Policy:
    return make_policy("made", Ruleset(default, rules))


@pytest.mark.parametrize("name", list_policies())
def test_every_shipped_policy_does_what_it_says(name: str) -> None:
    report = try_policy(load_policy(name))
    assert report.ok, report.to_text()
    counts = report.count()
    assert counts["made"] > 600
    assert counts["simulated"] <= 3  # sync, and what the kernel lets past every filter


def test_podmans_profile_does_what_it_says() -> None:
    require("containers")
    report = try_policy(load_policy("/usr/share/containers/seccomp.json"))
    assert report.ok, report.to_text()
    assert report.count()["made"] > 500


NARROW: Final = make(
    "kill",
    make_rule("execve", "exit_group"),
    make_rule("getppid", action="EXDEV"),
    make_rule("getpid", action="log"),
    make_rule("getuid", action="notify"),
    make_rule("gettid", action="trap"),
    make_rule("read", when=((compare(0, "lt", 3), compare(2, "ge", 1 << 33)),)),
    make_rule("write", when=((compare(0, "ne", 1 << 32),), (compare(1, "eq", 5, 7),))),
    make_rule("lseek", action="EACCES", when=((compare(2, "masked_eq", 1, 3, mask=0xFF),),)),
    make_rule("fcntl", when=((compare(1, "gt", 1024),), (compare(1, "le", 0),))),
    make_rule("pause"),
    make_rule("exit"),
    make_rule("fork", "vfork", "clone"),
)


def test_a_policy_that_refuses_nearly_all_can_be_tried() -> None:
    report = try_policy(NARROW)
    assert report.ok, report.to_text()
    tried = {each.title: each for each in report.tried}
    # two values of two alternatives of each, and each again without what the condition wants
    assert tried["read"].made == 3
    assert tried["write"].made == 6
    assert tried["lseek"].made == 4
    assert tried["fcntl"].made == 4
    assert not any(each.never for each in report.tried)


def refuse_others(*rules: Rule, default: str = "ENOSYS") -> Ruleset:
    return Ruleset(default, rules)


READ, WRITE = make_rule("read"), make_rule("write")
WRITE_ABOVE: Final = make_rule("write", when=((compare(0, "gt", 5),),))
WRITE_FROM: Final = make_rule("write", when=((compare(0, "ge", 5),),))
WRONG: Final = {
    "a rule is missing": (refuse_others(READ, WRITE), refuse_others(READ), "write"),
    "a rule too many": (refuse_others(READ), refuse_others(READ, WRITE), "every other call"),
    "another errno": (
        refuse_others(READ),
        refuse_others(READ, default="EPERM"),
        "every other call",
    ),
    "no condition": (refuse_others(WRITE_ABOVE), refuse_others(WRITE), "write"),
    "one value too many": (refuse_others(WRITE_ABOVE), refuse_others(WRITE_FROM), "write"),
    "it kills": (
        refuse_others(make_rule("read", action="EPERM")),
        refuse_others(make_rule("read", action="kill")),
        "read",
    ),
    "it does not kill": (
        refuse_others(make_rule("read", action="kill")),
        refuse_others(READ),
        "read",
    ),
}


@pytest.mark.parametrize(("said", "loaded", "wrong"), WRONG.values(), ids=WRONG)
def test_a_filter_that_says_something_else_is_found_out(
    said: Ruleset, loaded: Ruleset, wrong: str
) -> None:
    report = try_policy(make_policy("made", said), compile_ruleset(loaded, TARGET))
    assert not report.ok
    assert [each.title for each in report.tried if each.wrong] == [wrong], report.to_text()


def test_without_a_filter_every_call_is_made() -> None:
    """The control: nothing but a filter gives the answers by which a refusal is known."""
    cases = list(make_cases(load_policy("default").ruleset, TARGET, NUMBERS))
    outcomes = try_cases(cases, ALLOW_ALL, TARGET.machine)
    answers = Counter(each.answer.to_action() for each in outcomes if each.answer is not None)
    assert set(answers) == {"made"}


def test_the_interpreter_says_what_the_kernel_says() -> None:
    policy = load_policy("default")
    bpf = compile_policy(policy)
    cases = [each for each in make_cases(policy.ruleset, TARGET, NUMBERS) if each.is_safe]
    answers = make_calls(bpf, [(each.number, each.args) for each in cases])
    for case, answer in zip(cases, answers, strict=True):
        simulated = simulate_call(bpf, TARGET.machine, case.number, case.args)
        assert simulated.to_action() == answer.to_action(), case


def test_answers_are_told_apart() -> None:
    calls = [
        (NUMBERS[name], args)
        for name, args in (
            ("getppid", (0,) * 6),
            ("close", (HARMLESS,) * 6),
            ("pause", (0,) * 6),
            ("exit_group", (7, 0, 0, 0, 0, 0)),
            ("kill", (0, 15, 0, 0, 0, 0)),
        )
    ]
    refusing = compile_ruleset(Ruleset("allow", (make_rule("getppid", action="EBADF"),)), TARGET)
    assert make_calls(refusing, calls, patience_s=0.2) == [
        Answer("returned", 2009),
        Answer("returned", 9),
        Answer("blocked", 0),
        Answer("ended", 7),
        Answer("signal", 15),
    ]
    killing = compile_ruleset(Ruleset("kill", ()), TARGET)
    assert {each.to_action() for each in make_calls(killing, calls)} == {"killed"}


def test_only_errnos_are_shifted() -> None:
    program = b"".join(INSTRUCTION.pack(RETURN, 0, 0, value) for value in (0x50001, 0x7FFF0000, 5))
    shifted = [value for *_, value in INSTRUCTION.iter_unpack(shift_errnos(program))]
    assert shifted == [0x50001 + 2000, 0x7FFF0000, 5]


def test_a_filter_that_the_kernel_does_not_take_is_the_host_s_failure() -> None:
    with pytest.raises(HostError, match="could not be loaded"):
        make_calls(b"\0" * 8, [(0, (0,) * 6)])


@pytest.mark.parametrize(
    ("call", "args", "is_safe"),
    [
        ("sync", (HARMLESS,), False),
        ("kill", (NOBODY, 15), True),
        ("kill", (HARMLESS, HARMLESS), True),
        ("kill", (HARMLESS, 9), False),
        ("kill", (1, 0), True),
        ("kill", (7 | 1 << 32, 9), False),
        ("tgkill", (NOBODY, 1, 9), False),
        ("read", (0, 0, 0), True),
    ],
)
def test_what_would_do_harm_is_not_made(call: str, args: tuple[int, ...], is_safe: bool) -> None:
    whole = (*args, *(0,) * (6 - len(args)))
    assert Case(call, NUMBERS[call], whole, "made", "held", 0).is_safe is is_safe


def test_what_earlier_rules_leave_nothing_of_is_said_to_be_never_reached() -> None:
    low = compare(0, "masked_eq", 1, mask=LOW)
    report = try_policy(
        make(
            "ENOSYS",
            make_rule("read", when=((low,), (compare(0, "masked_eq", 0, mask=1),))),
            make_rule("read", action="EPERM", when=((compare(0, "eq", 1),),)),
        )
    )
    assert report.ok
    assert report.tried[1].never == ["read"]
    assert "1 alternatives never reached" in report.to_text()


# --- The command ---------------------------------------------------------------------------------


def test_the_command_says_how_each_rule_went() -> None:
    done = run_jail("test", "strict", command="policy")
    assert done.status == 0, done.stderr
    *lines, sums = done.stdout.decode().splitlines()
    assert sums.startswith("strict: ") and sums.endswith(" 0 wrong")
    assert all(line.split()[0] in ("ok", "simulated", "untried") for line in lines)


def test_the_command_has_the_figures_for_programs_too(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'default = "allow"\n'
        '[[rule]]\ncalls = ["getppid"]\naction = { errno = "EPERM" }\nwhy = "x"\n'
    )
    done = run_jail("test", "--json", str(path), command="policy")
    assert done.status == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["rules"] == 1
    assert report["tried"][0] == {
        "calls": "getppid",
        "action": "EPERM",
        "outcome": "ok",
        "made": 1,
        "simulated": 0,
        "never": [],
        "wrong": [],
    }
