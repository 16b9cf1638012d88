"""Where jails' cgroups are: found in order, said, given back; and what can't be is said plainly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jail.cgroup.scope import show_last_bus
from tests.cgroup.inside import find_ours, list_scopes, run_in_own, run_with_parent, wait_until_gone
from tests.command import Done, run_jail, start_jail
from tests.sight import find_children, wait_until

SLOW_S = 20.0
"""this machine's processor is slow"""
LEAF = re.compile(r"jail-[0-9a-f]{8}\.\d+\.\d+\.\d+-\d+\.\d+")
REQUIRED = ("--require", "memory=cgroup", "--memory", "64m")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    wait_until_gone(SLOW_S)


@pytest.fixture
def no_bus() -> Iterator[None]:
    """As for a user without dbus-user-session."""
    bus = Path(show_last_bus(os.getuid()))
    aside = bus.with_name("bus.aside")
    bus.rename(aside)
    yield
    aside.rename(bus)


def parse_lines(done: Done) -> list[dict[str, Any]]:
    assert done.status == 0, (done.stdout, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_cgroup_part(stdout: bytes) -> str:
    """Of ``--explain``."""
    return stdout.decode().partition("\ncgroup:\n")[2].partition("\nlimits")[0]


# --- which one is taken ----------------------------------------------------------------------


def test_a_plain_session_is_given_a_scope() -> None:
    done = run_jail("--json", "-", *REQUIRED, "--", "cat", "/proc/self/cgroup")
    assert done.status == 0, done.stderr
    held = {name: done.json["enforced_by"][name] for name in ("memory", "pids", "cpu_time")}
    assert set(held.values()) == {"cgroup"}
    assert done.json["stdout"] == "0::/\n"
    said = read_cgroup_part(run_jail("--explain", "--", "true").stdout)
    assert "in a scope that the user's systemd is asked for (cpu, io, memory, pids)" in said


async def test_the_scope_holds_the_zygote_and_the_jails_and_we_stay() -> None:
    before = Path("/proc/self/cgroup").read_text()
    with start_jail("--", "sleep", "60") as process:
        await wait_until(lambda: any(map(LEAF.search, find_ours())), "a leaf", SLOW_S)
        (scope,) = list_scopes().split("\n")[0].split()[:1]
        assert scope.startswith(f"jail-{process.pid}-") and scope.endswith(".scope")
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == before
        (zygote,) = find_children(process.pid, "jail:zygote")
        assert f"/{scope}/jail-" in Path(f"/proc/{zygote}/cgroup").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) != 0
    assert Path("/proc/self/cgroup").read_text() == before


def test_a_cgroup_of_our_own_is_taken_and_given_back() -> None:
    done = run_in_own("""
result = jail.run(["true"], memory="64m")
tell(held=dict(result.enforced_by), **look())
async def main():
    async with jail.open_supervisor() as supervisor, supervisor.open_jail(memory="64m") as j:
        tell(path=j.plan.grant.path, origin=j.plan.grant.origin, **look())
trio.run(main)
tell(**look())
""")
    first, living, last = parse_lines(done)
    assert first["held"]["memory"] == "cgroup"
    for each in (first, last):
        assert each["procs"] == [each["pid"]]
        assert each["enabled"] == [] == each["below"]
    assert (living["origin"], living["path"]) == ("own", living["own"])
    assert living["procs"] == [] and {"cpu", "memory", "pids"} <= set(living["enabled"])
    assert [name for name in living["below"] if name.endswith("-host")]


@pytest.mark.parametrize(
    "name", ["$parent", "${parent#/sys/fs/cgroup}", "${parent#/sys/fs/cgroup/}"]
)
def test_a_given_parent_is_taken_by_its_path_or_its_name(name: str) -> None:
    done = run_with_parent(f"""
        run --json - --memory 64m --require memory=cgroup --cgroup-parent "{name}" -- true
        left >&2
        run --explain --cgroup-parent "{name}" -- true | grep -F "in $parent "
    """)
    assert done.status == 0, done.stderr
    assert done.stderr == "status 0\nstatus 0\n"
    assert json.loads(done.stdout.splitlines()[0])["enforced_by"]["memory"] == "cgroup"


def test_what_was_enabled_for_others_stays_enabled() -> None:
    done = run_with_parent("""
        echo +pids >"$parent/cgroup.subtree_control"
        run --cgroup-parent "$parent" -- true
        left
    """)
    assert (done.status, done.stdout) == (0, b"pids\n")


# --- several at once -------------------------------------------------------------------------


def test_two_supervisors_share_a_given_parent() -> None:
    done = run_with_parent("""
        $JAIL --cgroup-parent "$parent" --memory 64m --require memory=cgroup -- sleep 60 &
        until_ '[ -n "$(leaves)" ]'
        run --cgroup-parent "$parent" --memory 64m --require memory=cgroup -- true
        cat "$parent/cgroup.subtree_control"
        kill $!
        wait $! || true
        left
    """)
    assert done.status == 0 and done.stderr.startswith("status 0\n"), done.stderr
    assert done.stdout == b"cpu io memory pids\n", "the first one's, while it lives"


def test_a_killed_zygote_s_parent_is_given_back() -> None:
    done = run_with_parent("""
        run --cgroup-parent "$parent" -- sleep 60 &
        until_ '[ -n "$(leaves)" ]'
        kill -9 $(cat "$parent"/jail-*-host/cgroup.procs)
        wait
        left
    """)
    assert (done.status, done.stdout) == (0, b"")
    assert done.stderr.endswith("status 125\n")


def test_a_supervisor_below_another_one_takes_the_same_parent() -> None:
    done = run_in_own("""
async def main():
    async with jail.open_supervisor() as supervisor, supervisor.open_jail() as j:
        argv = [sys.executable, "-m", "jail", "run", "--json", "-", "--memory", "64m", "true"]
        inner = await trio.run_process(argv, capture_stdout=True)
        explained = await trio.run_process([*argv[:4], "--explain", "true"], capture_stdout=True)
        works = await j.run(["true"])
        tell(inner=json.loads(inner.stdout)["enforced_by"]["memory"], works=works.ok,
             is_own=f"leaf of its own in {own}, " in explained.stdout.decode(), **look())
trio.run(main)
tell(**look())
""")
    during, after = parse_lines(done)
    assert (during["inner"], during["works"], during["is_own"]) == ("cgroup", True, True)
    assert {"memory", "pids"} <= set(during["enabled"]), "of use to the outer one"
    assert after["procs"] == [after["pid"]] and after["enabled"] == [] == after["below"]


# --- a supervisor that is killed -------------------------------------------------------------


async def test_a_killed_supervisor_leaves_no_scope() -> None:
    with start_jail("--", "sleep", "60") as process:
        await wait_until(lambda: any(map(LEAF.search, find_ours())), "a leaf", SLOW_S)
        process.kill()
        process.wait()
    wait_until_gone(SLOW_S)


async def test_a_killed_supervisor_and_zygote_leave_no_scope() -> None:
    with start_jail("--", "sleep", "60") as process:
        await wait_until(lambda: any(map(LEAF.search, find_ours())), "a leaf", SLOW_S)
        (zygote,) = find_children(process.pid, "jail:zygote")
        os.kill(zygote, signal.SIGKILL)
        process.kill()
        process.wait()
    wait_until_gone(SLOW_S)


@pytest.mark.parametrize("victims", ["$!", "$! $zygote"])
def test_what_the_killed_leave_in_a_given_parent_is_swept_at_the_next_start(victims: str) -> None:
    done = run_with_parent(f"""
        $JAIL --cgroup-parent "$parent" -- sleep 60 &
        until_ '[ -n "$(leaves)" ]'
        zygote=$(cat "$parent"/jail-*-host/cgroup.procs)
        kill -9 {victims}
        until_ '! grep -q . "$parent"/jail-*/cgroup.procs'
        find "$parent" -name 'jail-*' | wc -l
        run --cgroup-parent "$parent" -- true
        left
    """)
    assert done.status == 0, done.stderr
    was_left = int(done.stdout.split()[0])
    assert was_left >= 1, "of the zygote's own cgroup nobody is left to remove it"
    assert done.stdout.decode().splitlines()[1:] in ([], ["cpu io memory pids"])
    assert "status 0" in done.stderr


# --- what can't be ---------------------------------------------------------------------------

BAD_PARENTS = {
    "another's": ("", "/user.slice", "isn't yours"),
    "missing": ("", "$parent/nothing", "no such file or directory"),
    "a file": ("", "$parent/cgroup.procs", "is not a directory"),
    "another tree": ("", "/../../proc", "write a path without “..”"),
    "without controllers": ("mkdir $parent/a $parent/a/b", "$parent/a/b", "has no controllers"),
    "busy": (
        "sleep 60 & echo $! >$parent/cgroup.procs; trap 'kill $!; wait' EXIT",
        "$parent", "holds other processes (sleep ",
    ),
    "threaded": (
        "mkdir $parent/t; echo threaded >$parent/t/cgroup.type", "$parent/t", "threaded cgroup"
    ),
    "too deep": (
        "mkdir $parent/a; echo +memory >$parent/cgroup.subtree_control; "
        "echo 1 >$parent/cgroup.max.depth", "$parent/a", "cgroup.max.depth is 1",
    ),
    "too many": (
        "echo 1 >$parent/cgroup.max.descendants", "$parent", "cgroup.max.descendants is 1"
    ),
    "little memory": (
        "echo 32M >$parent/memory.max", "--memory 64m $parent",
        "is more than the cgroup /sys/fs/cgroup/",
    ),
    "few processes": (
        "echo 8 >$parent/pids.max", "--pids-limit 50 $parent", "pids_limit: 50 is more than"
    ),
    "less of a processor": (
        "echo '50000 100000' >$parent/cpu.max", "--cpus 1 $parent", "cpus: 1 is more than"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_PARENTS)
def test_a_parent_that_can_t_be_used_is_one_clear_error(what: str) -> None:
    prepare, words, said = BAD_PARENTS[what]
    *options, parent = words.split(" ")
    done = run_with_parent(f"""
        {prepare.replace("$parent", '"$parent"')}
        run {" ".join(options)} --cgroup-parent "{parent}" -- touch /tmp/ran
        find "$parent" -name 'jail-*'
    """)
    error, status = done.stderr.splitlines()
    assert (done.status, done.stdout, status) == (0, b"", "status 125")
    assert error.startswith("jail: ") and said in error


def test_a_controller_that_disappears_is_one_clear_error() -> None:
    done = run_with_parent("""
        run --cgroup-parent "$parent" --memory 64m -- sleep 30 &
        until_ '[ -n "$(leaves)" ]'
        until_ 'grep -q . $(leaves | sed s,$,/cgroup.procs,)'
        sleep 1
        echo -memory >"$parent/cgroup.subtree_control"
        wait
        left
    """)
    error, status = done.stderr.splitlines()[0], done.stderr.splitlines()[-1]
    assert (done.status, done.stdout, status) == (0, b"", "status 125")
    assert error.startswith("jail: ") and "memory" in error


@pytest.mark.usefixtures("no_bus")
def test_what_is_required_and_can_t_be_is_refused_with_the_remedy() -> None:
    done = run_jail(*REQUIRED, "--", "true")
    first, *more = done.stderr.splitlines()
    assert (done.status, done.stdout) == (125, b"")
    assert first.startswith(
        "jail: require memory=cgroup: here memory is enforced by watch+rlimit; "
    )
    assert "isn't yours" in first and "no D-Bus to ask systemd by" in first
    assert "      sudo apt install dbus-user-session" in more


@pytest.mark.usefixtures("no_bus")
def test_what_is_not_required_falls_back_and_says_so() -> None:
    done = run_jail("--json", "-", "--memory", "64m", "--", "true")
    assert done.status == 0
    assert done.json["enforced_by"]["memory"] == "watch+rlimit"
    explained = read_cgroup_part(run_jail("--explain", "--", "true").stdout)
    assert "none: nothing is delegated here" in explained


# --- the doctor ------------------------------------------------------------------------------


def ask_doctor(*before: str) -> tuple[dict[str, Any], list[str]]:
    argv = [*before, "jail", "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    report = json.loads(done.stdout)
    (probe,) = (each for each in report["probes"] if each["name"] == "cgroup v2")
    lines = [
        line for each in report["causes"] if each["key"] == probe["cause"] for line in each["lines"]
    ]
    return probe, lines


def test_the_doctor_tells_which_would_be_taken() -> None:
    probe, _ = ask_doctor()
    assert (probe["ok"], probe["detail"]) == (True, "scope: cpu io memory pids")
    in_own = ("systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", "--")
    probe, _ = ask_doctor(*in_own)
    assert probe["ok"] and re.fullmatch(
        r"own: /sys/fs/cgroup/.*\(cpu io memory pids\)", probe["detail"]
    )


@pytest.mark.usefixtures("no_bus")
def test_the_doctor_tells_why_there_is_none() -> None:
    probe, lines = ask_doctor()
    assert (probe["ok"], probe["cause"]) == (False, "no-dbus")
    assert "isn't yours" in probe["detail"]
    assert lines == ["sudo apt install dbus-user-session"]
