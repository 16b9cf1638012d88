"""The doctor tries things for real, hurts nothing, and never waits for what hangs."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jail.doctor import PROBES, Outcome, Report, format_report, main_doctor, run_doctor
from jail.doctor.attempt import ATTEMPTS, Attempt, Setting
from jail.doctor.child import run_attempt
from jail.doctor.report import find_owned_ids
from jail.host import HostFacts, make_facts, read_facts
from jail.subid import IdRange

ROOT = Path(__file__).resolve().parents[1]
IDS = tuple(each for each in PROBES if each.name in ("newuidmap", "newgidmap"))

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="as root nothing is refused")


def outcome_of(report: Report, name: str) -> Outcome:
    return next(each.outcome for each in report.findings if each.probe.name == name)


def lines_of(report: Report) -> list[str]:
    return [line for cause in report.causes.values() for line in cause.lines]


def imagine(*failed: str, **facts: Any) -> Report:
    """The report on a host where just these probes fail."""

    def runner(names: Sequence[str], _: HostFacts) -> dict[str, Outcome]:
        return {name: Outcome(name not in failed, errno=None) for name in names}

    return run_doctor(make_facts(**facts), PROBES, runner)


@pytest.fixture(scope="module")
def report() -> Report:
    return run_doctor()


# --- the report -------------------------------------------------------------------------------


def test_every_probe_has_an_attempt_and_a_name_of_its_own() -> None:
    names = [each.name for each in PROBES]
    assert len(set(names)) == len(names)
    assert set(names) - {"python", "kernel"} == set(ATTEMPTS)


@pytest.mark.parametrize(
    ("failed", "tier", "status"),
    [
        ((), 2, 0),
        (("cgroup v2",), 1, 0),
        (("pasta",), 2, 0),
        (("pasta", "slirp4netns"), 0, 0),
        (("newgidmap",), 0, 0),
        (("newgidmap", "cgroup v2"), 0, 0),
        (("overlay", "landlock", "bwrap", "/dev/fuse", "time namespace"), 2, 0),
        (("proc",), None, 1),
        (("libseccomp",), None, 1),
    ],
)
def test_the_tier_is_the_highest_with_all_below_it(
    failed: tuple[str, ...], tier: int | None, status: int
) -> None:
    report = imagine(*failed)
    assert (report.tier, report.exit_status) == (tier, status)


def test_an_old_kernel_or_python_is_no_tier() -> None:
    assert imagine(kernel=(5, 13, 9)).exit_status == 1
    assert imagine(python_version=(3, 10, 0)).exit_status == 1


def test_the_json_has_stable_keys() -> None:
    data = json.loads(json.dumps(imagine("proc", "pasta").to_json()))
    assert list(data) == ["ok", "tier", "host", "tiers", "probes", "causes", "warnings"]
    probe = next(each for each in data["probes"] if each["name"] == "pasta")
    assert probe == {
        "name": "pasta",
        "ok": False,
        "status": "broken",
        "needed": "optional",
        "tier": 1,
        "feature": "network in jails (slirp4netns or pasta)",
        "step": "pasta",
        "errno": None,
        "detail": "",
        "cause": "pasta-broken",
    }
    assert data["tiers"][0] == {
        "tier": 0,
        "ok": False,
        "missing": ["proc"],
        "costs": "no jail can run on this host",
    }
    assert {each["key"] for each in data["causes"]} == {"pasta-broken"}


def test_the_text_is_aligned_and_says_each_remedy_once() -> None:
    text = format_report(imagine("newuidmap", "newgidmap", subuids=(), subgids=()))
    assert text.count("sudo usermod --add-subuids") == 1
    assert "stops: newuidmap, newgidmap" in text
    assert "This host reaches tier 0 of 2." in text
    table = [line for line in text.split("\n") if line.startswith(("  ok", "  broken"))]
    assert len({line.index(name) for line, name in zip(table, _names(), strict=True)}) == 1
    assert "\x1b" not in text


def _names() -> list[str]:
    return [each.name for each in PROBES]


def test_colours_are_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b[31mbroken" in format_report(imagine("proc"), colour=True)
    monkeypatch.setattr("jail.doctor.run_doctor", lambda: imagine("proc"))
    assert main_doctor() == 1
    assert "\x1b" not in capsys.readouterr().out


def test_what_a_helper_says_can_not_drive_the_terminal() -> None:
    def runner(names: Sequence[str], _: HostFacts) -> dict[str, Outcome]:
        return {name: Outcome(True, "\x1b]52;c;aGk=\x07\r\n") for name in names}

    text = format_report(run_doctor(make_facts(), PROBES, runner))
    assert "\x1b" not in text
    assert "?]52;c;aGk=???" in text


def test_a_real_account_inside_a_range_is_told() -> None:
    (warning,) = find_owned_ids("uid", [IdRange(100_000, 10)], [("a", 99_999), ("bob", 100_009)])
    assert "contains 100009, the uid of bob" in warning


def test_warnings_about_the_grant_reach_the_report() -> None:
    assert "odd" in format_report(imagine(subid_warnings=("odd",)))


# --- this host --------------------------------------------------------------------------------


@unprivileged
def test_this_host_runs_jails(report: Report) -> None:
    assert report.missing(0) == ()
    assert report.exit_status == 0


@unprivileged
def test_this_host_reaches_tier_1_unless_its_devices_are_closed(report: Report) -> None:
    closed = not os.access("/dev/net/tun", os.R_OK | os.W_OK)
    ungranted = not read_facts().can_map_subids
    if not closed and not ungranted:
        assert report.tier in (1, 2)
        return
    assert report.tier == 0
    if closed and os.path.exists("/dev/net/tun"):
        assert "sudo chmod 0666 /dev/net/tun" in lines_of(report)


@unprivileged
def test_the_whole_grant_is_mapped(report: Report) -> None:
    facts = read_facts()
    if not facts.can_map_subids:
        pytest.skip("no subordinate ids here")
    ids = 1 + sum(each.count for each in facts.subuids)
    assert outcome_of(report, "newuidmap").detail == f"{ids} ids"


def test_a_report_takes_about_a_second() -> None:
    start = time.monotonic()
    run_doctor()
    assert time.monotonic() - start < 10


def _traces() -> list[Any]:
    facts = read_facts()
    cgroups = facts.cgroup.path if facts.cgroup else Path("/nonexistent")
    return [
        Path("/proc/self/mountinfo").read_text(),
        sorted(path.name for path in cgroups.glob("jail-doctor-*")),
        sorted(path for path in os.listdir("/tmp") if path in ("lower", "upper", "work", "merged")),
        sorted(os.listdir("/proc/self/fd")),
        _count_children(),
        os.uname().nodename,
    ]


def _count_children() -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return len(children.read_text().split()) if children.exists() else 0


def test_probing_leaves_nothing_behind() -> None:
    before = _traces()
    run_doctor()
    assert _traces() == before


# --- attempts that go wrong themselves ----------------------------------------------------------


def _hang(_: Setting) -> str:
    signal.pause()
    return ""


def _crash(_: Setting) -> str:
    os.kill(os.getpid(), signal.SIGSYS)
    return ""


def _fail(_: Setting) -> str:
    raise ValueError("x" * 10_000)


def _refuse(_: Setting) -> str:
    raise PermissionError(errno.EPERM, "no")


@pytest.mark.parametrize(
    ("attempt", "answer"),
    [
        (lambda _: "y" * 10_000, {"ok": True, "detail": "y" * 200}),
        (_hang, {"ok": False, "detail": "no answer in 0.2 s"}),
        (_crash, {"ok": False, "detail": "it was killed (Bad system call)"}),
        (_fail, {"ok": False, "detail": ("ValueError('" + "x" * 10_000)[:200]}),
        (_refuse, {"ok": False, "detail": "[Errno 1] no", "errno": errno.EPERM}),
    ],
)
def test_an_attempt_always_has_an_answer(
    monkeypatch: pytest.MonkeyPatch, attempt: Attempt, answer: dict[str, Any]
) -> None:
    children = _count_children()
    monkeypatch.setitem(ATTEMPTS, "odd", attempt)
    assert run_attempt("odd", Setting(), timeout_s=0.2 if attempt is _hang else 5.0) == answer
    assert _count_children() == children


def test_the_cgroup_probe_removes_what_it_made(tmp_path: Path) -> None:
    setting = Setting(cgroup=str(tmp_path), controllers=["cpu", "memory", "pids"])
    answer = run_attempt("cgroup v2", setting, timeout_s=5.0)
    assert answer == {"ok": True, "detail": f"own: {tmp_path} (cpu memory pids)"}
    assert list(tmp_path.iterdir()) == []


def test_a_cgroup_without_memory_and_pids_is_not_enough(tmp_path: Path) -> None:
    setting = Setting(cgroup=str(tmp_path), controllers=["hugetlb"])
    answer = run_attempt("cgroup v2", setting, timeout_s=5.0)
    assert (answer["ok"], answer["step"]) == (False, "cgroup")
    assert "only: hugetlb" in answer["detail"]


def test_why_there_is_no_cgroup_is_told(tmp_path: Path) -> None:
    flaw = f"own: {tmp_path} isn't yours"
    answer = run_attempt("cgroup v2", Setting(cgroup="/c", cgroup_flaw=flaw), timeout_s=5.0)
    assert (answer["ok"], answer["step"], answer["detail"]) == (False, "cgroup", flaw)
    setting = Setting(cgroup="/c", cgroup_flaw=flaw, buses=[f"{tmp_path}/bus"])
    answer = run_attempt("cgroup v2", setting, timeout_s=5.0)
    said = f"scope: {tmp_path}/bus: No such file or directory; {flaw}"
    assert (answer["ok"], answer["step"], answer["detail"]) == (False, "cgroup", said[:200])


def test_a_host_without_the_tree_has_no_cgroup() -> None:
    answer = run_attempt("cgroup v2", Setting(cgroup_flaw="no tree"), timeout_s=5.0)
    assert answer == {"ok": False, "absent": True, "detail": "no cgroup v2 tree"}
