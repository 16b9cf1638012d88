"""Which cgroup can be used: each flaw is told by its own sentence, and room is added up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.cgroup.find import (
    Candidate,
    decide_flaw,
    find_given,
    find_own,
    is_delegated,
    resolve_parent,
    show_processes,
)
from jail.cgroup.grant import Room
from jail.cgroup.name import make_host_name
from jail.cgroup.owner import read_owner
from jail.cgroup.room import (
    find_limit_on_cgroups,
    list_upwards,
    parse_cpu_list,
    parse_quota,
    read_room,
)
from jail.errors import SpecError
from jail.host import CgroupFacts, make_facts
from tests.cgroup_tree import CgroupTree, cgroups

pytestmark = pytest.mark.beside

__all__ = ["cgroups"]

NOBODY = 4_194_305
"""above PID_MAX_LIMIT: no process has it"""
GOOD = Candidate(Path("/c/a"), controllers=frozenset({"memory", "pids"}))

FLAWS = [
    ({"writable": False}, "isn't yours"),
    ({"kind": "threaded"}, "is a threaded cgroup (cgroup.type is “threaded”)"),
    ({"kind": "domain threaded"}, "“domain threaded”"),
    ({"kind": "domain invalid"}, "“domain invalid”"),
    ({"controllers": frozenset()}, "has no controllers: none of cpu cpuset io memory pids"),
    ({"strangers": ("bash 12",)}, "holds other processes (bash 12)"),
    ({"limit": "/c/cgroup.max.depth is 1"}, "has no room for cgroups: /c/cgroup.max.depth is 1"),
]


@pytest.mark.parametrize(("changes", "words"), FLAWS)
def test_each_flaw_is_told(changes: dict[str, Any], words: str) -> None:
    assert decide_flaw(GOOD) == ""
    assert words in decide_flaw(Candidate(**{**vars(GOOD), **changes}))


def test_the_root_may_hold_processes() -> None:
    root = Candidate(**{**vars(GOOD), "kind": "", "strangers": ("init 1",)})
    assert decide_flaw(root) == ""


def test_many_processes_are_counted_not_listed() -> None:
    names = tuple(f"sh {pid}" for pid in range(9))
    assert show_processes(names) == "sh 0, sh 1, sh 2 and 6 more"
    assert show_processes(names[:2]) == "sh 0, sh 1"


def test_our_own_cgroup_is_found(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    found = find_own(cgroups.facts(own), {os.getpid()})
    assert isinstance(found, Candidate)
    assert found.path == own
    assert found.controllers == {"cpu", "cpuset", "io", "memory", "pids"}, "and no hugetlb"


def test_below_another_supervisor_it_is_the_one_above(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    facts = cgroups.facts(cgroups.add(f"app.scope/{make_host_name(read_owner())}"))
    found = find_own(facts, {os.getpid()})
    assert isinstance(found, Candidate) and found.path == own


def test_who_else_sits_there_is_named(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope", procs=(NOBODY, 0))
    said = find_own(cgroups.facts(own), {os.getpid()})
    assert isinstance(said, str)
    assert said.startswith(f"own: {own} holds other processes (")
    assert f"process {NOBODY}" in said and "one of another pid namespace" in said


def test_the_hosts_root_is_nobodys_but_a_lone_roots(cgroups: CgroupTree) -> None:
    facts = cgroups.facts(cgroups.mount)
    said = find_own(facts, {os.getpid()})
    assert said == f"own: {cgroups.mount} is the host's own root"
    found = find_own(cgroups.facts(cgroups.mount, uid=0), {os.getpid()})
    assert isinstance(found, Candidate) and found.is_root
    assert isinstance(find_own(cgroups.facts(cgroups.mount, uid=0, systemd=True), set()), str)


def test_without_a_seat_in_the_tree_there_is_no_own(cgroups: CgroupTree) -> None:
    facts = cgroups.facts(cgroups.add("a"))
    cgroups.put(cgroups.mount / "a", "cgroup.procs", "")
    assert "not below" in str(find_own(facts, {os.getpid()}))


def test_what_a_user_may_write_is_his(cgroups: CgroupTree) -> None:
    """An older systemd marks nothing that it has delegated."""
    service = cgroups.add("user@1000.service")
    scope = cgroups.add("user@1000.service/a.scope")
    place = CgroupFacts(cgroups.mount, scope, user_service=service)
    assert is_delegated(make_facts(uid=1000, cgroup=place), cgroups.mount, scope)


def test_root_takes_only_what_is_delegated_on_a_host_with_systemd(cgroups: CgroupTree) -> None:
    unit = cgroups.add("system.slice/a.service")
    facts = make_facts(uid=0, cgroup=CgroupFacts(cgroups.mount, unit))
    assert not is_delegated(facts, cgroups.mount, unit)
    os.setxattr(unit, "user.delegate", b"1")
    assert is_delegated(facts, cgroups.mount, unit)
    plain = make_facts(uid=0, systemd=False, cgroup=CgroupFacts(cgroups.mount, unit))
    assert is_delegated(plain, cgroups.mount, unit)


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("/sys/fs/cgroup/a/b", "a/b"), ("/a/b", "a/b"), ("a/b", "a/b"), ("/", ""),
        ("/sys/fs/cgroup", ""), ("/sys/fs/cgroups/a", "sys/fs/cgroups/a"), ("a//b/", "a/b"),
    ],
)  # fmt: skip
def test_a_parent_is_a_path_of_the_mount_or_of_the_tree(parent: str, path: str) -> None:
    mount = Path("/sys/fs/cgroup")
    assert resolve_parent(mount, parent) == mount / path


@given(st.text())
def test_no_parent_leads_out_of_the_tree(parent: str) -> None:
    mount = Path("/sys/fs/cgroup")
    try:
        path = resolve_parent(mount, parent)
    except SpecError:
        return
    assert path.is_relative_to(mount) and ".." not in path.parts


def test_a_parent_that_can_be_used_is_found(cgroups: CgroupTree) -> None:
    here, parent = cgroups.add("a"), cgroups.add("b/c")
    facts = cgroups.facts(here)
    for text in (str(parent), "/b/c", "b/c"):
        assert find_given(facts, text, {os.getpid()}).path == parent


def test_a_parent_that_can_t_be_used_is_the_callers_fault(cgroups: CgroupTree) -> None:
    here = cgroups.add("a")
    facts = cgroups.facts(here)
    cgroups.add("busy", procs=(NOBODY,))
    cgroups.add("threaded", cgroup__type="threaded")
    cgroups.add("bare", cgroup__controllers="hugetlb")
    cgroups.add("flat/low", cgroup__max__depth="0")
    cgroups.add("foreign").chmod(0o555)
    (cgroups.mount / "plain").mkdir()
    said = {
        "/missing": "no such file or directory",
        "/a/cgroup.procs": "is not a directory",
        "/plain": "is no cgroup of the v2 tree at",
        "/busy": "holds other processes",
        "/threaded": "threaded",
        "/bare": "has no controllers",
        "/flat/low": "cgroup.max.depth is 0",
        "/foreign": "isn't yours",
        "/a/../busy": "without “..”",
        "": "without “..”",
        "a\0b": "without “..”",
    }
    for parent, words in said.items():
        with pytest.raises(SpecError, match="cgroup parent") as caught:
            find_given(facts, parent, {os.getpid()})
        assert words in str(caught.value), parent


def test_a_directory_of_another_filesystem_is_no_cgroup(cgroups: CgroupTree) -> None:
    facts = cgroups.facts(cgroups.add("a"))
    (cgroups.mount / "proc").symlink_to("/proc")
    with pytest.raises(SpecError, match="is no cgroup of the v2 tree"):
        find_given(facts, "/proc", {os.getpid()})


def test_room_is_the_least_of_all_above(cgroups: CgroupTree) -> None:
    cgroups.add("a", memory__max="1000", pids__max="max", cpu__max="150000 100000")
    low = cgroups.add(
        "a/b", memory__max="max", pids__max="30", cpu__max="max 100000",
        cpuset__cpus__effective="0-2,5",
    )  # fmt: skip
    assert read_room(cgroups.mount, low) == Room(1000, 30, 1.5, frozenset({0, 1, 2, 5}))
    assert read_room(cgroups.mount, cgroups.mount) == Room()


def test_room_for_cgroups_is_counted_as_the_kernel_does(cgroups: CgroupTree) -> None:
    low = cgroups.add("a/b")
    assert find_limit_on_cgroups(cgroups.mount, low) == ""
    cgroups.put(low.parent, "cgroup.max.depth", "1")
    assert find_limit_on_cgroups(cgroups.mount, low) == f"{low.parent}/cgroup.max.depth is 1"
    cgroups.put(low.parent, "cgroup.max.depth", "2")
    assert find_limit_on_cgroups(cgroups.mount, low) == ""
    cgroups.put(low.parent, "cgroup.max.descendants", "4")
    cgroups.put(low.parent, "cgroup.stat", "nr_descendants 3\nnr_dying_descendants 9")
    words = f"{low.parent}/cgroup.max.descendants is 4"
    assert find_limit_on_cgroups(cgroups.mount, low) == words


def test_those_above_end_at_the_mount() -> None:
    mount = Path("/sys/fs/cgroup")
    assert list(list_upwards(mount, mount / "a/b")) == [mount / "a/b", mount / "a", mount]
    assert list(list_upwards(mount, mount)) == [mount]


def test_quotas_and_lists_of_processors_are_read() -> None:
    assert parse_quota("50000 100000") == 0.5
    assert [parse_quota(text) for text in ("max 100000", "", "1", "1 0", "x y")] == [None] * 5
    assert parse_cpu_list("0-3,7") == {0, 1, 2, 3, 7}
    assert parse_cpu_list("") == frozenset()
    assert parse_cpu_list("x,1-,-2") == {1}


@given(st.frozensets(st.integers(0, 300), max_size=20))
def test_any_set_of_processors_reads_back(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(",".join(map(str, sorted(cpus)))) == cpus
