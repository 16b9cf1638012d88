"""decide(facts): each verdict, whose cause came first, and ends that look alike."""

from __future__ import annotations

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail import Result, Verdict
from jail.verdict import LIMIT_OF_SIGNAL, ORDER, VERDICT_OF, Breach, Facts, decide

pytestmark = pytest.mark.beside

LIMITS = sorted(VERDICT_OF)
FIRST_OF = {verdict: limit for limit, verdict in reversed(VERDICT_OF.items())}


def breach(limit: str, at_s: float = 1.0, *, soft: bool = False) -> Breach:
    return Breach(limit, at_s, soft)


def end(code: int | None = None, number: int | None = None, *breaches: Breach) -> Facts:
    return Facts(exit_code=code, signal=number, ended_s=2.0, breaches=breaches)


TABLE = [
    (end(0), Verdict.OK, None),
    (end(1), Verdict.RE, None),
    (end(137), Verdict.RE, None),
    (end(255), Verdict.RE, None),
    (end(None, signal.SIGKILL), Verdict.SG, None),
    (end(None, signal.SIGSEGV), Verdict.SG, None),
    (end(None, signal.SIGXCPU), Verdict.TLE, "cpu_time"),
    (end(None, signal.SIGXFSZ), Verdict.DLE, "fsize"),
    (end(None, signal.SIGSYS), Verdict.SV, "seccomp"),
    (end(None, signal.SIGKILL, breach("memory")), Verdict.MLE, "memory"),
    (end(None, signal.SIGKILL, breach("cpu_time")), Verdict.TLE, "cpu_time"),
    (end(None, signal.SIGKILL, breach("wall_time")), Verdict.TLE, "wall_time"),
    (end(None, signal.SIGKILL, breach("output")), Verdict.OLE, "output"),
    (end(0, None, breach("output")), Verdict.OLE, "output"),
    (end(0, None, breach("cpu_time")), Verdict.TLE, "cpu_time"),
    (end(0, None, breach("disk", soft=True)), Verdict.OK, None),
    (end(0, None, breach("pids", soft=True)), Verdict.OK, None),
    (end(1, None, breach("disk", soft=True)), Verdict.DLE, "disk"),
    (end(1, None, breach("pids", soft=True)), Verdict.PLE, "pids"),
    (end(None, signal.SIGABRT, breach("pids", soft=True)), Verdict.PLE, "pids"),
    (end(None, signal.SIGBUS, breach("disk", soft=True)), Verdict.DLE, "disk"),
    (end(0, None, breach("disk", soft=True), breach("output")), Verdict.OLE, "output"),
    (end(None, signal.SIGSYS, breach("memory", 1.0)), Verdict.MLE, "memory"),
    (end(None, signal.SIGSYS, breach("memory", 3.0)), Verdict.SV, "seccomp"),
]


@pytest.mark.parametrize(("facts", "verdict", "limit"), TABLE, ids=lambda each: str(each)[:60])
def test_a_verdict_is_a_function_of_the_facts(
    facts: Facts, verdict: Verdict, limit: str | None
) -> None:
    assert decide(facts) == (verdict, limit)


def test_every_verdict_is_in_the_table() -> None:
    assert {row[1] for row in TABLE} | {Verdict.IE} == set(Verdict)
    assert set(LIMIT_OF_SIGNAL.values()) <= set(VERDICT_OF)
    assert set(ORDER) == set(VERDICT_OF.values())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("code", [0, 1, None])
def test_a_failure_of_the_sandbox_says_nothing_about_the_program(
    limit: str, code: int | None
) -> None:
    facts = Facts(exit_code=code, breaches=(breach(limit),), failure="the zygote died")
    assert decide(facts) == (Verdict.IE, None)


@pytest.mark.parametrize(
    ("first", "second"), [*itertools.permutations([FIRST_OF[verdict] for verdict in ORDER], 2)]
)
def test_the_earliest_cause_wins_and_at_one_moment_the_order_does(first: str, second: str) -> None:
    earlier = (breach(second, 2.0), breach(first, 1.0))
    assert decide(end(None, 9, *earlier))[0] is VERDICT_OF[first]
    ranks = {limit: ORDER.index(VERDICT_OF[limit]) for limit in (first, second)}
    winner = min(ranks, key=lambda limit: ranks[limit])
    assert decide(end(None, 9, breach(first), breach(second)))[0] is VERDICT_OF[winner]


def test_the_order_is_the_one_that_is_written_down() -> None:
    assert [each.value for each in ORDER] == ["MLE", "TLE", "OLE", "DLE", "PLE", "SV"]


breaches = st.builds(Breach, st.sampled_from(LIMITS), st.floats(0, 9), st.booleans())


@given(
    st.one_of(st.none(), st.integers(0, 255)),
    st.one_of(st.none(), st.integers(1, 64)),
    st.lists(breaches, max_size=6),
)
def test_a_verdict_never_blames_a_limit_that_had_no_part(
    code: int | None, number: int | None, seen: list[Breach]
) -> None:
    verdict, limit = decide(end(code, number, *seen))
    had_part = {each.limit for each in seen} | {LIMIT_OF_SIGNAL.get(number or 0)}
    assert limit is None or limit in had_part
    assert (limit is None) == (verdict in (Verdict.OK, Verdict.RE, Verdict.SG))
    assert (verdict is Verdict.OK) <= (code == 0 and all(each.soft for each in seen))
    assert decide(end(code, number, *reversed(seen)))[0] is verdict, "whoever was noted first"


def make_result(facts: Facts) -> Result:
    verdict, limit = decide(facts)
    return Result(verdict=verdict, exit_code=facts.exit_code, signal=facts.signal, limit=limit)


ALIKE = {
    "exit 137": (end(137), 137),
    "SIGKILL": (end(None, 9), 137),
    "memory": (end(None, 9, breach("memory")), 137),
    "wall": (end(None, 9, breach("wall_time")), 124),
    "cpu": (end(None, 9, breach("cpu_time")), 124),
    "exit 124": (end(124), 124),
    "infra": (Facts(failure="the agent has gone"), 125),
    "exit 125": (end(125), 125),
    "output": (end(None, 9, breach("output")), 153),
    "SIGXFSZ": (end(None, 25), 153),
    "exit 153": (end(153), 153),
    "SIGSYS": (end(None, 31), 159),
    "exit 159": (end(159), 159),
    "exit 255": (end(255), 255),
    "SIGTERM": (end(None, 15), 143),
    "exit 0": (end(0), 0),
}


def test_ends_that_share_an_exit_status_are_told_apart() -> None:
    told = {}
    for name, (facts, status) in ALIKE.items():
        result = make_result(facts)
        assert result.exit_status == status, name
        plain = result.to_json()
        told[name] = tuple(plain[key] for key in ("verdict", "exit_code", "signal", "limit"))
    assert len(set(told.values())) == len(told), told


def test_nothing_but_a_clean_end_exits_with_0() -> None:
    for facts, verdict, _ in TABLE:
        if verdict is not Verdict.OK:
            result = make_result(facts)
            assert not result.ok
            # a program that was ended for its output or time may itself have said 0
            assert result.exit_status != 0, facts
