"""What a policy's file may say, and what is said of those that may not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.policy.compile import parse_release, read_target
from jail.policy.condition import CONDITION_KEYS
from jail.policy.document import FILE_KEYS, RULE_KEYS, parse_document
from jail.policy.load import MadePolicy, list_policies, load_policy, make_policy
from jail.policy.rule import Rule, Ruleset, Target
from tests.policy_reading import write_toml

pytestmark = pytest.mark.beside

RULE: Final = {"calls": ["read"], "action": "allow", "why": "because"}
ONE: Final = {"arg": 0, "op": "eq", "value": 1}
X86: Final = Target("x86_64", (6, 1))


def write(path: Path, *rules: dict[str, Any], head: str = 'default = "kill"') -> str:
    lines = [head]
    for rule in rules:
        lines += ["[[rule]]", *(f"{key} = {write_toml(each)}" for key, each in rule.items())]
    path.write_text("\n".join(lines))
    return str(path)


def read(path: str) -> Ruleset:
    return load_policy(path).ruleset


def refusal(path: str) -> str:
    """What is said of a file that can't be; it is one line, and names the file."""
    with pytest.raises(SpecError) as caught:
        _ = load_policy(path).ruleset
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_dots_in_a_text_are_no_keys(tmp_path: Path) -> None:
    dots = "a." * 99
    text = f'default = "kill"\n[learned.paths]\nread = ["/{dots}"]\n# {dots}\n'
    path = tmp_path / "dots.toml"
    path.write_text(text)
    assert read(str(path)).default == "kill"


# --- Words --------------------------------------------------------------------------------------

WRONG: Final[dict[str, tuple[str, str]]] = {
    "lists without end": ("default = " + "[" * 50_000, "nested too deeply"),
    "keys without end": ("a" + ".a" * 20_000 + " = 1", "nested too deeply"),
    "more than a filter can compare": (
        'default = "kill"\n[[rule]]\ncalls = ["read"]\naction = "allow"\nwhy = "all"\nwhen = ['
        + ", ".join(f'{{ arg = {arg}, op = "eq", values = {[*range(30)]} }}' for arg in range(6))
        + "]",
        "more choices of values",
    ),
    "no TOML": ("default = [", "Invalid value"),
    "no UTF-8": ("default = '\udcff'", "utf-8"),
    "no default": ("", "no default"),
    "an unknown key": ('default = "kill"\ndefaults = "kill"', "unknown key 'defaults'"),
    "an action of its own": ('default = "trap"', "an action is"),
    "trace, which is ours": ('default = "trace"', "an action is"),
    "an unknown errno": ('default = { errno = "ENOTHING" }', "no errno 'ENOTHING'"),
    "two errnos": ('default = { errno = "EPERM", more = 1 }', "an action is"),
    "learned is no table": ('default = "kill"\nlearned = 1', "learned: write [learned]"),
    "groups are no table": ('default = "kill"\ngroups = ["read"]', "groups: write [groups]"),
    "an empty group": ('default = "kill"\n[groups]\nio = []', "group io: calls must be a list"),
    "a group's call twice": (
        'default = "kill"\n[groups]\nio = ["read", "read"]',
        "group io: read is named twice",
    ),
    "a group in a group": (
        'default = "kill"\n[groups]\na = ["read"]\nb = ["@a"]',
        "group b: '@a' is not the name of a system call",
    ),
    "a group with a loud name": ('default = "kill"\n[groups]\nIO = ["read"]', "group 'IO'"),
    "one rule as a table": ('default = "kill"\n[rule]\ncalls = ["read"]', "write [[rule]]"),
    "a rule that is none": ('default = "kill"\nrule = [1]', "rule 1: not a table"),
    "extends behind a table": (
        'default = "kill"\n[[rule]]\nextends = "default"\ncalls = ["read"]',
        "unknown key 'extends'",
    ),
    "extends in a way that is not looked for": (
        "extends = '''default'''",
        "extends: write extends",
    ),
    "extends of a number": ("extends = 1", "extends: write extends"),
    "extends of nobody": ('extends = "nobody"', "extends: no seccomp policy 'nobody'"),
    "extends of a file that isn't there": (
        'extends = "./nobody.toml"',
        ".toml: extends: seccomp policy ",
    ),
    "extends of no policy": ('extends = "unconfined"', "extends: unconfined is the word for no"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_says_something_else_is_refused(case: str, tmp_path: Path) -> None:
    text, expected = WRONG[case]
    path = tmp_path / "own.toml"
    path.write_text(text, errors="surrogateescape")
    assert expected in refusal(str(path))


WRONG_RULES: Final[dict[str, tuple[list[dict[str, Any]], str]]] = {
    "no calls": ([{**RULE, "calls": []}], "rule 1: calls must be a list"),
    "calls that are one word": ([{**RULE, "calls": "read"}], "rule 1: calls must be a list"),
    "a call that is a number": ([{**RULE, "calls": [0]}], "0 is not the name"),
    "a call twice": ([{**RULE, "calls": ["read", "read"]}], "read is named twice"),
    "an unknown group": ([{**RULE, "calls": ["@io"]}], "no group @io"),
    "no action": ([{"calls": ["read"], "why": "because"}], "rule 1 (read): no action"),
    "no why": ([{"calls": ["read"], "action": "allow"}], "rule 1 (read): no why"),
    "an empty why": ([{**RULE, "why": "  "}], "rule 1 (read): no why"),
    "an unknown key": ([{**RULE, "note": "x"}], "unknown key 'note'"),
    "optional in words": ([{**RULE, "optional": "yes"}], "optional must be true or false"),
    "quiet in words": ([{**RULE, "quiet": "yes"}], "quiet must be true or false"),
    "no machines": ([{**RULE, "machines": []}], "machines must be a list"),
    "an unknown machine": ([{**RULE, "machines": ["i386"]}], "no machine 'i386'"),
    "a machine twice": ([{**RULE, "machines": ["x86_64", "x86_64"]}], "x86_64 is named twice"),
    "a kernel as a number": ([{**RULE, "min_kernel": 5.9}], "min_kernel is a string"),
    "a kernel with a patch level": ([{**RULE, "min_kernel": "5.9.1"}], "min_kernel is a string"),
    "when and any": ([{**RULE, "when": [ONE], "any": [[ONE]]}], "when or any, not both"),
    "an empty when": ([{**RULE, "when": []}], "a condition list is missing or empty"),
    "an empty any": ([{**RULE, "any": []}], "any must be a list of lists"),
    "an argument too many": ([{**RULE, "when": [{**ONE, "arg": 6}]}], "a number from 0 to 5"),
    "an unknown op": ([{**RULE, "when": [{**ONE, "op": "is"}]}], "op must be one of"),
    "a mask without masked_eq": ([{**RULE, "when": [{**ONE, "mask": 1}]}], "a mask belongs"),
    "a value outside its mask": (
        [{**RULE, "when": [{**ONE, "op": "masked_eq", "mask": 2}]}],
        "never matches",
    ),
    "one argument twice": ([{**RULE, "when": [ONE, ONE]}], "two conditions on argument 0"),
    "a value twice": (
        [{**RULE, "when": [{"arg": 0, "op": "eq", "values": [1, 1]}]}],
        "a value is there twice",
    ),
    "several values to be less than": (
        [{**RULE, "when": [{"arg": 0, "op": "lt", "values": [1, 2]}]}],
        "several values only with",
    ),
    "a call behind its end": (
        [RULE, {**RULE, "action": "kill"}],
        "rule 2: read is already decided",
    ),
    "the same condition again": (
        [{**RULE, "when": [ONE]}, {**RULE, "when": [ONE], "action": "kill"}],
        "rule 2: read with this very condition came before",
    ),
    "a condition that another one covers": (
        [
            {**RULE, "when": [{"arg": 0, "op": "masked_eq", "mask": 7, "value": 1}]},
            {**RULE, "when": [ONE, {"arg": 1, "op": "eq", "value": 5}], "action": "kill"},
        ],
        "rule 2: read: when this holds (arg0 == 0x1, arg1 == 0x5), rule 1 has decided already"
        " (arg0 & 0x7 == 0x1)",
    ),
    "a narrower alternative behind a wider one": (
        [{**RULE, "any": [[{"arg": 0, "op": "lt", "value": 9}], [ONE]]}],
        "rule 1: read: when this holds (arg0 == 0x1), rule 1 has decided already (arg0 < 0x9)",
    ),
    "a guarded rule behind one that is everywhere": (
        [RULE, {**RULE, "machines": ["x86_64"]}],
        "rule 2: read is already decided by rule 1",
    ),
    "a guarded rule behind itself": (
        [{**RULE, "min_kernel": "5.9"}, {**RULE, "min_kernel": "5.9", "action": "kill"}],
        "rule 2: read is already decided by rule 1",
    ),
}


@pytest.mark.parametrize("case", WRONG_RULES)
def test_a_rule_that_says_something_else_is_refused(case: str, tmp_path: Path) -> None:
    rules, expected = WRONG_RULES[case]
    assert expected in refusal(write(tmp_path / "own.toml", *rules))


SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["read", "@io", "allow", "EPERM", "eq", "masked_eq", "x86_64", "5.9", "", "\0"]
    ),
)
KEYS: Final = st.sampled_from(
    ["errno", "read", "io", *FILE_KEYS, *RULE_KEYS, *CONDITION_KEYS],
)
ANYTHING: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
RULES: Final = st.lists(
    st.fixed_dictionaries(
        {"calls": ANYTHING | st.just(["read"]), "action": ANYTHING | st.just("allow")},
        optional={
            "why": SCALARS,
            "when": ANYTHING | st.lists(st.dictionaries(KEYS, SCALARS), max_size=3),
            **dict.fromkeys(("any", "optional", "quiet", "machines", "min_kernel"), ANYTHING),
        },
    ),
    max_size=3,
)


@settings(max_examples=500, deadline=None, database=None)
@given(
    st.fixed_dictionaries(
        {"default": st.just("kill") | ANYTHING},
        optional={"groups": ANYTHING, "rule": RULES | ANYTHING, "learned": ANYTHING},
    )
)
def test_whatever_a_file_says_it_is_rules_or_a_line_that_says_what_is_wrong(
    document: dict[str, Any],
) -> None:
    try:
        ruleset = parse_document(document, "own")
    except SpecError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(hash(ruleset), int)


def test_a_rule_of_one_machine_or_kernel_hides_none_of_the_others(tmp_path: Path) -> None:
    guarded = {**RULE, "machines": ["aarch64"], "min_kernel": "6.2"}
    kill = {**RULE, "action": "kill"}
    ruleset = read(write(tmp_path / "own.toml", guarded, kill))
    for target, expected in (
        (X86, "kill"),
        (Target("aarch64", (6, 1)), "kill"),
        (Target("aarch64", (6, 2)), "allow"),
        (Target("aarch64", (10, 0)), "allow"),
    ):
        assert ruleset.decide(target, "read", []).action == expected


def test_every_word_of_a_rule_is_kept(tmp_path: Path) -> None:
    words = {"optional": True, "quiet": True, "machines": ["x86_64"], "min_kernel": "5.9"}
    path = write(tmp_path / "own.toml", {**RULE, **words, "action": "log"})
    (rule,) = read(path).rules
    assert rule == Rule(
        ("read",), "log", ((),), "because", True, True, ("x86_64",), (5, 9), path, ()
    )


def test_what_was_learned_is_no_rule(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('default = "kill"\n[learned]\nprogram = ["true"]\npaths = ["/usr"]\n')
    assert read(str(path)) == Ruleset("kill", ())


# --- Groups -------------------------------------------------------------------------------------


def test_a_group_stands_for_its_calls_and_its_name_is_kept(tmp_path: Path) -> None:
    head = 'default = "kill"\n[groups]\nio = ["read", "write"]\nends = ["close"]'
    rule = {**RULE, "calls": ["@io", "dup", "@ends"]}
    (found,) = read(write(tmp_path / "own.toml", rule, head=head)).rules
    assert found.calls == ("read", "write", "dup", "close")
    assert found.groups == ("io", "ends")


def test_a_call_is_in_one_group_of_a_rule_only(tmp_path: Path) -> None:
    head = 'default = "kill"\n[groups]\nio = ["read", "write"]'
    rule = {**RULE, "calls": ["@io", "read"]}
    assert "read is named twice" in refusal(write(tmp_path / "own.toml", rule, head=head))


def test_groups_are_inherited_and_stay_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", head='default = "kill"\n[groups]\nio = ["read", "write"]')
    own = write(tmp_path / "own.toml", {**RULE, "calls": ["@io"]}, head='extends = "base.toml"')
    assert read(own).rules[0].calls == ("read", "write")
    own = write(tmp_path / "own.toml", head='extends = "base.toml"\n[groups]\nio = ["read"]')
    assert "group io: is a group of" in refusal(own)


# --- Extending ----------------------------------------------------------------------------------


def test_a_shipped_policy_is_extended_by_its_name(tmp_path: Path) -> None:
    rule = {**RULE, "calls": ["mount"]}
    own = read(write(tmp_path / "own.toml", rule, head='extends = "default"'))
    base = load_policy("default").ruleset
    assert own.default == base.default
    assert own.decide(X86, "mount", []).action == "allow"
    assert own.decide(X86, "umount2", []) == base.decide(X86, "umount2", [])._replace(
        rule=own.decide(X86, "umount2", []).rule
    )


def test_a_file_is_extended_by_its_path_from_the_one_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "base.toml", RULE)
    own = write(tmp_path / "deep" / "own.toml", head='extends = "../base.toml"')
    assert read(own).decide(X86, "read", []).action == "allow"
    assert read(own).rules[0].policy.endswith("../base.toml")


def test_its_own_default_wins_and_its_own_rules_come_first(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", RULE, {**RULE, "calls": ["write"], "when": [ONE]})
    head = 'extends = "base.toml"\ndefault = { errno = "EPERM" }'
    rule = {**RULE, "calls": ["write"], "action": "log", "when": [{**ONE, "arg": 1}]}
    own = read(write(tmp_path / "own.toml", rule, head=head))
    assert own.default == "EPERM"
    found = [own.decide(X86, "write", args).action for args in ([1, 1], [1, 0], [0, 0])]
    assert found == ["log", "allow", "EPERM"]
    assert own.decide(X86, "read", []).action == "allow"


def test_a_rule_without_conditions_takes_the_call_from_the_base(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", {**RULE, "calls": ["read", "write"]})
    own = write(tmp_path / "own.toml", {**RULE, "action": "kill"}, head='extends = "base.toml"')
    assert [(each.calls, each.action) for each in read(own).rules] == [
        (("read",), "kill"),
        (("write",), "allow"),
    ]


def test_a_guarded_rule_leaves_the_base_s_to_the_others(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", RULE)
    rule = {**RULE, "action": "kill", "machines": ["aarch64"]}
    own = read(write(tmp_path / "own.toml", rule, head='extends = "base.toml"'))
    assert own.decide(X86, "read", []).action == "allow"
    assert own.decide(Target("aarch64", (6, 1)), "read", []).action == "kill"


def test_what_the_base_says_need_not_be_said_again(tmp_path: Path) -> None:
    log = {**RULE, "when": [ONE], "action": "log"}
    base: list[dict[str, Any]] = [log, RULE, {**RULE, "calls": ["dup"]}]
    write(tmp_path / "base.toml", *base)
    head = 'extends = "base.toml"'
    for rules in (base[:2], base[2:], [{**RULE, "when": [{**ONE, "arg": 3}]}, *base[:2]]):
        said = refusal(write(tmp_path / "own.toml", *rules, head=head))
        assert ": says what " in said
        assert said.endswith("/base.toml says already")


def test_the_same_words_that_do_something_else_are_said(tmp_path: Path) -> None:
    """They override what stands before them in the base, or hold where own ones end."""
    base: list[dict[str, Any]] = [{**RULE, "when": [ONE], "action": "log"}, RULE]
    write(tmp_path / "base.toml", *base)
    head = 'extends = "base.toml"'
    own = read(write(tmp_path / "own.toml", RULE, head=head))
    assert own.decide(X86, "read", [1]).action == "allow"
    own = read(write(tmp_path / "own.toml", base[0], {**RULE, "action": "kill"}, head=head))
    assert [own.decide(X86, "read", [each]).action for each in (1, 2)] == ["log", "kill"]
    own = read(write(tmp_path / "own.toml", {**RULE, "quiet": True}, head=head))
    assert own.rules[0].quiet


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_bases_is_refused(length: int, tmp_path: Path) -> None:
    for index in range(length):
        head = f'extends = "./{(index + 1) % length}.toml"'
        write(tmp_path / f"{index}.toml", head=head)
    assert refusal(str(tmp_path / "0.toml")).endswith("that never ends")


def test_a_long_line_of_bases_is_refused(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"{index}.toml", head=f'extends = "{index + 1}.toml"')
    assert refusal(str(tmp_path / "0.toml")).endswith("that never ends")


def test_a_fault_in_a_base_is_the_base_s(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", {**RULE, "why": ""})
    own = write(tmp_path / "own.toml", head='extends = "base.toml"')
    assert "base.toml: rule 1 (read): no why" in refusal(own)


def test_a_comment_and_a_later_table_extend_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('# extends = "nobody"\ndefault = "kill"\n[learned]\nextends = "nobody"\n')
    assert load_policy(str(path)).bases == ()
    assert read(str(path)) == Ruleset("kill", ())


# --- Finding them -------------------------------------------------------------------------------


def test_a_changed_base_is_another_policy(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", RULE)
    own = write(tmp_path / "own.toml", head='extends = "base.toml"')
    before = load_policy(own)
    assert before == load_policy(own)
    write(tmp_path / "base.toml", RULE, {**RULE, "calls": ["write"]})
    assert load_policy(own) != before
    assert len(load_policy(own).rules) == 2


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.toml")
    assert "not a regular file" in refusal(str(tmp_path / "own.toml"))
    assert "not a regular file" in refusal(str(tmp_path) + "/")


def test_a_file_has_an_end(tmp_path: Path) -> None:
    with open(tmp_path / "own.toml", "wb") as file:
        file.truncate(1 << 30)
    assert "larger than" in refusal(str(tmp_path / "own.toml"))


def test_a_policy_made_in_code_is_what_it_was_made_of() -> None:
    ruleset = Ruleset("kill", (Rule(("read",), "trace", ((),), "because"),))
    made = make_policy("made", ruleset)
    assert isinstance(made, MadePolicy)
    assert (made.ruleset, made.default, made.rules) == (ruleset, "kill", ruleset.rules)
    assert made == make_policy("made", ruleset)
    assert made != make_policy("made", Ruleset("allow", ()))


@pytest.mark.parametrize("name", list_policies())
def test_every_shipped_policy_says_what_it_is_for(name: str) -> None:
    first = load_policy(name).text.decode().splitlines()[0]
    assert first.startswith("# ")
    assert load_policy(name).rules


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.18.44-fc", (6, 18)), ("5.9", (5, 9)), ("10.0-rc1", (10, 0)), ("strange", (0, 0))],
)
def test_a_kernel_has_two_numbers(release: str, expected: tuple[int, int]) -> None:
    assert parse_release(release) == expected


def test_this_machine_is_a_target() -> None:
    assert read_target().machine == os.uname().machine
    assert read_target("aarch64").kernel == parse_release(os.uname().release)
