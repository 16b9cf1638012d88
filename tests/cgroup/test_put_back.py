"""Where jails get their cgroups on a host with systemd, and that it is as before when they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest

import jail
from jail import HostError, SpecError
from jail.cgroup.name import Name, Owner, make_name, parse_name
from jail.cgroup.owner import read_owner
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


def ask_doctor(*before: str) -> dict[str, Any]:
    script = "from jail.doctor import main_doctor; main_doctor(json=True)"
    argv = [*before, sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=55)
    report = json.loads(done.stdout)
    found: dict[str, Any] = next(each for each in report["probes"] if each["name"] == "cgroup v2")
    return found


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


async def test_from_a_session_a_scope_is_asked_for_and_gone_after() -> None:
    seat = Path("/proc/self/cgroup").read_text()
    async with jail.open_supervisor() as supervisor:
        result = await supervisor.run(["true"], memory="64m", require={"memory": "cgroup"})
        assert result.ok
        (scope,) = find_scopes()
        assert scope.is_relative_to(find_manager())
        assert Path("/proc/self/cgroup").read_text() == seat, "the application stays"
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


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ("/missing", "no such file or directory"),
        ("/user.slice", "isn't yours"),
        ("/cgroup.procs", "is not a directory"),
        ("/a/../b", "without"),
    ],
)
async def test_a_parent_that_can_t_be_is_the_callers_fault(parent: str, words: str) -> None:
    with pytest.raises(SpecError, match="cgroup parent") as caught:
        await run_below(parent)
    assert words in str(caught.value)


GIVEN: Final = """
import os, signal, sys, trio, jail
from pathlib import Path

home = Path("/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().removeprefix("0::"))
here, parent = home / "here", home / "parent"
for each in (here, parent):
    each.mkdir()
(here / "cgroup.procs").write_text(str(os.getpid()))
(home / "cgroup.subtree_control").write_text("+memory +pids")
read_fd, write_fd = os.pipe()
name, pid = sys.argv[1], os.fork()
if pid == 0:
    (parent / name).mkdir()
    (parent / name / "cgroup.procs").write_text(str(os.getpid()))
    os.write(write_fd, b"!")
    signal.pause()
os.read(read_fd, 1)

async def main():
    async with jail.open_supervisor() as supervisor:
        result = await supervisor.run(
            ["true"], cgroup_parent=str(parent), memory="64m", wall_time=50,
            require={"memory": "cgroup"},
        )
        assert result.ok, result
        assert not (parent / name).exists(), "a dead supervisor's jail was left"
        assert os.waitpid(pid, 0)[1] == 9
        assert any(each.name.endswith("-host") for each in parent.iterdir())
    assert not [each for each in parent.iterdir() if each.is_dir()]
    assert (parent / "cgroup.subtree_control").read_text().split() == []
    for folder, limit in ((home, "1"), (parent, "0")):
        (folder / "cgroup.max.depth").write_text(limit)
        try:
            async with jail.open_supervisor() as supervisor:
                await supervisor.run(["true"], cgroup_parent=str(parent))
        except jail.SpecError as error:
            assert "max.depth" in str(error), error
        else:
            raise AssertionError("deeper than allowed")
        (folder / "cgroup.max.depth").write_text("max")

trio.run(main)
print("fine")
"""


def test_a_given_parent_is_swept_used_and_put_back_and_not_deeper_than_allowed() -> None:
    here = read_owner()
    dead = make_name(Name(Owner(here.boot, here.pid_ns, here.pid, here.start - 1), 0, 7))
    assert run_in_scope(sys.executable, "-c", GIVEN, dead) == "fine\n"


KILLED: Final = """
import os, sys, trio, jail

async def main():
    async with jail.open_supervisor() as supervisor, supervisor.open_jail(memory="64m") as j:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(j.run, ["sleep", "600"])
            print(open("/proc/self/cgroup").read().strip(), flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


def test_nothing_lives_on_after_a_supervisor_was_killed() -> None:
    """Its scope is systemd's to remove as soon as it is empty, with all the leaves."""
    with subprocess.Popen(
        [*IN_SCOPE, sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        place = ROOT / process.stdout.readline().strip().removeprefix("0::/")
        scope = place.parent
        assert place.name.endswith("-host") and scope.is_dir()
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while scope.is_dir():
        assert time.monotonic() < deadline, sorted(scope.iterdir())
        time.sleep(0.05)


def test_the_doctor_finds_a_scope_from_a_session_and_leaves_none() -> None:
    found = ask_doctor()
    assert found["ok"], found
    assert found["detail"].startswith("scope: cpu")
    wait_until_no_scope_is_left()


def test_the_doctor_finds_the_scope_it_is_started_in() -> None:
    found = ask_doctor(*IN_SCOPE)
    assert found["ok"], found
    assert found["detail"].startswith("own: cpu")


def test_the_doctor_says_what_a_host_without_a_bus_lacks() -> None:
    hidden = ("unshare", "-Urm", "--keep-caps", "sh", "-ec")
    uid = os.getuid()
    script = f'mount -t tmpfs none /run/user/{uid}; exec unshare -U --map-user={uid} "$0" "$@"'
    found = ask_doctor(*hidden, script)
    assert not found["ok"]
    assert (found["step"], found["cause"]) == ("cgroup bus", "no-bus"), found
