"""Why the host runs out of something, hands out no cgroup, or lacks a program or feature."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule, set_sysctl
from jail.doctor.cause.package import install_lines
from jail.host import HostFacts

NEEDED_PYTHON = (3, 11)
PROGRAMS = ("slirp4netns", "pasta", "fuse-overlayfs", "bwrap", "libseccomp")
CONTROLLERS = "cpu cpuset io memory pids"


def processes_exhausted(failure: Failure) -> Cause | None:
    """EAGAIN of clone(2): RLIMIT_NPROC, pids.max, threads-max and pid_max all answer it."""
    if failure.errno != codes.EAGAIN or failure.step == "cgroup":
        return None
    limit, cgroup = failure.facts.process_limit, failure.facts.cgroup
    where = f"{cgroup.path}/pids.max" if cgroup else "/sys/fs/cgroup/pids.max"
    return Cause(
        "too-many-processes",
        "no more processes may be started",
        f"You are at your process limit ({_count(limit)}, shared by everything you run), at your "
        "cgroup's, or the whole host is full. See which, and raise or free it:",
        ("ulimit -u", f"cat {where}", "cat /proc/sys/kernel/threads-max", "ulimit -u unlimited"),
    )


def files_exhausted(failure: Failure) -> Cause | None:
    if failure.errno == codes.ENFILE:
        return Cause(
            "too-many-files-on-host",
            "the whole host has no more open files",
            "All processes together are at the kernel's limit. Raise it:",
            set_sysctl("fs.file-max", 1_000_000),
        )
    if failure.errno != codes.EMFILE:
        return None
    return Cause(
        "too-many-files",
        "this process may open no more files",
        f"Its limit is {_count(failure.facts.file_limit)}. Raise it before you start jail:",
        ("ulimit -n 65536",),
    )


def memory_exhausted(failure: Failure) -> Cause | None:
    if failure.errno != codes.ENOMEM:
        return None
    return Cause(
        "no-memory",
        "the kernel has no memory for it",
        "The host, or the cgroup that jail runs in, is out of memory. See which, and free some:",
        ("free -m", "cat /proc/self/cgroup"),
    )


def cgroup_withheld(failure: Failure) -> Cause | None:
    if failure.step != "cgroup":
        return None
    facts = failure.facts
    found = facts.cgroup
    if failure.errno == codes.EBUSY:
        return Cause(
            "cgroup-busy",
            "this cgroup holds other processes of yours",
            "Controllers can only be handed on by a cgroup without processes (cgroups(7), “no "
            "internal processes”). Start jail in one of its own:",
            ("systemd-run --user --scope -p Delegate=yes jail doctor",),
        )
    if found is None or "memory" not in _offered(facts):
        return _no_controllers(facts)
    if found.user_service is not None and not found.delegated:
        return Cause(
            "cgroup-not-ours",
            "this session's cgroup belongs to the system",
            "Your own service manager may hand out cgroups; ask it for one and start jail in it:",
            ("systemd-run --user --scope -p Delegate=yes jail doctor",),
        )
    if facts.systemd:
        return Cause(
            "cgroup-not-delegated",
            "no cgroup is delegated to you",
            "Let systemd hand the controllers to every user's service manager, then log out and "
            "in again:",
            delegate_lines(),
        )
    return Cause(
        "cgroup-not-delegated",
        "no cgroup is delegated to you",
        "Make one that is yours and move your shell into it:",
        own_cgroup_lines(facts),
    )


def _offered(facts: HostFacts) -> set[str]:
    """The controllers that are on the v2 tree at all, as far as we can see from our place."""
    found = facts.cgroup
    if found is None:
        return set()
    seen = {*found.controllers, *found.user_controllers}
    # Below a cgroup that enables nothing we see none, though the root has them all.
    return seen if seen or found.path == found.mount else {"memory"}


def _no_controllers(facts: HostFacts) -> Cause:
    if facts.systemd:
        return Cause(
            "cgroup-v1",
            "the controllers are not on a cgroup v2 tree",
            "This host still gives them to cgroup v1, which can't be delegated safely. Boot with "
            "the unified tree:",
            (
                "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' "
                "/etc/default/grub",
                "sudo update-grub || sudo grub2-mkconfig -o /boot/grub2/grub.cfg",
                "sudo reboot",
            ),
        )
    return Cause(
        "cgroup-v1",
        "the memory and pids controllers are not on a cgroup v2 tree",
        "There is no v2 tree here, or v1 trees hold its controllers. Add this to the kernel's "
        "command line, restart, and mount the v2 tree:",
        ("cgroup_no_v1=all", "sudo mount -t cgroup2 none /sys/fs/cgroup"),
    )


def delegate_lines() -> tuple[str, ...]:
    """A drop-in for every user's service manager: systemd.resource-control(5), Delegate=."""
    directory = "/etc/systemd/system/user@.service.d"
    return (
        f"sudo mkdir -p {directory}",
        f"printf '[Service]\\nDelegate={CONTROLLERS}\\n' | sudo tee {directory}/delegate.conf",
        "sudo systemctl daemon-reload",
    )


def own_cgroup_lines(facts: HostFacts) -> tuple[str, ...]:
    mount = facts.cgroup.mount if facts.cgroup else "/sys/fs/cgroup"
    owner = facts.user or facts.uid
    return (
        f"echo '+cpu +memory +pids' | sudo tee {mount}/cgroup.subtree_control",
        f"sudo mkdir {mount}/jail",
        f"sudo chown {owner} {mount}/jail {mount}/jail/cgroup.procs "
        f"{mount}/jail/cgroup.subtree_control",
        f"echo $$ | sudo tee {mount}/jail/cgroup.procs",
    )


def program_missing(failure: Failure) -> Cause | None:
    step = failure.step
    if step not in PROGRAMS:
        return None
    if step in failure.facts.helpers and failure.errno != codes.ENOENT:
        return Cause(
            f"{step}-broken",
            f"{failure.facts.helpers[step]} is there but does not work",
            "It did not even tell its version. Install it anew:",
            install_lines(step, failure.facts.distro),
        )
    return Cause(
        f"{step}-missing",
        f"{step} is not installed",
        "Install it:",
        install_lines(step, failure.facts.distro),
    )


def feature_missing(failure: Failure) -> Cause | None:
    """Steps that only fail where the kernel was configured without them."""
    step, facts = failure.step, failure.facts
    missing = failure.errno in (codes.ENOSYS, codes.EINVAL, codes.EOPNOTSUPP, codes.ENOTTY, None)
    words = _FEATURES.get(step)
    if words is None or not missing:
        return None
    option, since = words
    return Cause(
        f"{step}-missing".replace(" ", "-"),
        f"this kernel has no {step}",
        f"It needs Linux {since} or later, configured with {option}:",
        (f"grep {option} /boot/config-{facts.kernel_release}",),
    )


_FEATURES = {
    "seccomp": ("CONFIG_SECCOMP_FILTER", "3.5"),
    "seccomp listener": ("CONFIG_SECCOMP_FILTER", "5.0"),
    "landlock": ("CONFIG_SECURITY_LANDLOCK", "5.13"),
    "keyring": ("CONFIG_KEYS", "2.6"),
    "pidfd info": ("CONFIG_PROC_FS", "6.15"),
}


def limit_above_hard(failure: Failure) -> Cause | None:
    if failure.step != "rlimit" or failure.errno != codes.EPERM:
        return None
    return Cause(
        "rlimit-above-hard",
        "a limit of the jail is above your own hard limit",
        "Ask for less, or let the administrator raise yours (limits.conf(5)). Yours are:",
        ("ulimit -aH",),
    )


def keys_exhausted(failure: Failure) -> Cause | None:
    if failure.step != "keyring" or failure.errno != codes.EDQUOT:
        return None
    return Cause(
        "too-many-keys",
        "you hold as many kernel keys as you may",
        "Each jail has a keyring of its own. Raise the limit:",
        (*set_sysctl("kernel.keys.maxkeys", 2000), *set_sysctl("kernel.keys.maxbytes", 200_000)),
    )


def zygote_dead(failure: Failure) -> Cause | None:
    if failure.step != "zygote":
        return None
    return Cause(
        "zygote-dead",
        "jail's own helper process did not start",
        "It is this Python, started anew without your environment. Its own words:",
        (f"{failure.facts.python} -I -c 'import msgpack, jail.zygote'", "jail doctor"),
    )


def python_old(failure: Failure) -> Cause | None:
    if failure.step != "python":
        return None
    version = ".".join(map(str, failure.facts.python_version))
    needed = ".".join(map(str, NEEDED_PYTHON))
    return Cause(
        "old-python",
        f"Python {version} is too old",
        f"jail needs Python {needed} or later. Install one beside yours:",
        install_lines("python3", failure.facts.distro),
    )


def _count(limit: int) -> str:
    return "none" if limit < 0 else str(limit)


RULES: tuple[Rule, ...] = (
    processes_exhausted,
    files_exhausted,
    memory_exhausted,
    cgroup_withheld,
    program_missing,
    feature_missing,
    limit_above_hard,
    keys_exhausted,
    zygote_dead,
    python_old,
)
