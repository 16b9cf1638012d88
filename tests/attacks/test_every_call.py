"""Every number that a system call can have, really made under each shipped policy.

Whatever the kernel has behind a number, the answer is the policy's: none is decided by accident,
and what is newer than the policy is refused by its default. Catalogue: SC-01, SC-03.
"""

from __future__ import annotations

from typing import Final

import pytest

from jail.policy.compile import compile_policy, read_target
from jail.policy.interpreter import ALLOW
from jail.policy.libseccomp import INSTRUCTION, RETURN
from jail.policy.load import list_policies, load_policy
from jail.policy.number import read_names
from jail.trial.case import UNFILTERED, Answer, Case, make_plain_case
from jail.trial.run import make_calls, simulate_call, try_cases
from tests.part import not_exercised

TARGET: Final = read_target()
NAMES: Final = read_names(TARGET.machine)
EVERY: Final = range(1024)
X32_BIT: Final = 0x40000000
ODD: Final = (1024, 0x7FFF, 0x0FFFFFFF, 0x7FFFFFFF & ~X32_BIT, 1 << 31, (1 << 31) + 1, 0xFFFFFFFF)
"""no kernel has these; from 2^31 on they are negative"""
X32: Final = (*range(8), *range(512, 548), 1023)
BAD: Final = (2**64 - 1,) * 6
ALLOW_ALL: Final = INSTRUCTION.pack(RETURN, 0, 0, ALLOW)
SIGILL, ENXIO, ENOSYS = 4, 6, 38
POLICIES: Final = list_policies()


def make_cases(policy: str) -> list[Case]:
    ruleset = load_policy(policy).ruleset
    return [make_plain_case(ruleset, TARGET, nr, NAMES.get(nr)) for nr in (*EVERY, *ODD)]


def find_real(cases: list[Case]) -> set[int]:
    """The numbers that this kernel has a call behind: those that it answers otherwise than it
    answers a number of nobody's."""
    outcomes = try_cases(cases, ALLOW_ALL, TARGET.machine)
    absent = Answer("returned", ENOSYS)
    return {each.case.number for each in outcomes if each.was_made and each.answer != absent}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_number_is_decided_as_the_policy_says(policy: str) -> None:
    cases = make_cases(policy)
    outcomes = try_cases(cases, compile_policy(load_policy(policy)), TARGET.machine)
    wrong = [each.to_text() for each in outcomes if not each.is_right]
    assert not wrong, wrong
    not_made = {each.case.call for each in outcomes if not each.was_made}
    unfiltered = {NAMES.get(each, f"call {each}") for each in UNFILTERED[TARGET.machine]}
    assert not_made <= {"sync"} | unfiltered


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_newer_than_the_policy_is_refused(policy: str) -> None:
    """The calls that this kernel has and no rule names: the control is that they are there."""
    cases = make_cases(policy)
    ruleset = load_policy(policy).ruleset
    named = {call for rule in ruleset.rules for call in rule.calls}
    new = [each for each in cases if each.call not in named and each.is_safe]
    real = find_real(new)
    if not real:
        not_exercised("this kernel has no call that the policy does not name")
    made = [each for each in new if each.number in real]
    outcomes = try_cases(made, compile_policy(load_policy(policy)), TARGET.machine)
    assert {each.answer.to_action() for each in outcomes if each.answer} == {ruleset.default}


def test_without_a_filter_the_same_calls_are_made() -> None:
    """The control: hundreds of them are there, and none answers as a filter does."""
    cases = [each for each in make_cases("default") if each.is_safe]
    outcomes = try_cases(cases, ALLOW_ALL, TARGET.machine)
    assert {each.answer.to_action() for each in outcomes if each.answer} == {"made"}
    assert len(find_real(cases)) > 250


@pytest.mark.skipif(TARGET.machine != "x86_64", reason="NOT-EXERCISED: only x86-64 has x32")
@pytest.mark.parametrize("policy", POLICIES)
def test_no_number_of_x32_is_a_way_around(policy: str) -> None:
    bpf = compile_policy(load_policy(policy))
    answers = make_calls(bpf, [(number | X32_BIT, BAD) for number in X32])
    assert {each.to_action() for each in answers} == {"killed"}


def test_what_the_kernel_lets_past_every_filter_does_nothing() -> None:
    """uretprobe and uprobe: made by the kernel itself in a program that is traced, and only there.

    Nobody can refuse them; so what they do elsewhere is looked at.
    """
    numbers = UNFILTERED[TARGET.machine]
    refused = make_calls(compile_policy(load_policy("strict")), [(nr, BAD) for nr in numbers])
    for number, answer in zip(numbers, refused, strict=True):
        expected = simulate_call(compile_policy(load_policy("strict")), TARGET.machine, number, BAD)
        harmless = (Answer("signal", SIGILL), Answer("returned", ENXIO))
        assert answer in harmless or answer.to_action() == expected.to_action(), (number, answer)
