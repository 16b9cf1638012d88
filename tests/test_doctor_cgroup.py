"""The doctor's search for a cgroup: on a tree that answers like one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from jail.doctor.attempt import AbsentError, Setting, StuckError
from jail.doctor.attempt import cgroup as attempt
from jail.doctor.cause import find_cause
from jail.doctor.probe import make_setting
from jail.host import CgroupFacts, make_facts
from tests.cgroup_tree import CgroupTree, cgroups

__all__ = ["cgroups"]

NOBODY = 4_194_305
"""above PID_MAX_LIMIT: no process has it"""


def make_place(cgroups: CgroupTree, folder: Path, **changes: Any) -> Setting:
    return Setting(**make_setting(cgroups.facts(folder, **changes)))


def ask(setting: Setting) -> StuckError:
    with pytest.raises(StuckError) as caught:
        attempt.try_cgroup(setting)
    return caught.value


@pytest.fixture(autouse=True)
def _no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jail.cgroup.scope.list_addresses", lambda _: [f"unix:path={tmp_path}/bus"])


def test_our_own_is_found_and_nothing_is_left_in_it(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope")
    setting = make_place(cgroups, own)
    assert attempt.try_cgroup(setting) == "own: cpu cpuset io memory pids"
    assert cgroups.names(own) == set()


def test_the_doctors_own_processes_are_no_strangers() -> None:
    """They sit beside the attempt for as long as it lasts; where jails run they don't."""
    assert {os.getpid(), os.getppid()} <= attempt.read_family()
    assert len(attempt.read_family()) <= attempt.FAMILY


def test_a_cgroup_without_memory_and_pids_is_not_enough(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope", cgroup__controllers="cpu memory")
    stuck = ask(make_place(cgroups, own))
    assert stuck.step == "cgroup controllers"
    assert str(stuck) == f"own: {own} lacks pids (has: cpu memory)"


def test_who_sits_in_it_is_told_with_the_way_out(cgroups: CgroupTree) -> None:
    own = cgroups.add("app.scope", procs=(NOBODY,))
    facts = cgroups.facts(own)
    stuck = ask(Setting(**make_setting(facts)))
    assert (stuck.step, stuck.errno) == ("cgroup", errno.EBUSY)
    assert f"process {NOBODY}" in str(stuck)
    cause = find_cause(stuck.step, stuck.errno, facts)
    assert cause is not None and cause.key == "cgroup-busy"
    assert f"mkdir {own}/others" in cause.lines


def test_a_manager_without_a_bus_is_told_apart_from_no_manager(cgroups: CgroupTree) -> None:
    session = cgroups.add("session.scope")
    session.chmod(0o555)
    service = cgroups.add("user@1000.service")
    cgroups.facts(session)
    for user_service, key in ((service, "no-bus"), (None, "no-user-manager")):
        place = CgroupFacts(
            cgroups.mount, session, controllers=("memory", "pids"),
            user_service=user_service, user_controllers=("memory", "pids"),
        )  # fmt: skip
        facts = make_facts(cgroup=place)
        stuck = ask(Setting(**make_setting(facts)))
        cause = find_cause(stuck.step, stuck.errno, facts)
        assert cause is not None and cause.key == key
        assert "isn't yours" in str(stuck) and "no bus to ask systemd by" in str(stuck)
    session.chmod(0o755)


def test_without_a_v2_tree_it_is_absent() -> None:
    with pytest.raises(AbsentError):
        attempt.try_cgroup(Setting(**make_setting(make_facts())))
