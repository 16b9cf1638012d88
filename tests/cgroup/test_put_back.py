"""Both zygotes of a supervisor leave the cgroup they shared as it was; nobody else is moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest

import jail
from jail import HostError
from jail.cgroup.name import parse_name
from jail.host import read_facts
from tests.cgroup.test_host import IN_SCOPE, ROOT

DEADLINE_S: Final = 20.0
SHOW: Final = """
import json, os, sys, trio, jail
from pathlib import Path

def seat():
    return Path("/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().removeprefix("0::"))

def state():
    home = seat() if not seat().name.startswith("jail-") else seat().parent
    return {
        "home": str(home),
        "seat": seat().name,
        "names": sorted(each.name for each in home.iterdir() if each.is_dir()),
        "enabled": (home / "cgroup.subtree_control").read_text().split(),
        "procs": (home / "cgroup.procs").read_text().split(),
    }

async def main():
    told = [state()]
    async with jail.open_supervisor() as supervisor:
        for userns in ("auto", "single"):  # a zygote each
            result = await supervisor.run(
                ["true"], userns=userns, memory="64m", wall_time=50, require={"memory": "cgroup"}
            )
            assert result.ok, result
            told.append(state())
    told.append(state())
    print(json.dumps(told))

trio.run(main)
"""


def run_in_scope(*argv: str) -> str:
    done = subprocess.run([*IN_SCOPE, *argv], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def show_states(*argv: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(run_in_scope(*argv))
    return told


def find_scopes() -> list[Path]:
    """Other cgroups come and go meanwhile, which os.walk takes as it is."""
    return [Path(path) for path, _, _ in os.walk(ROOT) if fnmatch(path, "*/jail-*.scope")]


def wait_until_no_scope_is_left() -> None:
    deadline = time.monotonic() + DEADLINE_S
    while found := find_scopes():
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def find_manager() -> Path:
    place = read_facts().cgroup
    assert place is not None and place.user_service is not None
    return place.user_service


def test_the_scope_we_were_started_in_is_arranged_and_put_back() -> None:
    before, first, second, after = show_states(sys.executable, "-c", SHOW)
    assert before["names"] == before["enabled"] == []
    for during in (first, second):
        assert {"cpu", "memory", "pids"} <= set(during["enabled"])
        assert during["procs"] == []
        name = parse_name(during["seat"])
        assert name is not None and name.is_host
    assert after == before


def test_a_shell_beside_us_stays_where_it_is_and_a_scope_is_asked_for() -> None:
    script = 'python=$1; shift; "$python" "$@" || exit'
    told = show_states("sh", "-c", script, "sh", sys.executable, "-c", SHOW)
    assert len(told[0]["procs"]) == 2
    assert all(each["seat"] == told[0]["seat"] and not each["enabled"] for each in told)
    wait_until_no_scope_is_left()


async def test_a_parent_that_is_too_far_away_is_one_clear_error() -> None:
    """We sit in root's session: nobody but root may move a process from there."""
    parent = find_manager() / "app.slice"
    folder = parent / "given"
    folder.mkdir()
    try:
        with pytest.raises(HostError, match=r"cgroup parent .*: Permission denied") as caught:
            await run_below(str(folder))
        assert "systemd-run --user --scope" in (caught.value.remedy or "")
        assert [each for each in folder.iterdir() if each.is_dir()] == []
    finally:
        folder.rmdir()


async def run_below(parent: str) -> None:
    async with jail.open_supervisor() as supervisor:
        await supervisor.run(["true"], cgroup_parent=parent)
