"""Hosts crippled for real: each trouble is made in a process or namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jail.doctor import PROBES, Outcome, Report, run_doctor
from jail.doctor.probe import Probe, attempt_in_child
from jail.host import HostFacts, make_facts, read_facts
from jail.subid import IdRange

ROOT = Path(__file__).resolve().parents[1]
IDS = tuple(each for each in PROBES if each.name in ("newuidmap", "newgidmap"))

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="as root nothing is refused")


def outcome_of(report: Report, name: str) -> Outcome:
    return next(each.outcome for each in report.findings if each.probe.name == name)


def lines_of(report: Report) -> list[str]:
    return [line for cause in report.causes.values() for line in cause.lines]


def doctor_in(script: str) -> dict[str, Any]:
    """The JSON report of a doctor started at the end of a script in its own user namespace."""
    doctor = f"{sys.executable} -c 'from jail.doctor import main_doctor; main_doctor(json=True)'"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", f"{script}\nexec {doctor}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def lines_in(report: dict[str, Any], probe: str) -> list[str]:
    finding = next(each for each in report["probes"] if each["name"] == probe)
    causes = {each["key"]: each["lines"] for each in report["causes"]}
    lines: list[str] = causes[finding["cause"]]
    return lines


@pytest.mark.parametrize("kind", ["user", "net", "mnt", "pid"])
def test_a_host_that_allows_no_namespaces_is_told_which_sysctl(kind: str) -> None:
    report = doctor_in(f"echo 0 > /proc/sys/user/max_{kind}_namespaces")
    assert not report["ok"]
    expected = f"sysctl -w user.max_{kind}_namespaces=15000"
    assert expected in lines_in(report, "all namespaces at once")


def test_a_used_up_limit_is_told_apart_from_a_forbidden_one() -> None:
    report = doctor_in("echo 1 > /proc/sys/user/max_net_namespaces\nexec unshare -n " + _again())
    probe = next(each for each in report["probes"] if each["name"] == "net namespace")
    assert (probe["step"], probe["errno"]) == ("unshare net", "ENOSPC")
    assert "lsns" in lines_in(report, "net namespace")


def _again() -> str:
    script = "from jail.doctor import main_doctor; main_doctor(json=True)"
    return f"{sys.executable} -c '{script}'"


def test_a_masked_proc_is_told() -> None:
    report = doctor_in("mount --bind /dev/null /proc/kallsyms")
    proc = next(each for each in report["probes"] if each["name"] == "proc")
    assert (proc["ok"], proc["step"], proc["errno"]) == (False, "mount proc", "EPERM")
    lines = lines_in(report, "proc")
    assert lines == ["umount /proc/kallsyms"] or "systempaths=unconfined" in lines[0]


def test_a_missing_device_is_told() -> None:
    report = doctor_in("mount -t tmpfs none /dev\nmknod /dev/null p")
    fuse = next(each for each in report["probes"] if each["name"] == "/dev/fuse")
    assert fuse["status"] == "missing"


def doctor_after(python: str) -> dict[str, Any]:
    """The JSON report of a doctor in a process that did something to itself first."""
    script = f"{python}\nfrom jail.doctor import main_doctor\nmain_doctor(json=True)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


NO_NEW_PRIVS = "from jail.kernel import process\nprocess.prctl(process.PR_SET_NO_NEW_PRIVS, 1)\n"


def test_a_filter_of_somebody_elses_is_told() -> None:
    """What a container engine or a service manager does to unshare(2)."""
    refuse = "load_filter(feature.refuse_call(number(272, 97)))"
    imports = "from jail.agent.kernel import load_filter, number\n"
    imports += "from jail.doctor.attempt import feature\n"
    report = doctor_after(f"{NO_NEW_PRIVS}{imports}{refuse}")
    assert not report["ok"]
    lines = lines_in(report, "user namespace")
    assert "RestrictNamespaces=no" in lines or "--security-opt seccomp=" in lines[0]


@unprivileged
def test_helpers_without_their_setuid_rights_are_told() -> None:
    if not read_facts().can_map_subids:
        pytest.skip("no subordinate ids here")
    report = doctor_after(NO_NEW_PRIVS)
    assert report["tier"] == 0
    finding = next(each for each in report["probes"] if each["name"] == "newuidmap")
    assert (finding["status"], finding["cause"]) == ("broken", "no-new-privs")


LIMIT = "import jail.doctor, resource\nresource.setrlimit(resource.RLIMIT_{}, ({}, {}))"


def test_files_used_up_are_told() -> None:
    report = doctor_after(LIMIT.format("NOFILE", 5, 5))
    assert lines_in(report, "user namespace") == ["ulimit -n 65536"]


@unprivileged
def test_processes_used_up_are_told() -> None:
    report = doctor_after(LIMIT.format("NPROC", 0, 0))
    assert lines_in(report, "user namespace")[0] == "ulimit -u"


# --- id helpers that fail ---------------------------------------------------------------------


def with_helper(tmp_path: Path, body: str) -> HostFacts:
    """This host with a newuidmap of our own making and a grant that nobody gave."""
    script = tmp_path / "newuidmap"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    grant = (IdRange(100_000, 65_536),)
    helpers = {"newuidmap": str(script), "newgidmap": str(tmp_path / "gone")}
    return replace(
        read_facts(), helpers=helpers, helper_flaws={}, subuids=grant, subgids=grant,
        no_new_privs=False,
    )  # fmt: skip


def try_ids(facts: HostFacts, timeout_s: float = 5.0) -> Report:
    return run_doctor(facts, IDS, partial(attempt_in_child, timeout_s=timeout_s))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit 1", "exit status 1"),
        ("echo no such grant >&2; exit 1", "no such grant"),
        ("echo all well; exit 0", "all well"),
        ("exit 0", "it says it did, but the map is another"),
        ("head -c 100000 /dev/urandom; exit 0", ""),
        ("kill -SEGV $$", "exit status -11"),
    ],
)
def test_a_helper_that_maps_nothing_is_broken(tmp_path: Path, body: str, said: str) -> None:
    report = try_ids(with_helper(tmp_path, body))
    outcome = outcome_of(report, "newuidmap")
    assert (outcome.ok, outcome.absent) == (False, False)
    assert said in outcome.detail
    assert "newuidmap-broken" in report.causes


def test_a_helper_that_is_gone_is_to_be_installed(tmp_path: Path) -> None:
    report = try_ids(with_helper(tmp_path, "exit 0"))
    assert outcome_of(report, "newgidmap").errno is not None
    assert "id-helpers-missing" in report.causes


def test_a_host_without_helpers_lacks_them(tmp_path: Path) -> None:
    report = try_ids(replace(with_helper(tmp_path, ""), helpers={}, distro=("debian",), uid=1000))
    assert {each.status for each in report.findings} == {"missing"}
    assert lines_of(report) == ["sudo apt install uidmap"]


def _running(word: str) -> list[str]:
    paths = (Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit())
    found = []
    for path in paths:
        try:
            found += [path.parent.name] if word.encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def _is_gone(word: str) -> bool:
    """A killed process may take a moment to end."""
    deadline = time.monotonic() + 5
    while _running(word) and time.monotonic() < deadline:
        os.sched_yield()
    return not _running(word)


def test_a_helper_that_hangs_is_killed(tmp_path: Path) -> None:
    report = try_ids(with_helper(tmp_path, "exec sleep 71.5"), timeout_s=1.0)
    assert outcome_of(report, "newuidmap").detail == "no answer in 0.6 s"
    assert _is_gone("71.5")


def test_a_helper_that_leaves_a_child_on_our_pipe_is_killed_with_it(tmp_path: Path) -> None:
    body = "sleep 72.5 & exec sleep 72.5"
    report = try_ids(with_helper(tmp_path, body), timeout_s=1.0)
    assert not outcome_of(report, "newuidmap").ok
    assert _is_gone("72.5")


def test_a_probing_process_that_says_nothing_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jail.doctor.probe._BOOT", "print('{'); raise SystemExit(1)")
    probe = Probe("tmpfs", "mount tmpfs", "", 0)
    report = run_doctor(make_facts(), (probe,))
    assert outcome_of(report, "tmpfs").detail == "the probing process gave no answer"
    assert report.exit_status == 1
