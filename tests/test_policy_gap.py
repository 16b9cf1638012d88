"""Whoever brings a policy of his own is told which walls it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from jail.policy.gap import WALLS, find_gaps
from jail.policy.load import list_policies, load_policy
from jail.policy.rule import Condition, Rule, Ruleset, Target
from tests.command import run_jail

pytestmark = pytest.mark.beside

TARGETS: Final = [Target("x86_64", (6, 1)), Target("aarch64", (6, 1))]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", list_policies())
def test_no_shipped_policy_opens_one(name: str, target: Target) -> None:
    assert find_gaps(load_policy(name).read_rules(target), target) == []


@pytest.mark.parametrize("target", TARGETS)
def test_one_that_allows_everything_opens_all(target: Target) -> None:
    assert len(find_gaps(Ruleset("allow", ()), target)) == len(WALLS)


def test_each_is_found_by_itself() -> None:
    for sentence, calls in WALLS:
        for call, args in calls:
            conditions = tuple(Condition(n, "eq", (value,)) for n, value in enumerate(args))
            rule = Rule((call,), "allow", (conditions,), "a hole")
            (gap,) = find_gaps(Ruleset("EPERM", (rule,)), TARGETS[0])
            assert gap == f"{sentence} ({call})"


def test_the_plan_tells_of_them(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('default = "allow"\n')
    told = run_jail("--explain", "--seccomp", str(own)).stdout.decode()
    assert "user namespaces" in told
    assert "set-id" in told
    for name in ("default", "strict"):
        assert "user namespaces" not in run_jail("--explain", "--seccomp", name).stdout.decode()
