"""A host that can't do what a jail needs is told which line mends it, by the step that failed.

Each trouble is made for real, in a process or a namespace of its own. What the doctor says of the
same hosts is seen in ``tests/test_doctor_crippled.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.part import require

ROOT: Final = Path(__file__).resolve().parents[2]
RUN: Final = """
import json, sys, jail
from jail.doctor import find_cause
from jail.host import read_facts
try:
    result = jail.run(["true"], userns=sys.argv[1])
    print(json.dumps({"verdict": result.verdict}))
except jail.HostError as error:
    cause = find_cause(error.step, error.errno, read_facts())
    told = {"step": error.step, "text": str(error)}
    print(json.dumps({**told, "cause": cause.key, "lines": cause.lines} if cause else told))
"""


def run_jail(argv: list[str]) -> dict[str, Any]:
    """What became of a jail on a host that ``argv`` makes before it runs the rest of its words."""
    done = subprocess.run(
        argv,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def run_in_own_namespace(script: str) -> dict[str, Any]:
    require("unshare")
    script += '\nexec "$@"'
    shell = ["unshare", "-Urm", "sh", "-ec", script, "sh"]
    return run_jail([*shell, sys.executable, "-c", RUN, "single"])


def run_after(python: str, userns: str) -> dict[str, Any]:
    return run_jail([sys.executable, "-c", python + RUN, userns])


def test_a_jail_works_where_nothing_is_crippled() -> None:
    assert run_in_own_namespace(":") == {"verdict": "OK"}
    assert run_after("", "single") == {"verdict": "OK"}


@pytest.mark.parametrize("kind", ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"])
def test_a_host_that_allows_no_namespace_is_told_the_sysctl(kind: str) -> None:
    told = run_in_own_namespace(f"echo 0 > /proc/sys/user/max_{kind}_namespaces")
    assert told["step"] == "clone"
    assert any(f"user.max_{kind}_namespaces" in line for line in told["lines"]), told


def test_a_host_whose_proc_is_masked_is_told() -> None:
    told = run_in_own_namespace("mount --bind /dev/null /proc/kallsyms")
    assert told["step"] == "mount proc"
    assert told["lines"] == ["umount /proc/kallsyms"] or "systempaths" in told["lines"][0]


NO_NEW_PRIVS: Final = "from jail.kernel import process; process.prctl(38, 1)\n"
NO_PROCESS: Final = "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
REFUSE: Final = """
from jail.agent.kernel import load_filter, number
from jail.doctor.attempt import feature
from jail.kernel import process
process.prctl(38, 1)
load_filter(feature.refuse_call({call}))
"""


def test_helpers_without_their_setuid_rights_are_told() -> None:
    require("subuid")
    told = run_after(NO_NEW_PRIVS, "auto")
    assert told["step"] == "newuidmap"
    assert told["cause"] == "no-new-privs"


@pytest.mark.skipif(os.geteuid() == 0, reason="as root nothing is refused")
def test_processes_used_up_are_told() -> None:
    told = run_after(NO_PROCESS, "single")
    assert told["cause"] == "too-many-processes"


@pytest.mark.parametrize("call", ["mount_setattr", "openat2", "pivot_root"])
def test_a_filter_of_somebody_elses_that_refuses_a_step_is_an_error(call: str) -> None:
    """What an old container engine does to calls it doesn't know."""
    numbers = {"mount_setattr": "442", "openat2": "437", "pivot_root": "number(155, 41)"}
    told = run_after(REFUSE.format(call=numbers[call]), "single")
    assert "verdict" not in told
    assert told["step"]
    assert told["text"]
