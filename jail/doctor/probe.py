"""What is probed, what it is needed for, and the running of it in another process."""

from __future__ import annotations

import errno as codes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jail.cgroup.find import Candidate, find_own
from jail.cgroup.subtree import NO_TREE
from jail.doctor.cause.identity import map_words
from jail.doctor.cause.namespace import NEEDED_KERNEL
from jail.doctor.cause.resource import NEEDED_PYTHON
from jail.host import HostFacts

PROBE_TIMEOUT_S = 5.0
# Isolated from the user's environment and directory; told where jail itself lies.
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from jail.doctor.child import main; main()"


@dataclass(frozen=True)
class Probe:
    """One question. ``step`` names it to ``find_cause``.

    ``tier`` is the tier that can't be reached without it, None for an extra; of the probes with
    the same ``choice`` one is enough. ``feature`` says what is lost where it fails.
    """

    name: str
    step: str
    feature: str
    tier: int | None = None
    choice: str = ""

    @property
    def needed(self) -> str:
        return "required" if self.tier == 0 else "optional"


@dataclass(frozen=True)
class Outcome:
    """The answer: ``absent`` tells "not there" from "there, and failed"."""

    ok: bool
    detail: str = ""
    absent: bool = False
    errno: int | None = None
    step: str = ""


Runner = Callable[[Sequence[str], HostFacts], dict[str, Outcome]]

_ANY = "every jail"
_NETWORK = "network in jails (slirp4netns or pasta)"
_IDS = "ids of their own for jails, images with several users"
PROBES = (
    Probe("python", "python", _ANY, 0),
    Probe("kernel", "kernel", _ANY, 0),
    Probe("user namespace", "unshare user", _ANY, 0),
    Probe("uid map", "uid_map", _ANY, 0),
    Probe("mount namespace", "unshare mnt", _ANY, 0),
    Probe("pid namespace", "unshare pid", _ANY, 0),
    Probe("net namespace", "unshare net", _ANY, 0),
    Probe("ipc namespace", "unshare ipc", _ANY, 0),
    Probe("uts namespace", "unshare uts", _ANY, 0),
    Probe("cgroup namespace", "unshare cgroup", _ANY, 0),
    Probe("all namespaces at once", "clone", _ANY, 0),
    Probe("tmpfs", "mount tmpfs", _ANY, 0),
    Probe("proc", "mount proc", _ANY, 0),
    Probe("devpts", "mount devpts", _ANY, 0),
    Probe("pivot_root", "pivot_root", _ANY, 0),
    Probe("seccomp filter", "seccomp", _ANY, 0),
    Probe("libseccomp", "libseccomp", "policies are compiled with it", 0),
    Probe("session keyring", "keyring", _ANY, 0),
    Probe("overlay", "mount overlay", "writable layers without fuse-overlayfs"),
    Probe("mqueue", "mount mqueue", "message queues in jails"),
    Probe("time namespace", "unshare time", "a clock of the jail's own"),
    Probe("seccomp listener", "seccomp listener", "the supervisor's say in single calls"),
    Probe("landlock", "landlock", "a second wall around files and signals"),
    Probe("pidfd exit status", "pidfd info", "a program's end told by the kernel, not the agent"),
    Probe("filtered network", "gate rules", "networks with an allow-list"),
    Probe("newuidmap", "newuidmap", _IDS, 1),
    Probe("newgidmap", "newgidmap", _IDS, 1),
    Probe("/dev/net/tun", "/dev/net/tun", _NETWORK, 1),
    Probe("slirp4netns", "slirp4netns", _NETWORK, 1, "network"),
    Probe("pasta", "pasta", _NETWORK, 1, "network"),
    Probe("/dev/fuse", "/dev/fuse", "layers by fuse-overlayfs"),
    Probe("fuse-overlayfs", "fuse-overlayfs", "layers by fuse-overlayfs"),
    Probe("bwrap", "bwrap", "nothing but the comparing benchmark"),
    Probe("cgroup v2", "cgroup", "limits and accounts kept by the kernel", 2),
)


def run_probes(
    probes: Sequence[Probe], facts: HostFacts, runner: Runner | None = None
) -> dict[str, Outcome]:
    """An outcome for each probe: by the facts where they tell, else by trying."""
    known = {"python": probe_python, "kernel": probe_kernel}
    outcomes = {each.name: known[each.name](facts) for each in probes if each.name in known}
    names = [each.name for each in probes if each.name not in known]
    return {**outcomes, **(runner or attempt_in_child)(names, facts)}


def probe_python(facts: HostFacts) -> Outcome:
    version = ".".join(map(str, facts.python_version))
    return Outcome(facts.python_version[:2] >= NEEDED_PYTHON, version)


def probe_kernel(facts: HostFacts) -> Outcome:
    return Outcome(facts.kernel[:2] >= NEEDED_KERNEL, facts.kernel_release)


def attempt_in_child(
    names: Sequence[str], facts: HostFacts, timeout_s: float = PROBE_TIMEOUT_S
) -> dict[str, Outcome]:
    """Tries each name of ``jail.doctor.attempt.ATTEMPTS`` in a process of its own.

    Ends after ``timeout_s`` a name and a little, whatever the attempts do; what gave no answer
    has errno ETIMEDOUT.
    """
    order = {
        "names": list(names),
        "setting": make_setting(facts, timeout_s),
        "timeout_s": timeout_s,
    }
    try:
        said = _ask(json.dumps(order).encode(), (timeout_s + 1) * len(names) + 10)
    except OSError as error:  # not even one process more, or no file for its pipe
        words = f"no probing process: {error.strerror}"
        return dict.fromkeys(names, Outcome(False, words, errno=error.errno))
    lines = (json.loads(line) for line in said.split(b"\n") if line.endswith(b"}"))
    found = {line.pop("name"): Outcome(**line) for line in lines}
    silent = Outcome(False, "the probing process gave no answer", errno=codes.ETIMEDOUT)
    return {name: found.get(name, silent) for name in names}


def make_setting(facts: HostFacts, timeout_s: float = PROBE_TIMEOUT_S) -> dict[str, Any]:
    """What ``jail.doctor.attempt.Setting`` is made of, on the other side of the pipe."""
    granted = {"newuidmap": facts.subuids, "newgidmap": facts.subgids}
    maps = {
        name: list(map_words(facts, name)) if ranges else [] for name, ranges in granted.items()
    }
    own, flaw = read_own_cgroup(facts)
    return {
        "uid": facts.uid,
        "gid": facts.gid,
        "maps": maps,
        "helpers": dict(facts.helpers),
        "cgroup": str(own.path) if own else str(facts.cgroup.path) if facts.cgroup else None,
        "controllers": sorted(own.controllers) if own else [],
        "cgroup_flaw": flaw,
        "buses": list(facts.buses) if facts.systemd else [],
        "ipv6": facts.ipv6,
        "helper_timeout_s": timeout_s * 0.6,  # so that a helper's end is told before ours
    }


def read_own_cgroup(facts: HostFacts) -> tuple[Candidate | None, str]:
    """The one we sit in, or why it can't be the parent of jails: it is looked at from here, since
    the process that probes would be a stranger in it.
    """
    if facts.cgroup is None:
        return None, NO_TREE
    found = find_own(facts, {os.getpid()})
    return (None, found) if isinstance(found, str) else (found, "")


def _ask(order: bytes, timeout_s: float) -> bytes:
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOT, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(order, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=timeout_s)
    return said
