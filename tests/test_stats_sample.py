"""What is made of two looks at a jail, and of what /proc says of a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jail.stats.find import parse_identity, parse_process
from jail.stats.sample import Sample, make_rows
from jail.stats.show import format_age, format_table


def make_sample(at_s: float, **figures: Any) -> Sample:
    return Sample(**{"key": (7, 100), "at_s": at_s, **figures})


def test_percents_are_of_the_time_between_two_looks() -> None:
    pressure = {"cpu": {"some": 3.0, "full": 1.0}}
    before = make_sample(10.0, cpu_time_s=5.0, pressure=pressure)
    now = make_sample(
        12.0,
        cpu_time_s=8.0,
        memory_bytes=25,
        memory_limit_bytes=200,
        pressure={"cpu": {"some": 3.5, "full": 1.0}},
    )
    (row,) = make_rows([now], [before])
    assert (row.cpu_percent, row.memory_percent) == (150.0, 12.5)
    assert row.pressure == {"cpu": {"some": 25.0, "full": 0.0}}


@pytest.mark.parametrize("before", [[], [make_sample(1.0, key=(7, 99))], [make_sample(2.0)]])
def test_a_jail_that_was_not_there_before_has_no_percents(before: Sequence[Sample]) -> None:
    """Nor has another one of the same pid, nor one after no time at all."""
    (row,) = make_rows([make_sample(2.0, cpu_time_s=1.0)], list(before))
    assert row.cpu_percent is None
    assert row.pressure == {}


def test_time_that_seems_to_go_back_is_no_use_below_none() -> None:
    (row,) = make_rows([make_sample(2.0, cpu_time_s=0.9)], [make_sample(1.0, cpu_time_s=1.0)])
    assert row.cpu_percent == 0.0


def test_what_nobody_tells_is_null_in_the_json_and_a_dash_in_the_table() -> None:
    (row,) = make_rows([make_sample(1.0)], [])
    told = row.to_json("now")
    assert told["memory_bytes"] is told["cpu_percent"] is told["io_read_bytes"] is None
    cells = format_table([row])[1].split()
    assert cells == ["7", "-", "-", "-", "-", "/", "-", "-", "-", "-", "/", "-", "-", "watch"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (184, "3m04s"), (7500, "2h05m"), (3 * 86400 + 7200, "3d02h")],
)
def test_an_age_is_told_in_two_units(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_a_process_s_name_may_hold_anything() -> None:
    rest = b"S 3 1 1 0 -1 0 0 0 0 0 5 6 7 8 20 0 2 0 900 0 0"
    seen = parse_process(b"12 (a) S 1\n(b)) " + rest)
    assert (seen.stat.pid, seen.name, seen.stat.parent, seen.began) == (12, b"a) S 1\n(b)", 3, 900)


def test_an_identity_is_not_read_off_a_name() -> None:
    text = b"Name:\tNSpid:\\nUid: 0\nUid:\t1001\t1\t1\t1\nNSpid:\t55\t1\n"
    assert parse_identity(text) == (1001, (55, 1))
    assert parse_identity(b"") is None
