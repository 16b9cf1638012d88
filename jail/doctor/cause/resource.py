"""Why the host runs out of something, or lacks a program or feature."""

from __future__ import annotations

import errno as codes

from jail.doctor.cause.base import Cause, Failure, Rule, set_sysctl
from jail.doctor.cause.package import install_lines

NEEDED_PYTHON = (3, 11)
NEEDED_FOR_LANDLOCK = (5, 19)
PROGRAMS = ("slirp4netns", "pasta", "fuse-overlayfs", "bwrap", "libseccomp")


def processes_exhausted(failure: Failure) -> Cause | None:
    """EAGAIN of clone(2): RLIMIT_NPROC, pids.max, threads-max and pid_max all answer it."""
    if failure.errno != codes.EAGAIN or failure.step.startswith("cgroup"):
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


def network_helper_useless(failure: Failure) -> Cause | None:
    """It tells its version, and makes no network."""
    program, _, what = failure.step.partition(" ")
    if program not in _TRY_NETWORK or not what:
        return None
    if what == "uplink":
        return Cause(
            "no-uplink",
            "no interface here has a default route",
            f"{program} gives a jail the addresses of that interface. Connect this host, or use "
            "--network slirp4netns, which needs none. Its default routes:",
            ("ip route show default", "ip -6 route show default"),
        )
    if what == "version":
        return Cause(
            f"{program}-old",
            f"{program} is too old for a jail",
            "It has not all of the options that shut the host's side. Install a newer one, of a "
            "later release of your distribution if need be:",
            install_lines(program, failure.facts.distro),
        )
    return Cause(
        f"{program}-fails",
        f"{program} is there, and makes no network",
        "See whether it does without jail, and what it says:",
        (f"unshare -Urn sleep 9 & sleep 1; {_TRY_NETWORK[program]}",),
    )


_TRY_NETWORK = {"pasta": "pasta -f --config-net $!", "slirp4netns": "slirp4netns -c $! eth0"}


def landlock_missing(failure: Failure) -> Cause | None:
    """EOPNOTSUPP where it was built in, and not started: landlock_create_ruleset(2)."""
    facts = failure.facts
    if failure.step != "landlock" or failure.errno not in (codes.EOPNOTSUPP, codes.ENOSYS, None):
        return None
    if facts.kernel[:2] < NEEDED_FOR_LANDLOCK:
        return Cause(
            "landlock-old",
            f"Linux {facts.kernel_release} has no Landlock that a jail can use",
            "It needs Linux 5.19 or later: before, Landlock lets no file be moved from one "
            "directory into another. Install a newer kernel of your distribution and start it:",
            ("sudo reboot",),
        )
    if failure.errno == codes.ENOSYS:
        return None
    return Cause(
        "landlock-off",
        "Landlock is not among the security modules that this kernel was started with",
        "If it was built in (the first line tells), name it before the others on the kernel's "
        "command line, and start anew:",
        (
            f"grep CONFIG_SECURITY_LANDLOCK /boot/config-{facts.kernel_release}",
            *boot_lines("lsm=landlock,$(cat /sys/kernel/security/lsm)", facts.distro),
            "sudo reboot",
        ),
    )


def boot_lines(words: str, distro: tuple[str, ...]) -> tuple[str, ...]:
    """Lines that add to the kernel's command line, for the shell to expand."""
    if "fedora" in distro or "rhel" in distro:
        return (f'sudo grubby --update-kernel=ALL --args="{words}"',)
    line = f"""echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX '"{words}"'"'"""
    if "debian" in distro:
        return (f"{line} | sudo tee /etc/default/grub.d/50-jail.cfg", "sudo update-grub")
    return (
        f"{line} | sudo tee -a /etc/default/grub",
        "sudo grub-mkconfig -o /boot/grub/grub.cfg",
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
    "landlock": ("CONFIG_SECURITY_LANDLOCK", "5.19"),
    "keyring": ("CONFIG_KEYS", "2.6"),
    "pidfd info": ("CONFIG_PROC_FS", "6.15"),
}


def listener_taken(failure: Failure) -> Cause | None:
    """EBUSY of seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER means nothing else."""
    if failure.step != "seccomp listener" or failure.errno != codes.EBUSY:
        return None
    return Cause(
        "listener-taken",
        "a filter that we are under has the only listener",
        "A container manager's, or another sandbox's; the kernel gives a process one. Calls are "
        "refused as ever. The jail's agent traces its programs to name them; under a policy that "
        "lets programs trace they have no names, and no policy can be learned. Our filters:",
        ("grep Seccomp /proc/self/status",),
    )


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
    program_missing,
    network_helper_useless,
    landlock_missing,
    listener_taken,
    feature_missing,
    limit_above_hard,
    keys_exhausted,
    zygote_dead,
    python_old,
)
