"""Namespaces and capabilities: the jail's are its own, and a program gets no more of them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from jail import Jail, Supervisor
from jail.host import read_facts
from tests.attacks.payload import run_inside, run_outside
from tests.conftest import OpenJail
from tests.part import not_exercised, require
from tests.probe import Call, Probe, make_call

NAMESPACES: Final = ("user", "mnt", "pid", "pid_for_children", "ipc", "uts", "net", "cgroup")
CLONE_FLAGS: Final = {
    "newns": 0x00020000,
    "newcgroup": 0x02000000,
    "newuts": 0x04000000,
    "newipc": 0x08000000,
    "newuser": 0x10000000,
    "newpid": 0x20000000,
    "newnet": 0x40000000,
}
SIGCHLD: Final = 17
NETWORK_ADMIN: Final = ("unshare", "-Urn")


async def read_namespaces(jail: Jail) -> dict[str, str]:
    """name → inode, as a program sees its own."""
    script = "cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done"
    result = await jail.run(["sh", "-c", script])
    return dict(line.split() for line in result.stdout.decode().splitlines())


async def test_every_namespace_is_the_jail_s_own(open_jail: OpenJail, root: str | Path) -> None:
    """NS-01. Disjoint from the host's and from another jail's."""
    async with open_jail(rootfs=root) as one, open_jail(rootfs=root) as other:
        mine, others = await read_namespaces(one), await read_namespaces(other)
    names = {*NAMESPACES, *(["time", "time_for_children"] if read_facts().time_ns else [])}
    assert names <= mine.keys()
    for name in names:
        assert mine[name].split(":")[0] == name.split("_")[0]
        assert mine[name] != os.readlink(f"/proc/self/ns/{name}"), name
        assert mine[name] != others[name], name


async def test_a_shared_network_is_all_that_is_shared(open_jail: OpenJail) -> None:
    """NS-01. ``network="host"`` gives the host's network namespace away, and no other."""
    async with open_jail(network="host") as j:
        mine = await read_namespaces(j)
    shared = {name for name in NAMESPACES if mine[name] == os.readlink(f"/proc/self/ns/{name}")}
    assert shared == {"net"}


SURVEY: Final = r"""
import glob, json, os, re, subprocess, sys, threading
deep = ["sh", "-c", "sh -c 'echo up; sleep 61; :' & wait"]
subprocess.Popen(deep, stdout=subprocess.PIPE).stdout.readline()
threading.Thread(target=threading.Event().wait, daemon=True).start()
if len(sys.argv) > 1:
    os.execv(sys.executable, [sys.executable, "-c", os.environ["SURVEY"]])
tasks = []
for path in glob.glob("/proc/[0-9]*/task/*/status"):
    text = open(path).read()
    tasks.append(dict(re.findall(r"(?m)^(Name|Cap\w+|NoNewPrivs|Seccomp):\s*(\S+)$", text)))
print(json.dumps(tasks), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("user", [None, "0"])
async def test_no_task_has_a_capability_or_lacks_the_filter(
    open_jail: OpenJail, user: str | None
) -> None:
    """NS-02. The agent, forks, threads, after exec, in a second run; whatever the uid is called."""
    argv = ["python3", "-c", SURVEY, "again"]
    async with open_jail(user=user) as j, j.start(["sleep", "60"]):
        result = await j.run(argv, env={"SURVEY": SURVEY}, timeout=20)
    tasks = json.loads(result.stdout)
    assert {"jail:agent", "sleep", "python3", "sh"} <= {task["Name"] for task in tasks}
    assert len(tasks) >= 6
    for task in tasks:
        sets = {name: int(value, 16) for name, value in task.items() if name.startswith("Cap")}
        assert sets == dict.fromkeys(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"], 0), task
        assert (task["NoNewPrivs"], task["Seccomp"]) == ("1", "2"), task


def make_nesting_calls() -> list[Call]:
    calls = []
    for name, flag in CLONE_FLAGS.items():
        calls.append(make_call("unshare", flag, label=f"unshare_{name}"))
        calls.append(make_call("clone", flag | SIGCHLD, label=f"clone_{name}"))
        calls.append(make_call("clone3", f"clone:{flag}", 64, label=f"clone3_{name}"))
    for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup"):
        calls.append(make_call("setns", f"ns:{name}", 0, label=f"setns_{name}"))
    return calls


async def test_no_namespace_can_be_made_or_entered(
    open_jail: OpenJail, root: str | Path, probe: Probe, probe_folder: Path
) -> None:
    """NS-03. By unshare, clone, clone3 and setns; outside each of these works."""
    calls = make_nesting_calls()
    exercised = probe.find_exercised(probe_folder, calls)
    if "unshare_newuser" not in exercised:
        not_exercised("no user namespaces here")
    async with open_jail(rootfs=root) as j:
        answers = await probe.try_calls(j, calls)
    assert len(exercised) > 20
    for label in exercised:
        assert answers[label] == ("ENOSYS" if label.startswith("clone3") else "EPERM"), label


# -- other processes ------------------------------------------------------------------------------


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the host, of our own id: without a jail any program of ours may end it."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    alive = process.poll() is None
    process.kill()
    process.wait()
    assert alive, "it was killed"


async def test_a_process_of_the_host_can_be_neither_seen_nor_touched(
    open_jail: OpenJail, probe: Probe, probe_folder: Path, victim: int
) -> None:
    """NS-07. Its number means nothing inside."""
    calls = [
        make_call("kill", victim, 0),
        make_call("kill", victim, 9, label="kill9"),
        make_call("pidfd_open", victim, 0),
        make_call("getpgid", victim),
        make_call("sched_getaffinity", victim, 8, "buf"),
        make_call("prlimit64", victim, 7, 0, "buf"),
        make_call("ptrace", 0x4206, victim, 0, 0),  # PTRACE_SEIZE
        make_call("process_vm_readv", victim, "bad", 0, "bad", 0, 0),
    ]
    harmless = [call for call in calls if call.label != "kill9"]
    outside = probe.try_calls_outside(probe_folder, harmless)
    assert outside["kill"] == outside["pidfd_open"] == outside["getpgid"] == "OK"
    async with open_jail() as j:
        inside = await probe.try_calls(j, calls)
        listed = await j.run(["sh", "-c", "cd /proc; echo [0-9]*"])
    assert len(listed.stdout.split()) == 2, "init and the shell"
    by_filter = {"ptrace": "EPERM", "process_vm_readv": "EPERM"}
    for label, answer in inside.items():
        assert answer == by_filter.get(label, "ESRCH"), label


async def test_killing_everybody_kills_nobody_outside_the_jail(
    open_jail: OpenJail, supervisor: Supervisor, userns: str, victim: int
) -> None:
    """NS-07. ``kill(-1, SIGKILL)``: the agent, the sibling, the host's processes all live."""
    script = "kill -9 -1; kill -9 1; echo done"
    async with open_jail() as sibling, sibling.start(["sh", "-c", "read x; echo $x"]) as honest:
        async with open_jail() as j, j.start(["sleep", "60"]) as same_jail:
            result = await j.run(["sh", "-c", script], timeout=10)
            assert result.stdout == b"done\n"
            assert (await same_jail.wait()).signal == 9, "its own jail is its own affair"
            assert (await j.run(["echo", "alive"])).stdout == b"alive\n"
        assert honest.stdin is not None
        assert honest.stdout is not None
        await honest.stdin.send_all(b"alive\n")
        assert await honest.stdout.receive_some() == b"alive\n"
    async with supervisor.open_jail(userns=userns) as another:
        assert (await another.run(["true"])).ok


# -- the jail's own network -----------------------------------------------------------------------


@functools.cache
def administer_outside() -> dict[str, str]:
    """As root of a bare namespace of one's own: most of the kernel's network is open to anybody."""
    require("unshare")
    answers: dict[str, str] = run_outside("administer", prefix=NETWORK_ADMIN)
    return answers


@pytest.mark.parametrize("user", [None, "0"])
async def test_nobody_administers_the_jail_s_network(open_jail: OpenJail, user: str | None) -> None:
    """NS-09. No link, address, qdisc, tun; no xfrm, netfilter, packet or raw socket."""
    exercised = {name for name, answer in administer_outside().items() if answer == "OK"}
    if not {"lo_down", "netfilter", "packet"} <= exercised:
        not_exercised("a network namespace of one's own is nobody's to administer here")
    async with open_jail(user=user) as j:
        answers = await run_inside(j, "administer")
        flags = await j.run(["cat", "/sys/class/net/lo/flags"])
        assert not flags.ok, "there is no /sys"
    refusals = {"EPERM", "EACCES", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ENOENT"}
    for name in exercised:
        assert answers[name] in refusals, (name, answers[name])
