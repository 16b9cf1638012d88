"""What is written to a leaf, what holds each limit, and limits that the parent undercuts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jail
from jail import Limits, SpecError
from jail.cgroup.grant import Grant, Room
from jail.cgroup.setting import (
    BUILDER_ROOM_BYTES,
    CGROUP_WEIGHTS,
    DeviceThrottle,
    check_cpus,
    check_room,
    make_settings,
    scale,
)
from jail.limit import CPU_SHARES, format_cpuset, make_limits, parse_cpuset
from jail.mechanism import decide_mechanisms, make_rlimits

pytestmark = pytest.mark.beside

ALL = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
MINE = "/sys/fs/cgroup/mine"
GRANT = Grant("own", MINE, ALL)


def write(controllers: frozenset[str] = ALL, **words: Any) -> dict[str, str]:
    limits = make_limits(jail.UNLIMITED, **words)
    return {
        each.file: each.value for each in make_settings(limits, Grant("own", MINE, controllers))
    }


def test_nothing_is_limited_that_nobody_asked_for() -> None:
    assert write() == {"memory.oom.group": "1"}


def test_memory_is_limited_without_swap_and_ends_the_whole_jail() -> None:
    """While it is being built there is room above it."""
    assert write(memory="64m") == {
        "memory.oom.group": "1",
        "memory.max": str((64 << 20) + BUILDER_ROOM_BYTES),
        "memory.swap.max": "0",
    }


def test_the_agent_is_one_of_the_processes() -> None:
    assert write(pids_limit=64)["pids.max"] == "65"


def test_more_processes_than_any_kernel_has_are_no_failure() -> None:
    """pids.max takes no larger number: EINVAL."""
    assert write(pids_limit=2**40)["pids.max"] == "4194304"


@pytest.mark.parametrize(
    ("cpus", "line"), [("1.5", "150000 100000"), (0.01, "1000 100000"), (2, "200000 100000")]
)
def test_processors_are_a_share_of_time(cpus: Any, line: str) -> None:
    assert write(cpus=cpus)["cpu.max"] == line


def test_shares_and_weights_are_scaled_as_the_oci_runtimes_do() -> None:
    assert write(cpu_shares=2)["cpu.weight"] == "1"
    assert write(cpu_shares=1024)["cpu.weight"] == "39"
    assert write(cpu_shares=262144)["cpu.weight"] == "10000"
    assert write(blkio_weight=10)["io.weight"] == "default 1"
    assert write(blkio_weight=1000)["io.weight"] == "default 10000"


@given(st.integers(*CPU_SHARES), st.integers(*CPU_SHARES))
def test_a_greater_share_is_never_a_smaller_weight(one: int, other: int) -> None:
    low, high = sorted((one, other))
    weights = [scale(each, CPU_SHARES, CGROUP_WEIGHTS) for each in (low, high)]
    assert CGROUP_WEIGHTS[0] <= weights[0] <= weights[1] <= CGROUP_WEIGHTS[1]


def test_a_device_s_limits_are_lines_of_their_own() -> None:
    throttles = (DeviceThrottle(8, 0, "rbps", 1 << 20), DeviceThrottle(8, 0, "wiops", 100))
    settings = make_settings(jail.UNLIMITED, GRANT, throttles)
    lines = [each.value for each in settings if each.file == "io.max"]
    assert lines == ["8:0 rbps=1048576", "8:0 wiops=100"]


def test_without_its_controller_nothing_is_written() -> None:
    words: dict[str, Any] = {"memory": "1g", "pids_limit": 9, "cpus": 1, "cpu_shares": 9}
    words |= {"cpuset_cpus": "0", "blkio_weight": 100}
    assert write(frozenset(), **words) == {}


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-2,4", {0, 1, 2, 4}), ("3,1", {1, 3}), ("7-7", {7})]
)
def test_processors_are_named_as_docker_does(text: str, cpus: set[int]) -> None:
    assert parse_cpuset(text) == cpus


@given(st.frozensets(st.integers(0, 65535), min_size=1, max_size=20))
def test_a_list_of_processors_comes_back_as_it_was(cpus: frozenset[int]) -> None:
    assert parse_cpuset(format_cpuset(cpus)) == cpus


@pytest.mark.parametrize(
    "words",
    [
        {"cpus": 0},
        {"cpus": "0.001"},
        {"cpus": "many"},
        {"cpus": True},
        {"cpu_shares": 1},
        {"cpu_shares": 262145},
        {"cpuset_cpus": ""},
        {"cpuset_cpus": "2-1"},
        {"cpuset_cpus": "0,"},
        {"cpuset_cpus": "0-99999"},
        {"cpuset_cpus": [-1]},
        {"cpuset_cpus": [[0]]},
        {"cpuset_cpus": b"01"},
        {"cpuset_cpus": {0: 1}},
        {"blkio_weight": 9},
        {"blkio_weight": 1001},
        {"device_read_bps": ["/dev/sda"]},
        {"device_read_bps": "/dev/sda:1m"},
        {"device_read_bps": ["/dev/sda:fast"]},
        {"device_write_iops": ["/dev/sda:1m"]},
        {"device_write_iops": [":1"]},
    ],
    ids=str,
)
def test_a_limit_that_can_t_be_meant_is_one_clear_line(words: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        jail.make_spec(**words)
    assert str(caught.value).startswith(next(iter(words)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("room", "words", "what"),
    [
        (Room(memory_bytes=256 << 20), {"memory": "257m"}, "memory: 257.0 MiB .* 256.0 MiB"),
        (Room(pids=64), {"pids_limit": 64}, "pids_limit: 64 .* 63"),
        (Room(cpus=0.5), {"cpus": 0.6}, "cpus: 0.6 .* 0.5"),
        (Room(cpuset=frozenset({0})), {"cpuset_cpus": "0-1"}, "cpuset_cpus: 1 .* 0"),
    ],
)
def test_a_limit_above_the_parent_s_is_refused_with_both_figures(
    room: Room, words: dict[str, Any], what: str
) -> None:
    grant = Grant("given", MINE, ALL, room)
    with pytest.raises(SpecError, match=what) as caught:
        check_room(make_limits(jail.UNLIMITED, **words), grant)
    assert MINE in str(caught.value)
    check_room(make_limits(jail.UNLIMITED, **words), GRANT)
    check_room(jail.UNLIMITED, grant)


def test_more_processors_than_there_are_is_refused_as_docker_does() -> None:
    there = frozenset({0, 1})
    check_cpus(Limits(cpus=2, cpuset_cpus=there), there)
    with pytest.raises(SpecError, match=re.escape("cpus: 2.5; there are 2 to run on")):
        check_cpus(Limits(cpus=2.5), there)
    with pytest.raises(SpecError, match=re.escape("cpuset_cpus: 2 is not among those")):
        check_cpus(Limits(cpuset_cpus=frozenset({1, 2})), there)


def test_a_weight_that_no_scheduler_of_this_kernel_knows_is_held_by_nobody() -> None:
    spec = jail.make_spec(blkio_weight=100)
    for files, by in ((frozenset({"io.bfq.weight"}), "cgroup"), (frozenset[str](), "none")):
        grant = Grant("own", MINE, ALL, files=files)
        assert decide_mechanisms(spec, "single", grant)["blkio_weight"] == by
        written = {each.file for each in make_settings(spec.limits, grant)}
        assert written & {"io.weight", "io.bfq.weight"} == files


def decide(controllers: frozenset[str] | None, **words: Any) -> dict[str, str]:
    spec = jail.make_spec(**words)
    grant = None if controllers is None else Grant("own", MINE, controllers)
    return decide_mechanisms(spec, "single", grant)


def test_each_limit_falls_back_for_itself() -> None:
    """The cpu's time is counted in every cgroup, whichever controllers it has."""
    every = decide(ALL, cpus=1, cpuset_cpus="0", device_read_bps=["/dev/sda:1m"])
    assert {every[name] for name in ("memory", "cpu_time", "pids", "cpus")} == {"cgroup"}
    assert every["cpuset_cpus"] == every["device_read_bps"] == "cgroup"
    some = decide(frozenset({"pids"}), cpus=1, cpuset_cpus="0")
    assert (some["memory"], some["cpu_time"], some["pids"]) == ("watch+rlimit", "cgroup", "cgroup")
    assert (some["cpus"], some["cpuset_cpus"]) == ("none", "affinity")
    none = decide(None)
    assert (none["memory"], none["cpu_time"], none["pids"]) == ("watch+rlimit", "watch", "rlimit")


def test_what_nobody_limits_is_held_by_nobody() -> None:
    chosen = decide(ALL, limits=jail.UNLIMITED)
    assert {chosen[name] for name in ("memory", "cpu_time", "pids")} == {"none"}
    assert "cpus" not in chosen


def test_a_limit_of_the_cgroup_s_is_not_undercut_by_an_rlimit() -> None:
    """It would be the rlimit that refuses then, which nobody counts."""
    import resource

    limits = Limits()
    names = {
        number for number, _, _ in make_rlimits(limits, {"pids": "cgroup", "memory": "cgroup"})
    }
    assert not names & {resource.RLIMIT_NPROC, resource.RLIMIT_DATA}
    names = {number for number, _, _ in make_rlimits(limits, decide(None))}
    assert names >= {resource.RLIMIT_NPROC, resource.RLIMIT_DATA}
