"""For each kind of host we are not on: the failure it shows, and the exact lines that mend it."""

from __future__ import annotations

import errno as codes
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jail.doctor import Cause, find_cause
from jail.doctor.cause.namespace import apparmor_profile
from jail.host import CgroupFacts, make_facts
from jail.subid import IdRange

pytestmark = pytest.mark.beside

CGROUPS = Path("/sys/fs/cgroup")
SESSION = CGROUPS / "user.slice/user-1000.slice/session-1.scope"
SERVICE = CGROUPS / "user.slice/user-1000.slice/user@1000.service"

UBUNTU = {
    "distro": ("ubuntu", "debian"),
    "kernel": (6, 8, 0),
    "python": "/usr/bin/python3.12",
    "apparmor": True,
    "lsm_label": "unconfined",
    "sysctls": {"kernel.apparmor_restrict_unprivileged_userns": 1, "user.max_user_namespaces": 9},
}
RHEL = {
    "distro": ("rhel", "fedora"),
    "kernel": (5, 14, 0),
    "sysctls": {"user.max_user_namespaces": 0, "user.max_net_namespaces": 63_000},
}
DEBIAN_HARDENED = {
    "sysctls": {"kernel.unprivileged_userns_clone": 0, "user.max_user_namespaces": 63_000}
}
DEBIAN_10 = {**DEBIAN_HARDENED, "kernel": (4, 19, 0), "kernel_release": "4.19.0-27-amd64"}
RHEL_8 = {"kernel": (4, 18, 0), "kernel_release": "4.18.0-553.el8_10.x86_64"}
DOCKER = {"container": "docker", "filtered": True, "lsm_label": "docker-default (enforce)"}
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys")
DOCKER_UNFILTERED = {"container": "docker", "proc_covered": MASKED}
PODMAN = {"container": "podman", "filtered": True, "proc_covered": MASKED}
KUBERNETES = {"container": "kubernetes", "filtered": True}
NO_SUBIDS = {"subuids": (), "subgids": (), "free_subids": IdRange(100_000, 65_536)}
TAKEN_SUBIDS = {"subuids": (), "subgids": (), "free_subids": IdRange(165_536, 65_536)}
NO_HELPERS: dict[str, Any] = {"helpers": {}}
NO_NEW_PRIVS = {"no_new_privs": True}
ALL = ("cpu", "cpuset", "io", "memory", "pids")
UNDELEGATED = CgroupFacts(CGROUPS, SESSION, controllers=("memory", "pids"), tree_controllers=ALL)
SYSTEMD_USER = replace(UNDELEGATED, user_service=SERVICE, user_controllers=ALL)
OURS = replace(UNDELEGATED, writable=True)
BUS = {"buses": ("/run/user/1000/bus",)}
DROP_IN = (
    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | "
    "sudo tee /etc/systemd/system/user@.service.d/delegate.conf"
)


def give(*controllers: str) -> CgroupFacts:
    """What the user's service manager has."""
    return replace(SYSTEMD_USER, user_controllers=controllers)


V1_ONLY = CgroupFacts(CGROUPS / "unified", CGROUPS / "unified", controllers=("hugetlb",))

TABLE: list[tuple[dict[str, Any], str, int | None, str]] = [
    # Ubuntu 24.04: the namespace is made, then everything in it is refused.
    (UBUNTU, "mount tmpfs", codes.EPERM, "sudo apparmor_parser -r /etc/apparmor.d/jail-python"),
    (UBUNTU, "uid_map", codes.EPERM,
     "profile jail-python /usr/bin/python3.12 flags=(unconfined) {"),
    (UBUNTU, "uid_map", codes.EACCES, "  userns,"),
    (UBUNTU, "lo up", codes.EPERM, "sudo tee /etc/apparmor.d/jail-python >/dev/null <<'END'"),
    (UBUNTU, "unshare", codes.EACCES, "abi <abi/4.0>,"),
    ({**UBUNTU, "lsm_label": "snap.x (enforce)"}, "mount tmpfs", codes.EACCES,
     "grep -rl 'snap.x' /etc/apparmor.d"),
    # RHEL and hardened hosts: no namespaces at all, or too few.
    (RHEL, "clone", codes.ENOSPC, "sudo sysctl -w user.max_user_namespaces=15000"),
    (RHEL, "unshare", codes.ENOSPC,
     "echo 'user.max_user_namespaces=15000' | sudo tee -a /etc/sysctl.d/50-jail.conf"),
    (RHEL, "unshare user", codes.EUSERS, "sudo sysctl -w user.max_user_namespaces=15000"),
    ({"sysctls": {"user.max_user_namespaces": 9, "user.max_net_namespaces": 0}}, "clone",
     codes.ENOSPC, "sudo sysctl -w user.max_net_namespaces=15000"),
    ({"sysctls": {"user.max_net_namespaces": 20_000}}, "unshare net", codes.ENOSPC,
     "sudo sysctl -w user.max_net_namespaces=40000"),
    (DEBIAN_HARDENED, "clone", codes.EPERM,
     "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    (DEBIAN_10, "unshare user", codes.EPERM,
     "echo 'kernel.unprivileged_userns_clone=1' | sudo tee -a /etc/sysctl.d/50-jail.conf"),
    # Kernels without what a jail is made of.
    (DEBIAN_10, "clone", codes.ENOSYS, "sudo reboot"),
    (RHEL_8, "mount overlay", codes.EPERM, "sudo reboot"),
    (RHEL_8, "mount tmpfs", codes.ENOSYS, "sudo reboot"),
    (RHEL_8, "kernel", None, "sudo reboot"),
    ({}, "clone", codes.EINVAL, "grep -E '_NS=' /boot/config-6.1.0-18-amd64"),
    ({}, "mount mqueue", codes.ENODEV, "sudo modprobe mqueue"),
    ({}, "mount overlay", codes.ENODEV, "sudo modprobe overlay"),
    ({}, "mount overlay", codes.EINVAL, "findmnt -T /home/alice/.cache/jail"),
    ({}, "seccomp listener", codes.EINVAL,
     "grep CONFIG_SECCOMP_FILTER /boot/config-6.1.0-18-amd64"),
    ({}, "seccomp listener", codes.EBUSY, "grep Seccomp /proc/self/status"),
    ({}, "landlock", codes.ENOSYS,
     "grep CONFIG_SECURITY_LANDLOCK /boot/config-6.1.0-18-amd64"),
    ({}, "landlock", None,
     "grep CONFIG_SECURITY_LANDLOCK /boot/config-6.1.0-18-amd64"),
    ({}, "landlock", codes.EOPNOTSUPP,
     """echo 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX '"lsm=landlock,$(cat"""
     """ /sys/kernel/security/lsm)"'"' | sudo tee /etc/default/grub.d/50-jail.cfg"""),
    ({"distro": ("fedora",)}, "landlock", codes.EOPNOTSUPP,
     'sudo grubby --update-kernel=ALL --args="lsm=landlock,$(cat /sys/kernel/security/lsm)"'),
    ({"distro": ("arch",)}, "landlock", codes.EOPNOTSUPP,
     "sudo grub-mkconfig -o /boot/grub/grub.cfg"),
    ({"kernel": (5, 15, 0)}, "landlock", codes.ENOSYS, "sudo reboot"),
    # What the network “filtered” is made of.
    ({}, "gate rules", codes.ENOENT,
     "sudo modprobe -a nf_tables nft_tproxy nft_reject_inet nft_limit nft_log"),
    ({}, "gate rules", codes.EPROTONOSUPPORT,
     "printf '%s\\n' nf_tables nft_tproxy nft_reject_inet nft_limit nft_log | "
     "sudo tee /etc/modules-load.d/jail.conf"),
    ({}, "gate log", codes.EINVAL, "sudo modprobe -a nfnetlink_log"),
    (UBUNTU, "gate rules", codes.EPERM,
     "sudo apparmor_parser -r /etc/apparmor.d/jail-python"),
    # Containers.
    (DOCKER, "clone", codes.EPERM,
     "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
     " --security-opt systempaths=unconfined ..."),
    (DOCKER, "mount tmpfs", codes.EACCES,
     "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
     " --security-opt systempaths=unconfined ..."),
    (DOCKER, "keyring", codes.EPERM,
     "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
     " --security-opt systempaths=unconfined ..."),
    (DOCKER, "clone", codes.ENOSYS,
     "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
     " --security-opt systempaths=unconfined ..."),
    (DOCKER_UNFILTERED, "mount proc", codes.EPERM,
     "docker run --security-opt systempaths=unconfined ..."),
    (PODMAN, "mount proc", codes.EPERM, "podman run --security-opt unmask=ALL ..."),
    (PODMAN, "clone", codes.EPERM,
     "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL"
     " --security-opt label=disable ..."),
    (KUBERNETES, "clone", codes.EPERM, "      seccompProfile: {type: Unconfined}"),
    ({**UBUNTU, **DOCKER}, "clone", codes.EPERM,
     "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
     " --security-opt systempaths=unconfined ..."),
    ({"container": "docker"}, "/dev/fuse", None, "docker run --device /dev/fuse ..."),
    ({"container": "lxc"}, "clone", codes.EPERM,
     "lxc config set CONTAINER security.nesting true"),
    ({"filtered": True}, "clone", codes.EPERM, "RestrictNamespaces=no"),
    ({"selinux": True}, "mount tmpfs", codes.EACCES, "sudo ausearch -m avc -ts recent"),
    ({}, "clone", codes.EPERM, "grep -E 'Seccomp|NoNewPrivs|CapBnd' /proc/self/status"),
    ({"proc_covered": ("/proc/kcore",)}, "mount proc", codes.EPERM, "sudo umount /proc/kcore"),
    # Subordinate ids and their helpers.
    (NO_SUBIDS, "newuidmap", None,
     "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice"),
    (TAKEN_SUBIDS, "newgidmap", None,
     "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 alice"),
    ({"subgids": ()}, "newgidmap", None, "sudo usermod --add-subgids 165536-231071 alice"),
    ({**NO_SUBIDS, "user": None}, "newuidmap", None,
     "echo '1000:100000:65536' | sudo tee -a /etc/subuid /etc/subgid"),
    ({**NO_SUBIDS, "subid_source": "sss"}, "newuidmap", None, "getsubids $(id -un)"),
    (NO_HELPERS, "newuidmap", codes.ENOENT, "sudo apt install uidmap"),
    ({**NO_HELPERS, "distro": ("rocky", "rhel", "centos", "fedora")}, "newgidmap", None,
     "sudo dnf install shadow-utils"),
    ({**NO_HELPERS, "distro": ("nixos",)}, "newgidmap", None, "sudo dnf install shadow-utils"),
    ({"helper_flaws": {"newuidmap": "unprivileged"}}, "newuidmap", None,
     "sudo setcap cap_setuid=ep /usr/bin/newuidmap"),
    ({"helper_flaws": {"newgidmap": "unprivileged"}}, "newgidmap", codes.EPERM,
     "sudo setcap cap_setgid=ep /usr/bin/newgidmap"),
    ({"helper_flaws": {"newuidmap": "nosuid"}}, "newuidmap", None,
     "sudo mount -o remount,suid $(findmnt -no TARGET -T /usr/bin/newuidmap)"),
    (NO_NEW_PRIVS, "newuidmap", None, "NoNewPrivileges=no"),
    ({**NO_NEW_PRIVS, "container": "docker"}, "newuidmap", None,
     "docker run ...    # without --security-opt no-new-privileges"),
    ({}, "newuidmap", None,
     "unshare -U sleep 9 & sleep 1; /usr/bin/newuidmap $! 0 1000 1 1 100000 65536"),
    # What runs out, and what is not installed.
    ({}, "clone", codes.EAGAIN, "ulimit -u"),
    ({}, "zygote", codes.EAGAIN, "ulimit -u"),
    ({}, "clone", codes.EMFILE, "ulimit -n 65536"),
    ({}, "unshare", codes.ENFILE, "sudo sysctl -w fs.file-max=1000000"),
    ({}, "clone", codes.ENOMEM, "free -m"),
    ({}, "keyring", codes.EDQUOT, "sudo sysctl -w kernel.keys.maxkeys=2000"),
    ({}, "rlimit", codes.EPERM, "ulimit -aH"),
    ({}, "zygote", None, "/usr/bin/python3.11 -I -c 'import msgpack, jail.zygote'"),
    ({"python_version": (3, 9, 2)}, "python", None, "sudo apt install python3"),
    (NO_HELPERS, "pasta", None, "sudo apt install passt"),
    ({**NO_HELPERS, "distro": ("arch",)}, "bwrap", None, "sudo pacman -S bubblewrap"),
    ({**NO_HELPERS, "distro": ("opensuse-leap", "suse")}, "slirp4netns", codes.ENOENT,
     "sudo zypper install slirp4netns"),
    ({}, "pasta version", None, "sudo apt install passt"),
    ({}, "pasta start", None, "unshare -Urn sleep 9 & sleep 1; pasta -f --config-net $!"),
    ({}, "slirp4netns start", None, "unshare -Urn sleep 9 & sleep 1; slirp4netns -c $! eth0"),
    ({}, "pasta uplink", None, "ip route show default"),
    ({}, "libseccomp", None, "sudo apt install libseccomp2"),
    ({}, "bind /srv/data", codes.ENOENT, "ls -ld /srv/data"),
    ({}, "bind /srv/data", codes.EACCES, "namei -l /srv/data"),
    ({}, "pivot_root", codes.EINVAL, "findmnt /"),
    ({}, "/dev/net/tun", None, "sudo modprobe tun"),
    ({}, "/dev/net/tun", codes.EACCES, "sudo chmod 0666 /dev/net/tun"),
    # cgroups: none is found.
    ({"cgroup": None}, "cgroup", None, "sudo reboot"),
    ({"cgroup": V1_ONLY, "systemd": False}, "cgroup", None, "cgroup_no_v1=all"),
    ({"cgroup": UNDELEGATED}, "cgroup", None, "sudo loginctl enable-linger alice"),
    ({"cgroup": UNDELEGATED, "user": None}, "cgroup", None, "sudo loginctl enable-linger 1000"),
    ({"cgroup": SYSTEMD_USER}, "cgroup", None, "sudo apt install dbus-user-session"),
    ({"cgroup": SYSTEMD_USER, "distro": ("fedora",)}, "cgroup", None,
     "sudo dnf install dbus-broker"),
    ({"cgroup": give("pids")}, "cgroup", None, DROP_IN),
    ({"cgroup": give(), **BUS}, "cgroup", None, DROP_IN),
    ({"cgroup": give("cpu", "memory", "pids"), **BUS}, "cgroup", None, DROP_IN),
    ({"cgroup": SYSTEMD_USER, **BUS}, "cgroup", None,
     "systemd-run --user --scope -p Delegate=yes jail doctor"),
    ({"cgroup": SYSTEMD_USER, **BUS}, "cgroup", codes.EACCES,
     "systemd-run --user --scope -p Delegate=yes jail doctor"),
    ({"cgroup": UNDELEGATED, "systemd": False}, "cgroup", codes.EACCES,
     "sudo chown alice /sys/fs/cgroup/jail /sys/fs/cgroup/jail/cgroup.procs "
     "/sys/fs/cgroup/jail/cgroup.subtree_control"),
    ({"cgroup": OURS, "systemd": False}, "cgroup", None,
     f"jail run --cgroup-parent {SESSION} ..."),
    ({"cgroup": OURS, "uid": 0, **BUS}, "cgroup", None,
     "systemd-run --scope -p Delegate=yes jail doctor"),
    ({"cgroup": OURS, "uid": 0}, "cgroup", None, "apt install dbus"),
    # One was found, and then the kernel refuses.
    ({"cgroup": OURS}, "cgroup", codes.EAGAIN,
     "grep . $(find /sys/fs/cgroup -name cgroup.max.depth -o -name cgroup.max.descendants) "
     "| grep -v max$"),
    ({"cgroup": OURS}, "cgroup", codes.ENOENT, "cat /sys/fs/cgroup/…/cgroup.subtree_control"),
    ({"cgroup": OURS}, "cgroup memory.max", codes.ENOENT,
     "cat /sys/fs/cgroup/…/cgroup.subtree_control"),
    ({"cgroup": OURS}, "cgroup cpuset.cpus", codes.EINVAL, "jail run --explain ..."),
]  # fmt: skip


@pytest.mark.parametrize(("host", "step", "errno", "line"), TABLE)
def test_the_remedy_says_the_exact_line(
    host: dict[str, Any], step: str, errno: int | None, line: str
) -> None:
    cause = find_cause(step, errno, make_facts(**host))
    assert cause is not None
    assert line in cause.lines
    assert f"    {line}" in cause.remedy


def cause_of(step: str, errno: int | None, **host: Any) -> Cause | None:
    return find_cause(step, errno, make_facts(**host))


def test_the_apparmor_lines_can_be_pasted_into_a_shell() -> None:
    cause = cause_of("uid_map", codes.EPERM, **UBUNTU)
    assert cause is not None
    assert cause.lines == (
        "sudo tee /etc/apparmor.d/jail-python >/dev/null <<'END'",
        "abi <abi/4.0>,",
        "include <tunables/global>",
        "",
        "profile jail-python /usr/bin/python3.12 flags=(unconfined) {",
        "  userns,",
        "}",
        "END",
        "sudo apparmor_parser -r /etc/apparmor.d/jail-python",
    )


def test_an_odd_interpreter_path_is_no_pattern_in_the_profile() -> None:
    (line,) = (each for each in apparmor_profile("/opt/my py/[3]/*") if each.startswith("profile"))
    assert line == r'profile jail-python "/opt/my py/\[3\]/\*" flags=(unconfined) {'


def test_apparmor_is_not_blamed_where_it_does_not_restrict() -> None:
    changes: list[dict[str, Any]] = [{"sysctls": {}}, {"uid": 0}]
    for change in changes:
        cause = cause_of("mount tmpfs", codes.EPERM, **{**UBUNTU, **change})
        assert cause is None or not cause.key.startswith("apparmor")


def test_a_named_but_unconfined_profile_is_no_confinement() -> None:
    label = "jail-python (unconfined)"
    cause = cause_of("mount tmpfs", codes.EPERM, lsm_label=label, apparmor=True)
    assert cause is None


def test_root_is_not_told_to_use_sudo() -> None:
    cause = cause_of("clone", codes.ENOSPC, uid=0, **RHEL)
    assert cause is not None
    assert cause.lines[0] == "sysctl -w user.max_user_namespaces=15000"
    assert not any("sudo" in line for line in cause.lines)


def test_a_host_without_known_trouble_gets_no_made_up_cause() -> None:
    for step in ("mount tmpfs", "sethostname", "capset", "setgroups", "gid_map"):
        assert cause_of(step, codes.EPERM) is None
    assert cause_of("mount devpts", codes.EBUSY) is None
    assert cause_of("no such step", None) is None


STEPS = sorted({row[1] for row in TABLE} | {"uid_map", "gid_map", "setgroups", "capset", "pasta"})
HOSTS = [row[0] for row in TABLE]


@given(st.sampled_from(STEPS), st.sampled_from([None, *codes.errorcode]), st.sampled_from(HOSTS))
def test_whatever_fails_the_answer_is_short_and_plain(
    step: str, errno: int | None, host: dict[str, Any]
) -> None:
    cause = find_cause(step, errno, make_facts(**host))
    if cause is None:
        return
    assert len(cause.title) <= 100
    assert len(cause.text) <= 420
    assert "\n" not in cause.text
    assert cause.lines


def test_one_key_means_one_remedy_on_a_host() -> None:
    """A report prints each cause once, by its key; paths that a step names are not probed."""
    for host in HOSTS:
        facts, seen = make_facts(**host), dict[str, Cause]()
        for step in STEPS:
            for errno in (None, *codes.errorcode):
                cause = None if step.startswith("bind ") else find_cause(step, errno, facts)
                if cause is not None:
                    assert seen.setdefault(cause.key, cause) == cause
