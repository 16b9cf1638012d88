"""From what was seen to a policy: it decides that as the ceiling did, and allows little else."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jail.errors import SpecError
from jail.policy.compile import compile_ruleset
from jail.policy.document import parse_document
from jail.policy.learn.note import MAX_USES, Learned, fold_paths, read_table
from jail.policy.learn.rules import find_floor, make_pieces
from jail.policy.learn.table import FLOOR_CALLS, FLOOR_USES, TELLING, take_telling
from jail.policy.learn.text import format_policy, make_digest, make_rules, quote
from jail.policy.learn.use import find_rest
from jail.policy.load import load_policy
from jail.policy.rule import PASSING, Condition, Rule, Ruleset, Target

pytestmark = pytest.mark.beside

X86 = Target("x86_64", (6, 1))
CALLS = ("socket", "fcntl", "ioctl", "seccomp", "openat", "kill", "getpid", "fork", "read", "close")
ACTIONS = ("allow", "EPERM", "ENOSYS", "kill", "notify")
NUMBERS = (0, 1, 2, 5, 0x5401, 0x80001, 2**32 - 1, 2**32 + 1, 2**63, 2**64 - 1)
MASKS = (1, 0xF, 0xFF, 2**32 - 1, 2**64 - 1)

numbers = st.sampled_from(NUMBERS)
arguments = st.tuples(*[numbers] * 6)
asked = st.tuples(st.sampled_from(CALLS), arguments)


@st.composite
def conditions(draw: st.DrawFn, arg: int) -> Condition:
    if draw(st.booleans()):
        mask = draw(st.sampled_from(MASKS))
        values = draw(
            st.lists(numbers.map(lambda n: n & mask), min_size=1, max_size=2, unique=True)
        )
        return Condition(arg, "masked_eq", tuple(values), mask)
    return Condition(arg, draw(st.sampled_from(("eq", "ne", "lt", "ge"))), (draw(numbers),))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    calls = draw(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3, unique=True))
    args = st.sets(st.integers(0, 3), max_size=2)
    alternatives = tuple(
        tuple(draw(conditions(arg)) for arg in sorted(draw(args)))
        for _ in range(draw(st.integers(1, 2)))
    )
    return Rule(tuple(calls), draw(st.sampled_from(ACTIONS)), alternatives, "it is drawn")


rulesets = st.builds(
    Ruleset, st.sampled_from(("ENOSYS", "EPERM", "allow")), st.lists(rules(), max_size=6).map(tuple)
)


def learn(seen: list[tuple[str, tuple[int, ...]]], base: Ruleset, ceiling: Ruleset) -> Learned:
    """As the watching thread notes it."""
    learned = Learned("ceiling", "x86_64", ["a b"])
    floor = find_floor(ceiling, X86)
    for call, args in seen:
        if call not in floor:
            decided = ceiling.decide(X86, call, args).action
            beyond = base.decide(X86, call, args).action != decided
            action = None if decided in PASSING else decided
            learned.note_call(call, take_telling(call, args), action, beyond=beyond)
    return learned


def make(learned: Learned, base: Ruleset, ceiling: Ruleset) -> Ruleset:
    """The policy as it is read back from its file."""
    text = format_policy(make_rules(make_pieces(learned, base, ceiling, X86)), learned)
    return parse_document(tomllib.loads(text), "learned", ("strict", base))


@settings(max_examples=120, deadline=None)
@given(st.lists(asked, max_size=8), rulesets, rulesets)
def test_what_was_seen_is_decided_as_it_was(
    seen: list[tuple[str, tuple[int, ...]]], base: Ruleset, ceiling: Ruleset
) -> None:
    made = make(learn(seen, base, ceiling), base, ceiling)
    for call, args in seen:
        assert made.decide(X86, call, args).action == ceiling.decide(X86, call, args).action


@settings(max_examples=120, deadline=None)
@given(st.lists(asked, max_size=5), asked, rulesets, rulesets)
def test_what_was_not_seen_is_refused(
    seen: list[tuple[str, tuple[int, ...]]],
    more: tuple[str, tuple[int, ...]],
    base: Ruleset,
    ceiling: Ruleset,
) -> None:
    """A call that was never made; a use, of a call that is many in one, that was never made."""
    assume(base.default != "allow")
    call, args = more
    assume(call not in FLOOR_CALLS)
    uses = {take_telling(call, each) for name, each in seen if name == call}
    if call in TELLING:
        assume(take_telling(call, args) not in FLOOR_USES.get(call, ()))
        assume(take_telling(call, args) not in uses)
    else:
        assume(not uses)
    made = make(learn(seen, base, ceiling), base, ceiling)
    assert not made.decide(X86, call, args).passes


@settings(max_examples=120, deadline=None)
@given(st.lists(asked, max_size=5), asked, rulesets, rulesets)
def test_what_is_allowed_beyond_the_base_the_ceiling_allows(
    seen: list[tuple[str, tuple[int, ...]]],
    more: tuple[str, tuple[int, ...]],
    base: Ruleset,
    ceiling: Ruleset,
) -> None:
    call, args = more
    made = make(learn(seen, base, ceiling), base, ceiling)
    if made.decide(X86, call, args).passes and not base.decide(X86, call, args).passes:
        assert ceiling.decide(X86, call, args).passes


@settings(max_examples=60, deadline=None)
@given(st.lists(asked, max_size=5), st.lists(asked, max_size=5), rulesets, rulesets)
def test_two_runs_are_as_one(
    first: list[tuple[str, tuple[int, ...]]],
    second: list[tuple[str, tuple[int, ...]]],
    base: Ruleset,
    ceiling: Ruleset,
) -> None:
    both = learn(first, base, ceiling)
    text = format_policy(make_rules(make_pieces(both, base, ceiling, X86)), both)
    table = tomllib.loads(text)["learned"]
    again = read_table(table)
    assert again == both
    again.add(learn(second, base, ceiling))
    assert again == learn(first + second, base, ceiling)


@given(st.sampled_from(sorted(TELLING)), arguments, st.data())
def test_what_is_known_of_a_use_decides_no_condition_wrongly(
    call: str, args: tuple[int, ...], data: st.DataObject
) -> None:
    given_one = data.draw(st.integers(0, 3).flatmap(conditions))
    rest = find_rest(call, take_telling(call, args), (given_one,))
    if rest is None:
        assert not given_one.holds(args)
    elif not rest:
        assert given_one.holds(args)


@given(st.text())
def test_any_text_can_be_quoted(text: str) -> None:
    assert quote(text).isprintable()
    assert tomllib.loads(f"a = {quote(text)}")["a"] == text.encode("utf-8", "replace").decode()


@given(
    st.sets(
        st.lists(st.sampled_from("abcde"), max_size=5).map(lambda parts: "/" + "/".join(parts))
    ),
    st.integers(1, 20),
)
def test_many_paths_are_told_by_their_folders(paths: set[str], most: int) -> None:
    folded = fold_paths(paths, most)
    assert len(folded) <= max(most, 1)
    assert fold_paths(folded, most) == folded
    for path in paths:
        assert any(
            path == each
            or (each.endswith("/**") and f"{path}/".startswith(each.removesuffix("**")))
            for each in folded
        )
    if len(paths) <= most:
        assert folded == sorted(paths)


@pytest.mark.parametrize(
    "table",
    [
        {"ceiling": "default"},
        {"ceiling": "default", "machine": 1},
        {"ceiling": "default", "machine": "x86_64", "more": 1},
        {"ceiling": "default", "machine": "x86_64", "calls": [1]},
        {"ceiling": "default", "machine": "x86_64", "calls": "read"},
        {"ceiling": "default", "machine": "x86_64", "values": {"socket": [[1, 1]]}},
        {"ceiling": "default", "machine": "x86_64", "values": {"ioctl": [[2**32]]}},
        {"ceiling": "default", "machine": "x86_64", "values": {"ioctl": [[True]]}},
        {"ceiling": "default", "machine": "x86_64", "values": {"read": [[1]]}},
        {"ceiling": "default", "machine": "x86_64", "refused": [1]},
        {"ceiling": "default", "machine": "x86_64", "refused": [{"call": "read"}]},
        {"ceiling": "default", "machine": "x86_64", "paths": {"read": 1}},
    ],
)
def test_a_table_that_was_never_written_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="learned"):
        read_table(table)


def test_runs_of_two_machines_are_not_added_up() -> None:
    with pytest.raises(SpecError, match="aarch64"):
        Learned("default", "x86_64").add(Learned("default", "aarch64"))


def test_of_the_shipped_policies_a_small_program_s_is_small() -> None:
    base, ceiling = load_policy("strict").ruleset, load_policy("default").ruleset
    seen = [
        ("execve", (0,) * 6),
        ("openat", (2**64 - 100, 0, 0)),
        ("fcntl", (1, 1)),
        ("ioctl", (1, 0x5401)),
        ("socket", (1, 0x80001, 0)),
        ("socket", (38, 5, 0)),
        ("wait4", (0,) * 6),
    ]
    learned = learn(seen, base, ceiling)
    made = make(learned, base, ceiling)
    assert compile_ruleset(made, X86)
    assert compile_ruleset(made, Target("aarch64", (6, 1)))
    for call, args in seen:
        assert made.decide(X86, call, args).action == ceiling.decide(X86, call, args).action
    for call, args in (
        ("openat", (0, 0, 0o100, 0o4755)),
        ("fcntl", (1, 1024)),
        ("ioctl", (1, 0x5412)),
        ("socket", (2, 1, 0)),
        ("clone", (17,)),
        ("statx", (0,)),
    ):
        assert not made.decide(X86, call, args).passes
    for call in FLOOR_CALLS - {"time"}:
        assert made.decide(X86, call, (0,) * 6).passes


def test_what_the_ceiling_refuses_by_other_arguments_stays_refused() -> None:
    """Of an ioctl its request is noted; here the ceiling looks at the descriptor as well."""
    five = Rule(("ioctl",), "EPERM", ((Condition(0, "eq", (5,)),),), "not on that one")
    only = Rule(("ioctl",), "allow", ((Condition(2, "masked_eq", (1,), 3),),), "with these alone")
    base, ceiling = Ruleset("ENOSYS", ()), Ruleset("ENOSYS", (five, only))
    made = make(learn([("ioctl", (0, 0x5401, 1, 0, 0, 0))], base, ceiling), base, ceiling)
    assert made.decide(X86, "ioctl", (0, 0x5401, 1)).passes
    assert not made.decide(X86, "ioctl", (5, 0x5401, 1)).passes
    assert not made.decide(X86, "ioctl", (0, 0x5401, 2)).passes
    assert not made.decide(X86, "ioctl", (0, 0x5402, 1)).passes


def test_a_file_is_known_that_somebody_has_changed() -> None:
    base, ceiling = Ruleset("ENOSYS", ()), Ruleset("allow", ())
    learned = learn([("getpid", (0,) * 6), ("socket", (1, 1, 0))], base, ceiling)
    own = make_rules(make_pieces(learned, base, ceiling, X86))
    document = tomllib.loads(format_policy(own, learned))
    read = parse_document(document, "x", ("strict", base)).rules
    assert make_digest(read) == document["learned"]["digest"]
    assert make_digest(read[1:]) != document["learned"]["digest"]


def test_who_varies_his_arguments_without_end_fills_no_memory() -> None:
    learned = Learned("unconfined", "x86_64")
    for number in range(3 * MAX_USES):
        learned.note_call("ioctl", (number,), None, beyond=True)
        learned.note_call("prctl", (number,), "EPERM", beyond=False)
    assert len(learned.values["ioctl"]) == len(learned.refused) == MAX_USES
