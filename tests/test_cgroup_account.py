"""What a leaf's files say: the kernel's own texts, and files that are missing or odd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.cgroup.account import (
    Account,
    make_account,
    parse_io,
    parse_number,
    parse_pressure,
    parse_table,
    subtract_counts,
    subtract_pressure,
)

pytestmark = pytest.mark.beside

CPU = "usage_usec 1043120\nuser_usec 1000100\nsystem_usec 43020\nnr_periods 0\n"
EVENTS = "low 0\nhigh 0\nmax 17\noom 2\noom_kill 3\noom_group_kill 1\n"
IO = (
    "254:0 rbytes=4096 wbytes=52428800 rios=1 wios=100 dbytes=0 dios=0\n"
    "98:0 \n"
    "98:16 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n"
)
PRESSURE = (
    "some avg10=0.00 avg60=1.50 avg300=0.10 total=1500000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=250000\n"
)


def test_the_books_are_read_from_the_kernel_s_files() -> None:
    account = make_account(
        {
            "cpu.stat": CPU,
            "memory.current": "104857600\n",
            "memory.peak": "209715200\n",
            "memory.events": EVENTS,
            "pids.current": "3\n",
            "pids.peak": "64\n",
            "pids.events": "max 9\n",
            "io.stat": IO,
            "cpu.pressure": PRESSURE,
        }
    )
    assert account == Account(
        cpu_us=1043120,
        user_us=1000100,
        system_us=43020,
        memory_bytes=104857600,
        memory_peak_bytes=209715200,
        oom_kills=3,
        own_ooms=2,
        tasks=3,
        tasks_peak=64,
        refused_forks=9,
        io_read_bytes=4097,
        io_write_bytes=52428802,
        pressure={"cpu": {"some": 1.5, "full": 0.25}},
    )


def test_what_the_kernel_does_not_tell_is_none_and_not_nothing() -> None:
    assert make_account({"cpu.stat": CPU}) == Account(
        cpu_us=1043120, user_us=1000100, system_us=43020
    )


def test_no_limit_is_no_number() -> None:
    assert parse_number("max\n") is None
    assert parse_number("") is None
    assert parse_number("0\n") == 0


@given(st.text())
def test_a_file_of_any_text_is_read_without_an_error(text: str) -> None:
    parse_table(text)
    parse_number(text)
    parse_io(text)
    parse_pressure(text)


def test_a_run_s_part_is_the_difference() -> None:
    assert subtract_counts(5, 3) == 2
    assert subtract_counts(5, None) == 5
    assert subtract_counts(None, 5) is None
    later = {"cpu": {"some": 2.0, "full": 1.0}, "io": {"some": 0.5}}
    assert subtract_pressure(later, {"cpu": {"some": 1.5}}) == {
        "cpu": {"some": 0.5, "full": 1.0},
        "io": {"some": 0.5},
    }
