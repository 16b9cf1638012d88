"""What this host offers a jail, as far as looking can tell.

:func:`read_facts` reads a few dozen small files and starts nothing, so every command can afford
it. It does not try: whether a namespace can really be made is ``jail.doctor``'s question. Facts
are plain values, so a test can describe any host with :func:`make_facts`.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jail import place
from jail.kernel.landlock import landlock_abi
from jail.kernel.listener import is_listener_taken
from jail.place import CgroupFacts, find_helpers, read_line
from jail.policy.rule import Target
from jail.subid import IdRange, Subids, find_free_range, read_subids

__all__ = [
    "CgroupFacts",
    "HostFacts",
    "make_facts",
    "open_runtime_dir",
    "parse_kernel",
    "read_facts",
]

# Fixed, and none of it the user's: a newuidmap that a stranger put first in PATH is never run.
# /run/wrappers/bin is where NixOS keeps its setuid programs.
HELPER_PATH = (
    "/run/wrappers/bin",
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
)
HELPERS = (
    "newuidmap",
    "newgidmap",
    "getsubids",
    "slirp4netns",
    "pasta",
    "fuse-overlayfs",
    "bwrap",
)
SYSCTLS = (
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_pid_namespaces",
    "user.max_net_namespaces",
    "user.max_ipc_namespaces",
    "user.max_uts_namespaces",
    "user.max_cgroup_namespaces",
    "user.max_time_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
)
# What the top of /proc may hold that a jail must not read (or write: sysrq-trigger, acpi, ...).
PROC_SENSITIVE = (
    "acpi", "asound", "buddyinfo", "bus", "config.gz", "driver", "dynamic_debug", "fs",
    "interrupts", "iomem", "ioports", "irq", "kallsyms", "kcore", "key-users", "keys", "kmsg",
    "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "mtrr", "pagetypeinfo",
    "pressure", "sched_debug", "schedstat", "scsi", "slabinfo", "softirqs", "sys",
    "sysrq-trigger", "timer_list", "timer_stats", "tty", "vmallocinfo", "zoneinfo",
)  # fmt: skip


@dataclass(frozen=True)
class HostFacts:
    """Everything the planner and the doctor know about a host before they try anything.

    ``newuidmap`` and ``newgidmap`` are in ``helpers`` (name to absolute path, only those that
    exist), ``helper_flaws`` says why one of those two can't work (see
    :func:`jail.place.read_helper_flaws`); ``filtered`` that a seccomp filter already holds us
    (a container's or a service's), ``listener_taken`` that it has a listener, beside which the
    kernel gives us none. ``sysctls`` holds those of :data:`SYSCTLS` that this
    kernel has. ``container`` is ``""`` on a plain host, else what the signs say (``"docker"``,
    ``"podman"``, ...): a sign, not a proof. ``lsm_label`` is our own AppArmor profile or SELinux
    context. ``proc_sensitive`` are the names of :data:`PROC_SENSITIVE` found in /proc,
    ``proc_covered`` the mounts that hide parts of it. ``cgroup`` is None without a v2 tree.
    ``buses`` are the sockets by which systemd can be asked (see :func:`jail.place.read_buses`).
    ``process_limit`` and ``file_limit`` are our soft RLIMIT_NPROC and RLIMIT_NOFILE, -1 for none.
    ``cpus`` are the numbers of the processors that we may run on. ``landlock_abi`` is the version
    of Landlock's interface, 0 where it is missing or refused; ``mqueue`` says whether the kernel
    has POSIX message queues, ``ipv6`` that it speaks it.
    """

    kernel: tuple[int, int, int]
    kernel_release: str
    arch: str
    distro: tuple[str, ...]
    systemd: bool
    python: str
    python_version: tuple[int, int, int]
    uid: int
    gid: int
    user: str | None
    groups: tuple[int, ...]
    subuids: tuple[IdRange, ...]
    subgids: tuple[IdRange, ...]
    subid_source: str
    subid_warnings: tuple[str, ...]
    free_subids: IdRange | None
    helpers: Mapping[str, str] = field(hash=False)
    helper_flaws: Mapping[str, str] = field(hash=False)
    no_new_privs: bool
    filtered: bool
    listener_taken: bool
    time_ns: bool
    sysctls: Mapping[str, int] = field(hash=False)
    container: str
    apparmor: bool
    selinux: bool
    lsm_label: str
    proc_sensitive: tuple[str, ...]
    proc_covered: tuple[str, ...]
    process_limit: int
    file_limit: int
    cgroup: CgroupFacts | None
    buses: tuple[str, ...]
    cpus: frozenset[int]
    landlock_abi: int
    mqueue: bool
    ipv6: bool
    runtime_dir: Path
    cache_dir: Path

    @property
    def newuidmap(self) -> str | None:
        return self.helpers.get("newuidmap")

    @property
    def newgidmap(self) -> str | None:
        return self.helpers.get("newgidmap")

    @property
    def target(self) -> Target:
        """What system-call policies are read for here."""
        return Target(self.arch, self.kernel[:2])

    @property
    def can_map_subids(self) -> bool:
        """Ranges of both kinds are granted and the helpers to map them exist."""
        return bool(self.subuids and self.subgids and self.newuidmap and self.newgidmap)


def make_facts(**changes: Any) -> HostFacts:
    """The facts of an imaginary plain host, with ``changes``: for tests and ``--explain``.

    It is tier 1: Debian 12's kernel 6.1, user 1000 with one subordinate range, the helpers in
    /usr/bin, no cgroup delegation, no container.
    """
    plain = HostFacts(
        kernel=(6, 1, 0),
        kernel_release="6.1.0-18-amd64",
        arch="x86_64",
        distro=("debian",),
        systemd=True,
        python="/usr/bin/python3.11",
        python_version=(3, 11, 2),
        uid=1000,
        gid=1000,
        user="alice",
        groups=(1000,),
        subuids=(IdRange(100_000, 65_536),),
        subgids=(IdRange(100_000, 65_536),),
        subid_source="files",
        subid_warnings=(),
        free_subids=IdRange(165_536, 65_536),
        helpers={name: f"/usr/bin/{name}" for name in HELPERS},
        helper_flaws={},
        no_new_privs=False,
        filtered=False,
        listener_taken=False,
        time_ns=True,
        sysctls={name: 63_000 for name in SYSCTLS if name.startswith("user.")},
        container="",
        apparmor=False,
        selinux=False,
        lsm_label="",
        proc_sensitive=("kallsyms", "kcore", "keys", "sys", "sysrq-trigger", "timer_list"),
        proc_covered=(),
        process_limit=63_000,
        file_limit=1024,
        cgroup=None,
        buses=(),
        cpus=frozenset(range(4)),
        landlock_abi=2,
        mqueue=True,
        ipv6=True,
        runtime_dir=Path("/run/user/1000/jail"),
        cache_dir=Path("/home/alice/.cache/jail"),
    )
    return replace(plain, **changes)


@functools.cache
def read_facts(helper_path: tuple[str, ...] = HELPER_PATH) -> HostFacts:
    """This host's facts, read once per process (milliseconds; changes nothing).

    ``helper_path`` are the directories searched for helper programs; PATH is never used.
    """
    uname, uid, gid = os.uname(), os.geteuid(), os.getegid()
    user, home = _read_user(uid)
    helpers = find_helpers(HELPERS, helper_path)
    ask = helpers.get("getsubids")
    mountinfo, status = map(place.read_text, ("/proc/self/mountinfo", "/proc/self/status"))
    filtered = "\nSeccomp:\t2" in status
    subuids = read_subids("uid", user=user, uid=uid, own_id=uid, getsubids=ask)
    subgids = read_subids("gid", user=user, uid=uid, own_id=gid, getsubids=ask)
    return HostFacts(
        kernel=parse_kernel(uname.release),
        kernel_release=uname.release,
        arch=uname.machine,
        distro=place.parse_distro(place.read_text("/etc/os-release")),
        systemd=os.path.isdir("/run/systemd/system"),
        python=os.path.realpath(sys.executable),
        python_version=sys.version_info[:3],
        uid=uid,
        gid=gid,
        user=user,
        groups=tuple(os.getgroups()),
        subuids=subuids.ranges,
        subgids=subgids.ranges,
        subid_source=subuids.source,
        subid_warnings=subuids.warnings + subgids.warnings,
        free_subids=find_free_subids(subuids, subgids, (uid, gid)),
        helpers=helpers,
        helper_flaws=place.read_helper_flaws(helpers),
        no_new_privs="\nNoNewPrivs:\t1" in status,
        filtered=filtered,
        listener_taken=filtered and is_listener_taken(),
        time_ns=os.path.exists("/proc/self/ns/time"),
        sysctls=place.read_sysctls(SYSCTLS),
        container=place.read_container(),
        apparmor=_has_apparmor(),
        selinux=read_line("/sys/fs/selinux/enforce") == "1",
        lsm_label=read_line("/proc/self/attr/current"),
        proc_sensitive=tuple(n for n in PROC_SENSITIVE if os.path.exists(f"/proc/{n}")),
        proc_covered=place.find_proc_covers(mountinfo),
        process_limit=resource.getrlimit(resource.RLIMIT_NPROC)[0],
        file_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        cgroup=place.read_cgroup(uid, mountinfo),
        buses=place.read_buses(uid),
        cpus=frozenset(os.sched_getaffinity(0)),
        landlock_abi=_read_landlock_abi(),
        mqueue="\tmqueue\n" in place.read_text("/proc/filesystems"),
        ipv6=bool(place.read_text("/proc/net/if_inet6")),
        runtime_dir=place.read_runtime_dir(uid),
        cache_dir=place.read_cache_dir(uid, home),
    )


def open_runtime_dir(facts: HostFacts) -> Path:
    """Makes ``facts.runtime_dir`` (mode 0700) if it is missing and checks that it is ours alone.

    Raises :class:`jail.errors.HostError`; see :func:`jail.place.open_runtime_dir`.
    """
    return place.open_runtime_dir(facts.runtime_dir, facts.uid)


def parse_kernel(release: str) -> tuple[int, int, int]:
    """``"6.1.0-18-amd64"`` → ``(6, 1, 0)``; zeros for what can't be read."""
    found = re.match(r"([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?", release)
    major, minor, patch = found.groups(default="0") if found else ("0", "0", "0")
    return int(major), int(minor), int(patch)


def find_free_subids(subuids: Subids, subgids: Subids, own: tuple[int, int]) -> IdRange | None:
    """Ids free in both files, so that one range can be granted as uids and as gids."""
    ours = tuple(IdRange(number, 1) for number in own)
    return find_free_range((*subuids.taken, *subgids.taken, *ours))


def _read_user(uid: int) -> tuple[str | None, str]:
    """Name and home directory; a container's process may run under an id without either."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None, ""
    return entry.pw_name, entry.pw_dir


def _read_landlock_abi() -> int:
    try:
        return landlock_abi()
    except OSError:
        return 0


def _has_apparmor() -> bool:
    lsms = read_line("/sys/kernel/security/lsm").split(",")
    return "apparmor" in lsms or read_line("/sys/module/apparmor/parameters/enabled") == "Y"
