"""Why there is no delegated cgroup, or why the kernel refuses what a jail's own is told. Pure."""

from __future__ import annotations

import errno as codes
from typing import Final

from jail.cgroup.grant import WANTED
from jail.doctor.cause.base import Cause, Failure, Rule
from jail.doctor.cause.package import install_lines
from jail.host import CgroupFacts, HostFacts

CONTROLLERS: Final = " ".join(sorted(WANTED))
NEEDED: Final = frozenset({"memory", "pids"})
IN_USER_SCOPE: Final = ("systemd-run --user --scope -p Delegate=yes jail doctor",)
IN_SCOPE: Final = ("systemd-run --scope -p Delegate=yes jail doctor",)


def setting_refused(failure: Failure) -> Cause | None:
    """``cgroup FILE``: a write to a file of the jail's own cgroup."""
    kind, _, file = failure.step.partition(" ")
    if kind != "cgroup" or file in ("", "parent"):
        return None
    if failure.errno in (codes.ENOENT, codes.ENODEV, codes.EACCES, codes.EPERM):
        return _changed(failure)
    return Cause(
        "cgroup-value",
        "the kernel does not take the value of a limit",
        "The file that it was written to says which limit it is; what may be written there is in "
        "the kernel's Documentation/admin-guide/cgroup-v2.rst. What jail writes:",
        ("jail run --explain ...",),
    )


def leaf_refused(failure: Failure) -> Cause | None:
    """The making of a jail's own cgroup, below one that was ours before."""
    if failure.step != "cgroup":
        return None
    if failure.errno == codes.EAGAIN:
        return Cause(
            "cgroup-full",
            "no more cgroups may be made here, or none as deep",
            "A cgroup above sets cgroup.max.descendants or cgroup.max.depth. See which:",
            (
                "grep . $(find /sys/fs/cgroup -name cgroup.max.depth -o "
                "-name cgroup.max.descendants) | grep -v max$",
            ),
        )
    if failure.errno in (codes.ENOENT, codes.ENODEV):
        return _changed(failure)
    return None


def tree_missing(failure: Failure) -> Cause | None:
    if failure.step != "cgroup":
        return None
    if failure.facts.cgroup is None or "memory" not in _offered(failure.facts):
        return _no_controllers(failure.facts)
    return None


def withheld(failure: Failure) -> Cause | None:
    """In the order in which the places are tried."""
    facts, found = failure.facts, failure.facts.cgroup
    if failure.step != "cgroup" or found is None:
        return None
    if not facts.systemd:
        return _busy(found) if found.writable else _not_delegated(facts)
    if facts.uid == 0:
        return _root_without_bus(facts) if not facts.buses else _root_in_a_unit()
    if found.user_service is None:
        return _no_user_service(facts)
    missing = _offered(facts) & WANTED - set(found.user_controllers)
    if missing & NEEDED:
        return _controllers_withheld(missing)
    if not facts.buses:
        return _no_bus(facts)
    return _controllers_withheld(missing) if missing else _not_ours()


def _offered(facts: HostFacts) -> set[str]:
    """The controllers that are on the v2 tree at all, as far as we can see from our place."""
    found = facts.cgroup
    if found is None:
        return set()
    seen = {*found.controllers, *found.user_controllers, *found.tree_controllers}
    # Below a cgroup that enables nothing we see none, though the root has them all.
    return seen if seen or found.path == found.mount else {"memory"}


def _changed(failure: Failure) -> Cause:
    found = failure.facts.cgroup
    where = f"{found.mount}/…" if found else "/sys/fs/cgroup/…"
    return Cause(
        "cgroup-changed",
        "a cgroup of jail's has lost a controller, or is gone",
        "Somebody has taken a controller away from the cgroup that was delegated to jail, or has "
        "removed it: a unit that was stopped or reloaded, or another program that thinks it owns "
        "it. See what is enabled for its children now, above it too:",
        (f"cat {where}/cgroup.subtree_control",),
    )


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


def _busy(found: CgroupFacts) -> Cause:
    """The shell that starts jail is such a process, too."""
    where = found.path
    return Cause(
        "cgroup-busy",
        "this cgroup is yours, and holds other processes than jail",
        "Controllers can only be handed on by a cgroup without processes (cgroups(7), “no "
        "internal processes”). Move them one down, and give jail the cgroup by its name:",
        (
            f"mkdir -p {where}/shell",
            f"for each in $(cat {where}/cgroup.procs); do echo $each >{where}/shell/cgroup.procs; "
            "done",
            f"jail run --cgroup-parent {where} ...",
        ),
    )


def _not_delegated(facts: HostFacts) -> Cause:
    return Cause(
        "cgroup-not-delegated",
        "no cgroup is delegated to you",
        "Make one that is yours, put your shell into a part of it, and give jail its name:",
        own_cgroup_lines(facts),
    )


def _root_in_a_unit() -> Cause:
    return Cause(
        "cgroup-not-delegated",
        "systemd has not delegated the cgroup that you are in, and makes no scope",
        "Start jail in a unit with Delegate=yes:",
        IN_SCOPE,
    )


def _root_without_bus(facts: HostFacts) -> Cause:
    return Cause(
        "no-dbus",
        "systemd can't be asked for a cgroup: there is no system bus",
        "Install it, or start jail in a unit with Delegate=yes:",
        (*install_lines("system bus", facts.distro), *IN_SCOPE),
    )


def _no_user_service(facts: HostFacts) -> Cause:
    return Cause(
        "no-user-manager",
        "no service manager runs for you, so there is nobody to delegate a cgroup",
        "systemd starts one for each login (pam_systemd(8)), but not for su, sudo, cron or a "
        "container's shell. Keep yours running:",
        (f"sudo loginctl enable-linger {facts.user or facts.uid}",),
    )


def _controllers_withheld(missing: set[str]) -> Cause:
    return Cause(
        "controllers-withheld",
        f"your service manager has not been given {' '.join(sorted(missing))}",
        "Let systemd hand the controllers to every user's service manager, then log out and in "
        "again (with lingering: restart):",
        delegate_lines(),
    )


def _no_bus(facts: HostFacts) -> Cause:
    return Cause(
        "no-dbus",
        "your service manager can't be asked for a cgroup: you have no D-Bus",
        "Install it, then log out and in again:",
        install_lines("user bus", facts.distro),
    )


def _not_ours() -> Cause:
    return Cause(
        "cgroup-not-ours",
        "this session's cgroup belongs to the system, and your service manager gave no other",
        "See what it says to the same question asked by its own program:",
        IN_USER_SCOPE,
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
    """The shell is below the parent, not in it: a process moves only within what is its user's."""
    mount = facts.cgroup.mount if facts.cgroup else "/sys/fs/cgroup"
    owner = facts.user or facts.uid
    return (
        f"echo '+cpu +memory +pids' | sudo tee {mount}/cgroup.subtree_control",
        f"sudo mkdir -p {mount}/jail/shell",
        f"sudo chown {owner} {mount}/jail {mount}/jail/cgroup.procs "
        f"{mount}/jail/cgroup.subtree_control",
        f"echo $$ | sudo tee {mount}/jail/shell/cgroup.procs",
        f"jail run --cgroup-parent {mount}/jail ...",
    )


RULES: tuple[Rule, ...] = (setting_refused, leaf_refused, tree_missing, withheld)
